"""`corrclip segment`: files written, photos that fail beside others, every refusal, exit codes."""

import json
import re
import resource
from pathlib import Path

import jax
import numpy as np
import pytest
from command_line import assert_refused, corrclip, plain
from PIL import Image
from small_models import small_model, small_text

from corrclip_jax.cli.runs.hints import segment_hints
from corrclip_jax.cli.runs.output_names import plan_jobs
from corrclip_jax.hub.embedded import EMBEDDED_MODELS
from corrclip_jax.inference import segmenter as segmenter_module
from corrclip_jax.inference.label_runner import LabelRunner
from corrclip_jax.io.region_maps import write_regions
from corrclip_jax.text.embedding import pad_queries, query_bucket
from corrclip_jax.viz.palette import palette

SIZE = (60, 90)

pytestmark = pytest.mark.usefixtures("shared_programs")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(small_model(tmp_path_factory.mktemp("model")))


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed, name in enumerate(("a.png", "b.jpg")):
        coarse = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), dtype=np.uint8)
        Image.fromarray(coarse.repeat(10, 0).repeat(10, 1)).save(folder / name)
    return folder


def segment(*arguments):
    return corrclip("segment", *arguments)


def results(folder):
    """Names of the files in a folder of results, without the hidden journal."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_a_folder_of_photos(photos, model, tmp_path):
    out = tmp_path / "new" / "out"
    result = segment(photos, "-c", "cat, grass, sky; cloud", "-m", model, "-o", out, "--regions", "none")
    assert result.exit_code == 0, result.output
    names = ["a.json", "a.overlay.jpg", "a.png", "b.json", "b.overlay.jpg", "b.png"]
    assert results(out) == names
    with Image.open(out / "a.png") as labels:
        labels.load()
    assert (labels.mode, labels.size) == ("P", SIZE[::-1])
    content = json.loads((out / "a.json").read_text())
    assert content["photo"] == str(photos / "a.png")
    assert [one["names"] for one in content["classes"]] == [["cat"], ["grass"], ["sky", "cloud"]]
    assert content["classes"][1]["pixels"] == (np.asarray(labels) == 1).sum()
    assert content["model"]["name"] == "small"
    assert content["model"]["sources"]["clip"]["files"][0]["sha256"] == "00ff"
    assert content["model"]["sources"]["clip"]["licence"] == "Apache-2.0"
    assert content["settings"]["regions"] == "none"
    assert content["versions"]["jax"] == jax.__version__
    assert {"load", "text", "segment"} == set(content["seconds"])
    assert content["classes"][2]["colour"] == list(palette(3)[2])
    assert content["device"].startswith(jax.devices()[0].platform)
    assert re.search(r"a\.png +90 x 60 +\w+ \d", plain(result.stdout))
    assert "2 of 2 photos segmented" in plain(result.stderr)


def test_formats_and_probabilities(photos, model, tmp_path):
    options = ("-c", "cat, grass, sky; cloud", "-m", model, "-o", tmp_path / "out", "--regions", "none")
    more = ("--format", "coco", "--format", "png", "--save-probabilities")
    result = segment(photos, *options, *more, "--json")
    assert result.exit_code == 0, result.output
    assert set(json.loads(result.stdout)["formats"]) == {"coco", "png"}
    coco = tmp_path / "out" / "coco" / "annotations" / "instances_default.json"
    content = json.loads(coco.read_text("utf-8"))
    assert [one["file_name"] for one in content["images"]] == ["a.png", "b.jpg"]
    assert all(0 < one["score"] <= 1 for one in content["annotations"])
    with np.load(tmp_path / "out" / "a.probabilities.npz") as arrays:
        assert (arrays["probabilities"].shape, arrays["probabilities"].dtype) == ((3, *SIZE), np.float16)
        assert arrays["class_names"].tolist() == ["cat", "grass", "sky"]
    again = segment(photos, *options, *more)
    assert again.exit_code == 0 and "2 done before" in plain(again.stderr)


def test_formats_of_other_classes_or_photos(photos, model, tmp_path):
    out, more = tmp_path / "out", tmp_path / "more"
    more.mkdir()
    (photos / "b.jpg").rename(more / "b.jpg")
    settings = ("-m", model, "-o", out, "--regions", "none", "-f", "yolo", "-f", "png", "-f", "coco")
    assert segment(photos, *settings, "-c", "cat, grass").exit_code == 0
    refused = segment(more, *settings, "-c", "grass, sky, cat")
    assert refused.exit_code == 2 and not (out / "b.json").exists()  # before anything is computed
    assert "yolo has other classes, for photos that are not among these" in plain(refused.stderr)
    again = segment(photos, *settings, "-c", "grass, sky")  # the same photo: nothing is lost
    assert again.exit_code == 0 and "of an earlier run" not in plain(again.stderr)
    both = segment(photos, more, *settings, "-c", "grass, sky")  # names now have the folder before them
    assert both.exit_code == 0 and "taken out" not in plain(both.stderr)
    assert "2 files of an earlier run removed, whose images have other names now" in plain(both.stderr)
    assert len(list(out.glob("yolo/labels/*/*"))) == 2 and not list(out.glob("yolo/labels/*.txt"))
    last = segment(more, *settings, "-c", "sky, grass", "--overwrite")
    assert last.exit_code == 0
    assert "1 image of an earlier run was not among these and taken out, 2 files removed" in plain(
        last.stderr
    )
    labels = {str(path.relative_to(out)) for path in out.glob("*/labels/*")}
    assert labels == {"yolo/labels/b.txt"}
    assert {path.name for path in (out / "png").glob("[a-z]*")} == {"b.png", "classes.json"}


@pytest.mark.slow
def test_regions_from_sam(photos, model, tmp_path):
    result = segment(photos / "a.png", "-c", "cat, grass", "-m", model, "-o", tmp_path, "--points", "2")
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / "a.json").read_text())
    assert content["settings"]["regions"] == "sam2"
    assert content["settings"]["points_per_side"] == 2
    assert content["regions"] <= 4


def test_bad_photos_do_not_stop_the_others(photos, model, tmp_path):
    (photos / "cut.jpg").write_bytes((photos / "b.jpg").read_bytes()[:400])
    (photos / "page.png").write_bytes(b"<!DOCTYPE html>")
    result = segment(photos, "-c", "cat, grass", "-m", model, "-o", tmp_path / "out", "--regions", "none")
    assert result.exit_code == 1
    assert (tmp_path / "out" / "a.png").exists()
    assert (tmp_path / "out" / "b.json").exists()
    assert "2 of 4 photos segmented" in plain(result.stderr)
    assert re.search(r"Error: .*cut\.jpg (is damaged|cannot be read)", plain(result.stderr))
    assert re.search(r"Error: .*page\.png is not an image", plain(result.stderr))


def test_region_maps_from_a_folder(photos, model, tmp_path):
    maps = tmp_path / "maps"
    maps.mkdir()
    write_regions(maps / "a.npz", np.arange(60 * 90).reshape(SIZE) // 1350)
    write_regions(maps / "b.npz", np.zeros((3, 4), int))
    result = segment(photos, "-c", "cat, grass", "-m", model, "-o", tmp_path / "out", "--regions", maps)
    assert result.exit_code == 1
    content = json.loads((tmp_path / "out" / "a.json").read_text())
    assert (content["regions"], content["settings"]["regions"]) == (3, str(maps))
    assert "b.npz must have the photo's size" in plain(result.stderr)
    (maps / "b.npz").unlink()
    result = segment(photos / "b.jpg", "-c", "cat", "-m", model, "-o", tmp_path / "out", "--regions", maps)
    assert result.exit_code == 1
    assert "has no region map" in plain(result.stderr)


def test_more_classes_than_a_byte_counts_make_a_16_bit_label_map(photos, model, tmp_path, monkeypatch):
    def embed(self, classes):  # 80 prompts for each name take long
        return pad_queries(small_text(self.config, tuple(range(257))), query_bucket(257))

    monkeypatch.setattr(segmenter_module.Segmenter, "embed", embed)
    (tmp_path / "classes.txt").write_text("\n".join(f"thing number {k}" for k in range(257)))
    arguments = ("--classes-file", tmp_path / "classes.txt", "-m", model, "-o", tmp_path, "--regions", "none")
    result = segment(photos / "a.png", *arguments)
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "a.png") as labels:
        labels.load()
    assert labels.mode == "I;16"
    content = json.loads((tmp_path / "a.json").read_text())
    assert len(content["classes"]) == 257
    assert [one["label"] for one in content["classes"] if one["pixels"]] == np.unique(
        np.asarray(labels)
    ).tolist()


def test_the_threshold_makes_the_first_class_and_says_so(photos, model, tmp_path):
    arguments = ("-m", model, "-o", tmp_path, "--regions", "none", "--background-threshold", "1")
    result = segment(photos / "a.png", "-c", "cat, grass", *arguments)
    assert result.exit_code == 0, result.output
    assert not np.asarray(Image.open(tmp_path / "a.png")).any()
    assert "below the threshold become the first class, 'cat'" in plain(result.stderr)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("photos",), "Name the classes"),
        (("photos", "-c", "cat", "--classes-file", "classes.txt"), "either --classes"),
        (("photos", "-c", ""), "no classes"),
        (("photos", "-c", "cat,,dog"), "class 2 has an empty name"),
        (("photos", "-c", "cat, Cat"), "class 2 names 'Cat'"),
        (("photos", "--classes-file", "gone.txt"), "no file of class names at gone.txt"),
        (("gone.jpg", "-c", "cat"), "gone.jpg does not exist"),
        (("empty", "-c", "cat"), "empty is a folder without images"),
        (("photos", "-c", "cat", "--model", "nowhere"), "model must be one of .* Got 'nowhere'"),
        (("photos", "-c", "cat", "--model", "empty"), "empty holds neither a converted model"),
        (("photos", "-c", "cat", "--regions", "nowhere"), "'nowhere' is no folder"),
        (
            ("photos/a.png", "-c", "cat", "--tile", "512", "--probability-points", "48"),
            "--probability-points is for photos, not for rasters",
        ),
        (
            ("photos", "-c", "cat", "--engine", "ray", "--write", "parquet", "--probability-points", "48"),
            "--probability-points is for files",
        ),
        (("photos", "-c", "cat", "--out", "photos"), "photos holds the photos"),
        (("photos/a.png", "-c", "cat", "--out", "photos"), "photos/a.png would replace a photo"),
        (("photos", "-c", "cat", "--out", "photos/a.png"), "Cannot write photos/a.png: Not a directory"),
        (
            ("photos", "-c", "cat", "--out", "photos/a.png/out"),
            "Cannot write photos/a.png/out: Not a directory",
        ),
    ],
)
def test_refusals_are_one_line_and_write_nothing(photos, monkeypatch, arguments, words):
    monkeypatch.chdir(photos.parent)
    Path("empty").mkdir()
    Path("classes.txt").write_text("cat\n")
    before = sorted(Path().rglob("*"))
    assert_refused(segment(*arguments), words)
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--points", "0"), "--points"),
        (("--background-threshold", "1.5"), "--background-threshold"),
        (("--dtype", "int8"), "--dtype"),
        (("--nonsense",), "--nonsense"),
    ],
)
def test_options_out_of_range(photos, arguments, words):
    result = segment(photos, "-c", "cat", *arguments)
    assert result.exit_code == 2
    assert words in plain(result.stderr)
    assert "Traceback" not in result.output


def test_a_model_without_sam(photos, tmp_path):
    folder = small_model(tmp_path, sam2=False)
    assert_refused(segment(photos, "-c", "cat", "-m", folder, "-o", tmp_path / "out"), "'small' has no SAM 2")


def test_debug_shows_the_traceback(photos):
    result = corrclip("--debug", "segment", photos, "-c", "cat,,dog")
    assert isinstance(result.exception, ValueError)
    assert not isinstance(result.exception, SystemExit)


def limited(room, *arguments):
    """A run in which files stop growing at `room` bytes, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        return segment(*arguments)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_found_before_the_work(photos, model, tmp_path, monkeypatch):
    monkeypatch.setattr(segmenter_module, "load", None)  # never called
    assert_refused(
        limited(1000, photos, "-c", "cat", "-m", model, "-o", tmp_path / "out"), "Cannot write .*out:"
    )


