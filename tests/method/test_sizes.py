"""`segment(sizes=)`: photos on a canvas get the results that they get alone."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from small_models import jitted, region_program, small_config, small_params

from corrclip_jax.config import with_fields
from corrclip_jax.datasets.scenes.generate import val_scene
from corrclip_jax.hub.presets import load
from corrclip_jax.method import labels, windows, windows_padded
from corrclip_jax.method.segment import Result, image_features, label_images, make_segment
from corrclip_jax.method.sliding_windows import sliding_windows
from corrclip_jax.text.embedding import TextEmbedding

CONFIG = small_config()
CHUNKED = with_fields(CONFIG, method={"windows_per_chunk": 4, "max_windows": 6})
CANVAS = (96, 130)
CAP = 9  # ids of a photo
SIZES = [(96, 130), (60, 117), (85, 41)]  # of the canvas, a wide one, a tall one: a program each


@pytest.fixture(scope="module")
def params():
    return small_params(CONFIG)


@pytest.fixture(scope="module")
def text():
    features = np.random.default_rng(5).standard_normal((6, 16)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return TextEmbedding(jnp.asarray(features), jnp.array([0, 0, 1, 2, 3, 4]), 5)


@pytest.fixture(scope="module")
def photos():
    """Photos and region maps; ids are neither consecutive nor do they begin at 0."""
    rng = np.random.default_rng(0)
    images, regions = [], []
    for height, width in SIZES:
        coarse = rng.integers(0, 256, (height // 10 + 1, width // 10 + 1, 3), dtype=np.uint8)
        images.append(coarse.repeat(10, 0).repeat(10, 1)[:height, :width])
        coarse = rng.choice([3, 5, 40, 900], (height // 20 + 1, width // 20 + 1))
        regions.append(coarse.repeat(20, 0).repeat(20, 1)[:height, :width].astype(np.int32))
    return images, regions


class Stages(NamedTuple):
    """Features of windows [n, gh, gw, D], logits [H, Q, W], and the result for the photo."""

    features: Array
    logits: Array
    result: Result


@pytest.fixture(scope="module")
def alone(params, text, photos):
    """Each photo's stages without a canvas."""

    @jax.jit
    def compute(params, image, regions):
        layout = sliding_windows(image.shape[:2], None, CONFIG)
        features = image_features(CONFIG, params, image[None], regions[None], CAP, layout)
        plan = windows.plan_windows(*image.shape[:2], CONFIG.method)
        matrices = (
            windows.stitch_matrix(*a) for a in zip((plan.y, plan.x), features.shape[3:5], strict=True)
        )
        logits = labels.upsample(labels.logit_grid(features[0], text.features), *matrices)
        result = label_images(CONFIG, features, text, regions[None], CAP, layout)
        return Stages(
            features[0].reshape(-1, *features.shape[3:]), logits, jax.tree.map(lambda x: x[0], result)
        )

    return [
        jax.tree.map(np.asarray, compute(params, image, regions))
        for image, regions in zip(*photos, strict=True)
    ]


def on_canvas(arrays, fill, side=CANVAS):
    out = np.full((len(arrays), *side, *arrays[0].shape[2:]), fill, arrays[0].dtype)
    for place, array in zip(out, arrays, strict=True):
        place[: array.shape[0], : array.shape[1]] = array
    return jnp.asarray(out)


def error(ours, wanted):
    return np.abs(np.asarray(ours) - np.asarray(wanted)).max() / np.abs(np.asarray(wanted)).max()


@pytest.mark.parametrize("fill", [0, 255])
def test_labels_equal_those_of_each_photo_alone(params, text, photos, alone, fill):
    images, regions = photos
    result = jitted(CHUNKED)(
        params,
        on_canvas(images, fill),
        text,
        sizes=jnp.array(SIZES),
        regions=on_canvas(regions, -7 if fill else 1),
    )
    result = jax.tree.map(np.asarray, result)
    for index, ((height, width), (*_, wanted)) in enumerate(zip(SIZES, alone, strict=True)):
        assert (result.labels[index, :height, :width] == wanted.labels).mean() > 0.999
        np.testing.assert_allclose(result.scores[index, :height, :width], wanted.scores, rtol=1e-4)
        np.testing.assert_array_equal(result.regions[index, :height, :width], regions[index])
        outside = np.ones(CANVAS, bool)
        outside[:height, :width] = False
        assert (result.labels[index][outside] == -1).all()
        assert (result.regions[index][outside] == -1).all()
        assert np.isnan(result.scores[index][outside]).all()


