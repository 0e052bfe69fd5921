"""Segmenter: what people have goes in, labels of the photos' own size come out, in few compilations."""

import jax
import numpy as np
import pytest
from PIL import Image
from small_models import region_program, small_config, small_model

from corrclip_jax.inference import label_runner, programs
from corrclip_jax.inference import segmenter as module
from corrclip_jax.inference.label_runner import LabelRunner
from corrclip_jax.inference.not_finite import NotFiniteError
from corrclip_jax.inference.segmenter import Segmenter
from corrclip_jax.io.photos import PhotoError
from corrclip_jax.io.region_maps import RegionError, write_regions
from corrclip_jax.params.structure import init_params
from corrclip_jax.regions.sources import SOURCES

CLASSES = ["cat", ["sky", "cloud"], "grass"]
SIZE = (60, 90)


def picture(seed=0, size=SIZE):
    coarse = np.random.default_rng(seed).integers(0, 256, (size[0] // 10, size[1] // 10, 3), dtype=np.uint8)
    return coarse.repeat(10, 0).repeat(10, 1)


def region_map(seed=0, size=SIZE, count=6):
    coarse = np.random.default_rng(seed).integers(0, count, (size[0] // 20, size[1] // 15))
    return coarse.repeat(20, 0).repeat(15, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def segmenter(folder):
    """Without SAM."""
    return Segmenter(folder, regions="none")


def test_every_kind_of_photo(segmenter, tmp_path):
    Image.fromarray(picture()).save(tmp_path / "a.png")
    for photo in (picture(), Image.fromarray(picture()), tmp_path / "a.png", str(tmp_path / "a.png")):
        result = segmenter(photo, CLASSES)
        assert result.labels.shape == result.scores.shape == result.regions.shape == SIZE
        assert (result.labels.dtype, result.scores.dtype) == (np.int32, np.float32)
        assert set(np.unique(result.labels)) <= {0, 1, 2}
        assert 0 < result.scores.min() <= result.scores.max() <= 1
        assert np.array_equal(result.photo, picture())
    assert result.class_names == ["cat", "sky", "grass"]


def test_an_opened_file_and_its_bytes_are_one_photo_and_an_iterator_is_several(segmenter, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(picture()).save(path)
    with path.open("rb") as file:
        assert np.array_equal(segmenter(file, CLASSES).photo, picture())
        assert np.array_equal(segmenter.regions(file).photo, picture())
        assert np.array_equal(segmenter([file], CLASSES)[0].photo, picture())
    assert np.array_equal(segmenter(path.read_bytes(), CLASSES).photo, picture())
    assert np.array_equal(segmenter.regions(path.read_bytes()).photo, picture())
    assert [len(segmenter(iter([path] * 2), CLASSES)), len(segmenter.regions(iter([path] * 2)))] == [2, 2]
    assert np.array_equal(dict(segmenter.stream([path.read_bytes()], CLASSES))[0].photo, picture())


@pytest.mark.parametrize("photos", [{"a.png"}, {"a.png": 1}, None, 7, np.zeros((2, 60, 90, 3), np.uint8)])
def test_what_is_neither_a_photo_nor_a_list_is_refused(segmenter, photos):
    for ask in (lambda: segmenter(photos, CLASSES), lambda: segmenter.regions(photos)):
        with pytest.raises(PhotoError):
            ask()


def test_a_stream_of_one_photo_is_refused(segmenter, tmp_path):
    (tmp_path / "a.png").write_bytes(b"some\nlines\n")
    with (tmp_path / "a.png").open("rb") as file:
        for photo in ("a.png", b"some", file):
            with pytest.raises(ValueError, match=r"one photo as a list, \[photo\]"):
                next(segmenter.stream(photo, CLASSES))


def test_probabilities_of_all_classes_at_points_of_the_photo(segmenter):
    result = segmenter(picture(size=(60, 130)), CLASSES)
    assert (result.probabilities.shape, result.probabilities.dtype) == ((3, 44, 96), np.float16)
    assert result.probabilities.astype(np.float32).sum(0).max() < 1.002  # one of two synonyms counts
    rows, columns = ((2 * np.arange(n) + 1) * of // (2 * n) for n, of in ((44, 60), (96, 130)))
    seen = result.scores[np.ix_(rows, columns)]
    assert np.abs(result.probabilities.max(0) - seen).max() < 1e-3  # float16
    largest = result.segments[0]
    assert largest.probability > largest.runner_up_probability > 0


def test_without_probabilities_labels_are_the_same_and_unsure_ones_become_class_0(segmenter):
    """One segmenter is without probabilities and with a background threshold."""
    classes = ["background", "cat", "dog"]
    sure = segmenter(picture(), classes)
    threshold = float(np.median(sure.scores))
    settings = {"probability_points": None, "background_threshold": threshold}
    unsure = Segmenter((segmenter.config, segmenter._params), **settings)(picture(), classes)
    assert unsure.probabilities is None and unsure.segments[0].probability is None
    clear = np.abs(sure.scores - threshold) > 1e-6
    wanted = np.where(sure.scores < threshold, 0, sure.labels)
    assert np.array_equal(unsure.labels[clear], wanted[clear])
    assert clear.mean() > 0.9 and (wanted != sure.labels).any() and wanted.any()


def test_a_mesh_in_the_context_changes_nothing(segmenter, folder):
    mesh = jax.make_mesh((1,), ("photos",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        result = Segmenter(folder, regions="none")(picture(), CLASSES)
    assert np.array_equal(result.labels, segmenter(picture(), CLASSES).labels)


@pytest.mark.parametrize("size", [(1, 1), (100, 4000)])
def test_extreme_sizes(segmenter, size):
    result = segmenter(np.full((*size, 3), 77, np.uint8), CLASSES)
    assert result.labels.shape == size
    assert np.isfinite(result.scores).all()


def test_a_list_of_mixed_sizes_keeps_its_order(segmenter):
    photos = [picture(1), picture(2, (60, 130)), picture(3), picture(4)]
    maps = [region_map(1), None, region_map(3), None]
    together = segmenter(photos, CLASSES, regions=maps)
    for photo, regions, result in zip(photos, maps, together, strict=True):
        alone = segmenter(photo, CLASSES, regions=regions)
        assert np.array_equal(result.labels, alone.labels)
        assert np.array_equal(result.photo, photo)
    assert segmenter([], CLASSES) == []


def test_batches_and_caps_on_regions_do_not_change_results(segmenter, monkeypatch):
    """Photos go together, the last batch is filled up, and more regions than theirs are allowed."""
    photos, maps = [picture(seed) for seed in range(3)], [region_map(seed) for seed in range(3)]
    alone = segmenter(photos, CLASSES, regions=maps)
    monkeypatch.setattr(programs, "images_per_device", lambda shape, limit: 2)
    with monkeypatch.context() as patch:
        patch.setattr(label_runner, "region_cap", lambda count, config: config.method.max_regions)
        together = segmenter(photos, CLASSES, regions=maps)
    for one, other in zip(alone, together, strict=True):
        assert np.array_equal(one.labels, other.labels)
        np.testing.assert_allclose(one.scores, other.scores, rtol=1e-4)
    assert [result.compiled for result in together] == [True, True, False]
    most = np.minimum(np.arange(60 * 90).reshape(SIZE) // 83, 64)
    assert len(np.unique(most)) == 1 + segmenter.config.method.max_regions
    largest, other = segmenter(photos[:2], CLASSES, regions=[most, maps[1]])
    assert largest.labels.min() >= 0 and not largest.compiled
    assert np.array_equal(other.labels, alone[1].labels)


def test_mixed_sizes_compile_few_programs(segmenter):
    sizes = [(90, 60), (60, 90), (89, 60), (60, 88), (90, 59), (59, 90)]
    photos = [picture(seed, (100, 100))[:h, :w] for seed, (h, w) in enumerate(sizes)]
    segmenter(picture(), CLASSES)
    before = segmenter._runner.programs.count
    results = segmenter(photos, CLASSES)
    assert [result.labels.shape for result in results] == sizes
    compiled = segmenter._runner.programs.count
    assert compiled - before == sum(result.compiled for result in results) == 1
    for photo, result in zip(photos[:3], results, strict=False):
        assert np.array_equal(segmenter(photo, CLASSES).labels, result.labels)
    segmenter(photos[::-1], CLASSES)
    assert segmenter._runner.programs.count == compiled


def test_photos_of_very_many_sizes_have_few_programs(segmenter):
    """As planned; none is compiled."""
    sizes = [(int(h), int(w)) for h, w in np.random.default_rng(0).integers(45, 200, (50, 2))]
    runner = LabelRunner(segmenter.config, segmenter._params, points=None)
    batches = runner._plan(sizes, [False] * len(sizes), False)
    assert sorted(index for batch in batches for index in batch.indices) == list(range(len(sizes)))
    assert 1 < len({batch.bucket for batch in batches}) <= 4


def test_a_stream_goes_on_after_photos_that_fail(segmenter, tmp_path):
    for name in "ac":
        Image.fromarray(picture(ord(name))).save(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_bytes(b"no")
    Image.fromarray(picture(9)).save(tmp_path / "d.jpg")
    cut = (tmp_path / "d.jpg").read_bytes()
    (tmp_path / "d.jpg").write_bytes(cut[: len(cut) // 2])  # its header is whole
    paths = [tmp_path / name for name in ("a.png", "b.png", "c.png", "d.jpg", "gone.png")]
    maps = [region_map(), None, np.zeros((3, 3), int), None, None]
    found = dict(segmenter.stream(paths, CLASSES, regions=maps))
    assert sorted(found) == [0, 1, 2, 3, 4]
    assert np.array_equal(found[0].labels, segmenter(paths[0], CLASSES, regions=region_map()).labels)
    assert [type(found[place]) for place in (1, 2, 3, 4)] == [PhotoError, RegionError, PhotoError, PhotoError]


def test_frames_of_an_iterator_come_in_order_with_the_labels_of_photos(segmenter):
    frames = [picture(seed) for seed in range(4)]
    alone = [segmenter(frame, CLASSES) for frame in frames]
    compiled = segmenter._runner.programs.count
    given = iter([*frames[:2], np.zeros((4, 4, 7, 2), np.uint8), *frames[2:]])
    found = list(segmenter.stream(given, CLASSES))
    assert [number for number, _ in found] == [0, 1, 2, 3, 4]
    assert isinstance(found.pop(2)[1], PhotoError)
    for (_, result), expected in zip(found, alone, strict=True):
        assert np.array_equal(result.labels, expected.labels)
        assert np.array_equal(result.photo, expected.photo)
    assert dict(segmenter.stream(frames[:1], CLASSES, newest=True))[0].labels.shape == SIZE
    assert segmenter._runner.programs.count == compiled
    with pytest.raises(ValueError, match="Choose a source"):
        next(segmenter.stream(iter(frames), CLASSES, track=True))
    with pytest.raises(ValueError, match="cannot be given for frames"):
        next(segmenter.stream(iter(frames), CLASSES, regions=[None]))


def test_frames_fill_up_batches_so_that_all_share_a_program(segmenter, monkeypatch):
    monkeypatch.setattr(programs, "images_per_device", lambda shape, limit: 4)
    runner = segmenter._runner
    assert runner.together(SIZE) == 4
    assert [batch.batch_size for batch in runner._plan([SIZE], [False], True)] == [4]
    assert [batch.batch_size for batch in runner._plan([SIZE], [False], False)] == [1]


def test_a_batch_that_does_not_fit_the_memory_is_halved(segmenter, monkeypatch):
    photos = [picture(seed) for seed in range(3)]
    alone = segmenter(photos, CLASSES)
    lengths = []

    def program(self, *arguments):
        def too_large(params, images, *others, **options):
            lengths.append(len(images))
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

        return too_large

    monkeypatch.setattr(LabelRunner, "_program", program)  # but for those that are compiled, of one photo
    monkeypatch.setattr(segmenter._runner.programs, "_largest", {})
    monkeypatch.setattr(programs, "images_per_device", lambda shape, limit: 4)
    for photo, result, expected in zip(photos, segmenter(photos, CLASSES), alone, strict=True):
        assert np.array_equal(result.photo, photo)
        assert np.array_equal(result.labels, expected.labels)
    assert lengths[0] == 4 and set(lengths) == {4, 2}


def test_given_regions_are_used_and_vote(segmenter, tmp_path):
    regions = region_map()
    result = segmenter(picture(), CLASSES, regions=regions)
    assert np.array_equal(result.regions, regions)
    for region in np.unique(regions)[1:]:
        assert len(np.unique(result.labels[regions == region])) == 1
    write_regions(tmp_path / "a.npz", regions)
    for path in (tmp_path / "a.npz", str(tmp_path / "a.npz")):
        assert np.array_equal(segmenter(picture(), CLASSES, regions=path).labels, result.labels)


def test_another_vocabulary_does_not_compile_again(segmenter):
    segmenter(picture(), CLASSES)
    for classes in (["dog"], [["a", "b", "c"], "d"], [f"thing {k}" for k in range(8)]):
        result = segmenter(picture(5), classes)
        assert not result.compiled
        assert result.labels.max() < len(classes)
    before = segmenter._runner.programs.count
    segmenter(picture(6), ["x", "y"])
    assert segmenter._runner.programs.count == before


def test_embeddings_are_kept(segmenter, monkeypatch):
    monkeypatch.setattr(module, "_KEPT_VOCABULARIES", 2)
    first = segmenter.embed(["one", ["two", "three"]])
    assert segmenter.embed(("one", ("two", "three"))) is first
    segmenter.embed(["b"])
    segmenter.embed(["c"])
    assert segmenter.embed(["one", ["two", "three"]]) is not first


@pytest.mark.parametrize(
    ("regions", "words"),
    [
        (np.zeros((90, 60), int), r"\(60, 90\)\. Got \(90, 60\)\. Height and width are swapped"),
        (np.zeros((60, 91), int), r"Got \(60, 91\)"),
        (np.full(SIZE, -1), "It holds -1 to -1"),
        (np.zeros(SIZE), "must hold integers"),
        (
            np.arange(60 * 90).reshape(SIZE) % 66,
            "65 regions besides the unsegmented pixels, and config.method.max_regions is 64",
        ),
        ("nowhere.npz", "nowhere.npz does not exist"),
    ],
)
def test_region_maps_that_do_not_fit(segmenter, regions, words):
    with pytest.raises(RegionError, match=words):
        segmenter(picture(), CLASSES, regions=regions)


def test_as_many_region_maps_as_photos(segmenter):
    with pytest.raises(RegionError, match=r"2 photos need as many region maps.* Got 1"):
        segmenter([picture(), picture()], CLASSES, regions=[region_map()])
    for maps in ([region_map()], [region_map()] * 3):
        with pytest.raises(RegionError, match=rf"2 photos need as many region maps.* Got {len(maps)}"):
            next(segmenter.stream([picture(), picture()], CLASSES, regions=maps))


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ([], "no classes"),
        (["cat", ""], "empty name"),
        (["cat", "Cat"], "names 'Cat'"),
        ("cat", "must be a list"),
    ],
)
def test_classes_that_will_not_do(segmenter, classes, words):
    with pytest.raises(ValueError, match=words):
        segmenter(picture(), classes)


def test_a_wrong_photo_in_a_list_is_named_before_anything_is_computed(segmenter, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no")
    with pytest.raises(PhotoError, match=r"broken\.jpg"):
        segmenter([picture(), tmp_path / "broken.jpg"], CLASSES)


def test_settings_out_of_range(folder, tmp_path):
    with pytest.raises(ValueError, match="points must be 1 or more"):
        Segmenter(folder, points=0)
    with pytest.raises(ValueError, match=r"points must be 1 or more, a whole number.*Got True\."):
        Segmenter(folder, points=True)
    with pytest.raises(ValueError, match=r"probability_points is .*a whole number\. Got 0\."):
        Segmenter(folder, probability_points=0)
    with pytest.raises(ValueError, match=r"a probability, 0 to 1\. Got 1\.5"):
        Segmenter(folder, background_threshold=1.5)
    with pytest.raises(ValueError, match="model must be one of"):
        Segmenter(tmp_path / "nowhere")


def test_settings_reach_the_configuration(folder):
    config = Segmenter(folder, dtype="bfloat16", points=5, background_threshold=0.25, regions="sam2").config
    assert (config.dtype, config.regions.points_per_side, config.regions.source) == ("bfloat16", 5, "sam2")
    assert config.method.background_threshold == 0.25
    assert Segmenter(folder, regions="none").config.sam2 is None


def test_a_model_without_sam():
    config = small_config(sam2=False)
    params = init_params(config)
    with pytest.raises(ValueError, match="'small' has no SAM 2"):
        Segmenter((config, params), regions="sam2")
    with pytest.raises(ValueError, match=r"regions must be one of sam2.* Got 'slick'\. Did you mean slic\?"):
        Segmenter((config, params), regions="slick")
    with pytest.raises(ValueError, match="names no vocabulary"):
        Segmenter((config, params))(picture(), CLASSES, regions=region_map())


def test_a_published_network_is_not_taken_for_the_one_that_a_loaded_model_has():
    config = small_config()
    with pytest.raises(
        ValueError, match=r"sam2\.1-t is a published network, and the model 'small' is loaded"
    ):
        Segmenter((config, {}), regions="sam2.1-t")


@pytest.mark.parametrize("name", ["main", "dino"])
def test_a_further_clip_has_a_name_of_its_own(folder, name):
    with pytest.raises(ValueError, match=f"a further CLIP cannot be called {name}"):
        Segmenter(folder, regions="none", bank="bank", others={name: "dfn-b16"})


@pytest.mark.slow
def test_regions_are_found_with_sam_in_crops_of_the_photo_on_its_canvas(folder):
    """The canvas is larger, so SAM's crops lie elsewhere on it; regions are those of the photo alone."""
    settings = ("crop_layers=1", "iou_threshold=0.0", "stability_threshold=0.0")
    parts = ("scope", "value", "merging", "spatial", "semantic")  # none of which finds regions
    assignments = [f"regions.{one}" for one in settings] + [f"parts.{name}=false" for name in parts]
    segmenter = Segmenter(folder, assignments=assignments)
    result = segmenter(picture(), CLASSES)
    assert segmenter._runner._plan([SIZE], [False], False)[0].bucket.shape == (60, 96)
    alone = region_program(segmenter.config)(segmenter._params, picture()[None], None)[0]
    assert np.mean(result.regions == alone) > 0.999
    assert 1 < len(np.unique(result.regions)) <= SOURCES["sam2"].cap(segmenter.config)


def test_photos_and_frames_of_damaged_weights_have_no_labels(segmenter):
    params = {**segmenter._params, "clip": jax.tree.map(lambda x: x * np.nan, segmenter._params["clip"])}
    damaged = Segmenter((segmenter.config, params))
    # The text was embedded by sound weights: only the photo's own features are not finite.
    damaged.embed = segmenter.embed
    with pytest.raises(NotFiniteError, match=r"no labels, its features are not finite .*weights are damaged"):
        damaged(picture(), CLASSES)
    for photos in ([picture(), picture(1)], iter([picture(), picture(1)])):
        found = dict(damaged.stream(photos, CLASSES))
        assert [type(found[index]) for index in (0, 1)] == [NotFiniteError] * 2