def test_a_disk_that_fills_up_ends_the_work_and_keeps_what_is_there(photos, model, tmp_path, monkeypatch):
    written = []
    real = segmenter_module.Segmentation.save

    def save(self, folder, stem, details=None, **options):
        if written:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10, resource.RLIM_INFINITY))
        written.append(stem)
        return real(self, folder, stem, details, **options)

    monkeypatch.setattr(segmenter_module.Segmentation, "save", save)
    out = tmp_path / "out"
    result = limited(-1, photos, "-c", "cat, grass", "-m", model, "-o", out, "--regions", "none")
    assert result.exit_code == 1
    assert re.search(r"Cannot write .*b\.png: .*Stopped there", plain(result.stderr))
    assert "1 of 2 photos segmented" in plain(result.stderr)
    assert results(out) == ["a.json", "a.overlay.jpg", "a.png"]


def test_ctrl_c_keeps_what_is_there(photos, model, tmp_path, monkeypatch):
    real = segmenter_module.Segmenter.stream

    def stream(self, *arguments, **options):
        yield next(real(self, *arguments, **options))
        assert (tmp_path / "out" / "a.json").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(segmenter_module.Segmenter, "stream", stream)
    result = segment(photos, "-c", "cat, grass", "-m", model, "-o", tmp_path / "out", "--regions", "none")
    assert result.exit_code == 130
    assert "Stopped by Ctrl-C" in plain(result.stderr)
    assert "a.png" in plain(result.stdout)