def test_features_and_logits_equal_those_of_each_photo_alone(params, text, photos, alone):
    """Here window by window, in the test of labels several at a time."""
    images, regions = photos

    @jax.jit
    def on_a_canvas(params, images, regions, sizes):
        layout = sliding_windows(CANVAS, sizes, CONFIG)
        features = image_features(CONFIG, params, images, regions, CAP, layout)
        plan = windows_padded.plan_padded(sizes, CANVAS, CONFIG.method)

        def logits(args):
            features, plan = args
            matrices = windows_padded.stitch_matrices(plan, CANVAS, features.shape[1:3], CONFIG.method)
            return labels.upsample(labels.window_logits(features, text.features), *matrices)

        result = label_images(CONFIG, features, text, regions, CAP, layout)
        return features, jax.lax.map(logits, (features, plan)), result.labels

    found = on_a_canvas(params, on_canvas(images, 9), on_canvas(regions, 0), jnp.array(SIZES))
    features, logits, classes = map(np.asarray, found)
    for index, ((height, width), wanted) in enumerate(zip(SIZES, alone, strict=True)):
        assert error(features[index, : len(wanted.features)], wanted.features) < 1e-5
        assert error(logits[index, :height, :, :width], wanted.logits) < 1e-5
        assert (classes[index, :height, :width] == wanted.result.labels).mean() > 0.999


@pytest.mark.slow
def test_regions_are_found_as_in_each_photo_alone():
    config, params = load("tiny")
    config = with_fields(config, regions={"points_per_side": 8})
    images = [val_scene(index).image for index in (0, 1)]
    sizes = [image.shape[:2] for image in images]
    assert len(set(sizes)) == 2
    find = region_program(config)
    found = np.asarray(find(params, on_canvas(images, 200, (216, 224)), jnp.array(sizes)))
    for index, (height, width) in enumerate(sizes):
        assert found[index].max() > 2
        assert not found[index, height:].any()
        assert not found[index, :, width:].any()
    height, width = sizes[1]
    assert height != width
    wanted = np.asarray(find(params, images[1][None], None)[0])
    assert (found[1, :height, :width] == wanted).mean() > 0.999


def test_one_program_serves_all_sizes(params, text, photos):
    images, regions = photos
    segment, counts = jitted(CHUNKED), []
    for index, size in enumerate(SIZES):
        turned = images[index:] + images[:index], regions[index:] + regions[:index]
        sizes = jnp.array(SIZES[index:] + SIZES[:index])
        arrays = on_canvas(turned[0], 0), text
        result = segment(params, *arrays, sizes=sizes, regions=on_canvas(turned[1], 1))
        assert (np.asarray(result.labels[0]) >= 0).sum() == size[0] * size[1]
        counts.append(segment._cache_size())
    assert len(set(counts)) == 1


def test_a_batch_may_be_filled_up_with_nothing(params, text, photos):
    images, regions = photos
    result = jitted(CHUNKED)(
        params,
        on_canvas(images[:1] * 3, 0),
        text,
        sizes=jnp.array([SIZES[0], (0, 0), (0, 0)]),
        regions=on_canvas(regions[:1] * 3, 0),
    )
    assert (np.asarray(result.labels[0]) >= 0).all()
    assert (np.asarray(result.labels[1:]) == -1).all()


def test_jax_finds_no_nan_when_it_looks_for_them(params, text, photos):
    images, _ = photos
    config = with_fields(CONFIG, regions={"source": "none"})
    with jax.debug_nans(True):
        result = jax.jit(make_segment(config))(
            params, on_canvas(images[1:2], 0), text, sizes=jnp.array(SIZES[1:2])
        )
    height, width = SIZES[1]
    assert (np.asarray(result.scores[0, :height, :width]) > 0).all()
    assert not np.asarray(result.scores[0, height:]).any()
    assert not np.asarray(result.scores[0, :, width:]).any()


@pytest.mark.parametrize(
    "size",
    [(97, 130), (96, 0), (-1, 5), (2, 130), (30, 130)],
    ids=str,  # the last has more windows than the most
)
def test_photos_that_do_not_fit_are_an_error_or_marked_under_jit(params, text, photos, size):
    images, regions = photos
    arguments = (params, on_canvas(images[:1] * 3, 0), text)
    given = {"regions": on_canvas(regions[:1] * 3, 0)}
    sizes = jnp.array([(60, 60), size, (0, 0)])
    with pytest.raises(
        ValueError, match=f"image 1 of {size[0]} x {size[1]} does not fit into images of 96 x 130"
    ):
        make_segment(CHUNKED)(*arguments, sizes=sizes, **given)
    result = jitted(CHUNKED)(*arguments, sizes=sizes, **given)
    assert (np.asarray(result.labels[1]) == -1).all()
    assert np.isnan(result.scores[1]).all()
    assert (np.asarray(result.labels[0, :60, :60]) >= 0).all()


@pytest.mark.parametrize(
    ("sizes", "found"),
    [(np.ones((2, 2)), "float64"), (np.ones((1, 2), int), r"\[1, 2\]"), (np.ones(4, int), r"\[4\]")],
)
def test_sizes_are_two_whole_numbers_a_photo(params, text, photos, sizes, found):
    with pytest.raises(ValueError, match=rf"sizes must be integers \[2, 2\].* Got .*{found}"):
        make_segment(CONFIG)(params, on_canvas(photos[0][:2], 0), text, sizes=sizes)