def test_a_photo_too_large_for_the_memory_does_not_stop_the_others(photos, model, tmp_path, monkeypatch):
    real = LabelRunner._program

    def program(self, *arguments):
        if not tmp_path.joinpath("met").exists():
            tmp_path.joinpath("met").touch()
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return real(self, *arguments)

    monkeypatch.setattr(LabelRunner, "_program", program)
    result = segment(photos, "-c", "cat, grass", "-m", model, "-o", tmp_path / "out", "--regions", "none")
    assert result.exit_code == 1
    assert "a.png is too large for the memory" in plain(result.stderr)
    assert (tmp_path / "out" / "b.png").exists()


def stems(*names):
    return [job.stem for job in plan_jobs([Path("/x") / name for name in names], Path("/out"))]


def test_results_of_photos_with_one_stem_stand_side_by_side():
    assert stems("a/dog.jpg", "a/cat.jpg") == ["dog", "cat"]
    assert stems("a/dog.jpg", "b/dog.jpg", "cat.jpg") == ["a-dog", "b-dog", "cat"]
    assert stems("a/dog.jpg", "a/dog.png") == ["a-dog-jpg", "a-dog-png"]
    assert stems("a/dog.jpg", "a/DOG.jpg") == ["a-dog-jpg", "a-DOG-jpg-2"]
    assert stems("1/a/dog.jpg", "2/a/dog.jpg", "a-dog-jpg.jpg") == ["a-dog-jpg", "a-dog-jpg-2", "a-dog-jpg-3"]


def test_a_name_that_would_be_too_long_is_cut():
    long, other = stems(f"{'x' * 251}.png", f"{'x' * 250}y.png")
    assert len(f"{long}.overlay.jpg") <= 255
    assert long != other
    assert stems(f"{'x' * 251}.png") == [long]


# --- hints ---


@pytest.mark.parametrize(
    ("classes", "threshold", "words"),
    [
        ([["cat"]], None, "there is one class, 'cat', so every pixel gets it"),
        ([["cat", "dog"]], None, r"\(a comma separates classes, dog are synonyms\)"),
        ([["cat"], ["dog"]], None, "none of them is a background"),
        ([["crack"], ["rust"]], 0.0, "none of them is a background"),
        ([["cat"], ["dog"]], 0.3, "below the threshold become the first class, 'cat'"),
    ],
)
def test_classes_that_leave_no_background_get_a_hint(classes, threshold, words):
    [hint] = segment_hints(classes, threshold, "vit-b")
    assert re.search(words, hint)


@pytest.mark.parametrize(
    ("classes", "threshold"),
    [
        ([["cat"], ["grass"]], None),
        ([["background"], ["cat"]], 0.3),
        ([["Background"], ["cat"]], None),
        ([["road"], ["dense forest"]], None),
    ],
)
def test_other_classes_get_none(classes, threshold):
    assert segment_hints(classes, threshold, "vit-b") == []
    for model in EMBEDDED_MODELS:
        assert re.search("knows no photographs", *segment_hints(classes, threshold, model))


def test_a_file_of_classes_is_not_taken_for_a_class(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("names.txt").write_text("cat\n")
    assert_refused(segment(photos, "-c", "names.txt"), "--classes names.txt is a file")
