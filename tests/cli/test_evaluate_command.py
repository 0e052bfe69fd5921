"""`corrclip evaluate`: what it refuses, prints, writes, and how it goes on where it was."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from command_line import corrclip
from PIL import Image
from small_models import small_model

from corrclip_jax.cli.runs import evaluate
from corrclip_jax.datasets.scenes.words import CLASSES
from corrclip_jax.evaluation import metrics, scorer
from corrclip_jax.hub.embedded import EMBEDDED_MODELS
from corrclip_jax.io.region_maps import write_regions
from corrclip_jax.text import encode

NAMES = ("cat", "dog; hound", "sky")


@pytest.fixture
def invoke(monkeypatch):
    """Run the command; nothing is kept of what it compiles, and lines are as wide as they like."""
    monkeypatch.setattr(evaluate, "keep_compiled_programs", lambda: None)

    def run(*arguments: object):
        return corrclip("evaluate", *arguments)

    return run


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Without SAM 2."""
    return small_model(tmp_path_factory.mktemp("model"), sam2=False)


def write_own(folder: Path, count: int = 3) -> list[object]:
    """Photos of noise with label files, numbers from one, and region maps; the options that name them."""
    for index in range(count):
        rng = np.random.default_rng(index)
        for name in ("photos", "truth", "regions"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"p{index}.png")
        labels = np.kron(rng.integers(0, 4, (5, 6)), np.ones((8, 8), int)).astype(np.uint8)
        labels[0] = 255
        Image.fromarray(labels).save(folder / "truth" / f"p{index}.png")
        write_regions(folder / "regions" / f"p{index}.npz", labels.astype(int) % 4)
    (folder / "classes.txt").write_text("\n".join(NAMES))
    return [
        "--images", folder / "photos", "--labels", folder / "truth", "--classes-file", folder / "classes.txt",
        "--first-id", 1, "--regions", folder / "regions",
    ]  # fmt: skip


def recount(folder: Path) -> np.ndarray:
    """The matrix of the predictions that a run has kept, pixel by pixel from the files."""
    matrix = np.zeros((3, 4), int)
    for path in sorted((folder / "scores" / "predictions").glob("*.png")):
        truth, labels = np.array(Image.open(folder / "truth" / path.name)), np.array(Image.open(path))
        for true, label in zip(truth.ravel().tolist(), labels.ravel().tolist(), strict=True):
            if true not in (0, 255):
                matrix[true - 1, label] += 1
    return matrix


def test_scenes_are_scored_and_reported(invoke, tmp_path):
    model = small_model(tmp_path)
    found = invoke("scenes", "--model", model, "--count", 1, "--out", tmp_path / "scores")
    assert found.exit_code == 0, found.output
    assert "scenes, val: 1 image, model small, regions sam2" in found.stdout
    for name in ("circle", "road", "mIoU", "pixel accuracy", "boundary IoU", "per second"):
        assert name in found.stdout
    content = json.loads((tmp_path / "scores" / "report.json").read_text("utf-8"))
    assert [entry["names"] for entry in content["classes"]] == [list(names) for names in CLASSES]
    matrix = np.array(content["confusion"]["pixels"])
    assert matrix.sum() == 168 * 168
    assert content["mean_iou"] == pytest.approx(metrics.mean_iou(matrix), abs=1e-6)
    assert content["settings"]["model"]["regions"]["points_per_side"] == 2
    assert content["versions"]["jax"]
    assert len(content["settings"]["weights_sha256"]["sam2"]) == 64
    assert content["sources"]["clip"]["files"][0]["sha256"] == "00ff"


def test_own_data_with_region_files_is_scored_as_its_predictions_say(
    invoke, model, shared_programs, tmp_path
):
    options = [*write_own(tmp_path), "-m", model, "-o", tmp_path / "scores"]
    found = invoke(*options, "--predictions")
    assert found.exit_code == 0, found.output
    content = json.loads((tmp_path / "scores" / "report.json").read_text("utf-8"))
    matrix = recount(tmp_path)
    assert matrix.sum() > 3000
    assert content["confusion"]["pixels"] == matrix.tolist()
    assert content["classes"][1]["names"] == ["dog", "hound"]
    for suffix, words in [("md", "| dog (hound) |"), ("html", "hound")]:
        text = (tmp_path / "scores" / f"report.{suffix}").read_text("utf-8")
        for each in (words, "background threshold 0.0", "Versions", f"{100 * metrics.mean_iou(matrix):.1f}"):
            assert each in text, (suffix, each)
    page = (tmp_path / "scores" / "report.html").read_text("utf-8")
    assert page.count("<img") == 3 * 3, "photo, truth and labels of three pictures"
    assert "http://" not in page
    assert "https://" not in page
    with Image.open(tmp_path / "scores" / "worst.png") as image:
        assert image.width > 3 * 320

    # The same command finds everything counted; another setting does not go on from it.
    (tmp_path / "scores" / "report.json").unlink()
    again = invoke(*options)
    assert again.exit_code == 0, again.output
    assert json.loads((tmp_path / "scores" / "report.json").read_text())["confusion"] == content["confusion"]
    changed = invoke(*options, "--background-threshold", 0.5)
    assert changed.exit_code == 2
    assert "model.method.background_threshold: was 0.0, is 0.5" in changed.stderr
    assert "regions" not in changed.stderr.split("other settings")[1].split("Use those")[0]


def test_unreadable_images_are_named_and_left_out_and_tried_again(invoke, model, shared_programs, tmp_path):
    options = [*write_own(tmp_path), "-m", model, "-o", tmp_path / "scores"]
    good = (tmp_path / "photos" / "p1.png").read_bytes()
    (tmp_path / "photos" / "p1.png").write_bytes(good[:200])
    Image.new("L", (48, 40), 99).save(tmp_path / "truth" / "p2.png")
    found = invoke(*options, "--predictions")
    assert found.exit_code == 1
    assert "p1 is left out" in found.stderr
    assert "p2 is left out" in found.stderr
    assert "holds the number 99" in found.stderr
    content = json.loads((tmp_path / "scores" / "report.json").read_text())
    assert list(content["unreadable"]) == ["p1", "p2"]
    assert content["pictures"] == 1
    assert content["confusion"]["pixels"] == recount(tmp_path).tolist()
    (tmp_path / "photos" / "p1.png").write_bytes(good)
    mended = invoke(*options, "--predictions")
    assert mended.exit_code == 1
    content = json.loads((tmp_path / "scores" / "report.json").read_text())
    assert (content["pictures"], list(content["unreadable"])) == (2, ["p2"])
    assert content["confusion"]["pixels"] == recount(tmp_path).tolist()


def test_the_ablation_is_printed_and_written(invoke, model, tmp_path, monkeypatch):
    # A dozen programs take minutes to compile: in the method's place, a pixel's class is one of its colours.
    def make_segment(config, mesh=None):
        channel = sum(dataclasses.astuple(config.parts)) % 3
        return lambda params, images, text, sizes, regions, bank=None: SimpleNamespace(
            labels=images[..., channel].astype(jnp.int32) % len(NAMES)
        )

    monkeypatch.setattr(scorer, "make_segment", make_segment)
    options = [*write_own(tmp_path, 1), "-m", model, "-o", tmp_path / "scores"]
    found = invoke(*options, "--ablation")
    assert found.exit_code == 0, found.output
    content = json.loads((tmp_path / "scores" / "report.json").read_text("utf-8"))
    assert len(content["ablation"]) == 13
    assert content["ablation"]["+ correction"]["mean_iou"] == content["mean_iou"]
    lines = found.stdout.splitlines()
    before = None
    for name in ("plain CLIP", "+ scope", "+ value", "+ merging", "+ spatial", "+ semantic", "+ correction"):
        score = 100 * content["ablation"][name]["mean_iou"]
        line = next(line for line in lines if line.startswith(name)).removeprefix(name).split()
        assert line[0] == f"{score:.1f}"
        if before is not None:
            assert float(line[1]) == pytest.approx(score - before, abs=0.06)
        before = score


def test_the_list_shows_every_benchmark(invoke):
    found = invoke("--list")
    assert found.exit_code == 0
    for name in ("scenes", "voc21", "ade847", "potsdam", "cityscapes", "847", "0.25"):
        assert name in found.stdout


@pytest.fixture
def networkless(monkeypatch):
    """In the method's place, a pixel's class is its red modulo the classes."""

    def make_segment(config, mesh=None):
        return lambda params, images, text, sizes, regions, bank=None: SimpleNamespace(
            labels=images[..., 0].astype(jnp.int32) % 2
        )

    monkeypatch.setattr(scorer, "make_segment", make_segment)


def write_masks(folder: Path, values: tuple[int, ...]) -> list[object]:
    """Photos with masks of these values, one each; the options that name them and two classes."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for index, value in enumerate(values):
        mask = np.zeros((24, 32), np.uint8)
        mask[:8] = value
        Image.fromarray(mask).save(folder / "labels" / f"{index}.png")
        Image.new("RGB", (32, 24)).save(folder / "images" / f"{index}.png")
    return [folder / "images", "--labels", folder / "labels", "-c", "grass, sky", "--regions", "none"]


def test_masks_of_0_and_255_are_explained(invoke, model, networkless, tmp_path):
    found = invoke(*write_masks(tmp_path / "a", (255, 255)), "-m", model, "-o", tmp_path / "out")
    assert found.exit_code == 0
    for words in ("33.3 % of the pixels are left out (255)", "No image holds: sky", "masks of 0 and 255"):
        assert words in found.stdout
        assert words in (tmp_path / "out" / "report.html").read_text()


def test_255_that_is_a_class_is_scored_unless_it_is_named(invoke, model, networkless, tmp_path, monkeypatch):
    monkeypatch.setattr(encode, "prompts", lambda name: [name])  # nothing here looks at embeddings
    monkeypatch.setattr(encode, "_BATCH", 1)
    options = write_masks(tmp_path, (255,))
    options[options.index("grass, sky")] = ", ".join(f"thing {index}" for index in range(256))
    for more, words, pixels in (
        ((), "255 is the class 'thing 255' and is scored", 8 * 32),
        (("--ignored", 255), "255 (--ignored) is the class 'thing 255', which is left out", 0),
    ):
        out = tmp_path / f"out-{len(more)}"
        found = invoke(*options, *more, "-m", model, "-o", out)
        assert found.exit_code == 0, found.output
        assert found.stdout.count(words) == 1
        assert json.loads((out / "report.json").read_text())["classes"][255]["pixels"] == pixels


def test_any_field_of_the_configuration_can_be_set(invoke, model, networkless, tmp_path):
    options = [*write_masks(tmp_path, (1,)), "-m", model, "-o", tmp_path / "out"]
    found = invoke(*options, "--set", "method.spatial_weight=0.5", "--set", "parts.scope=off")
    assert found.exit_code == 0, found.output
    settings = json.loads((tmp_path / "out" / "report.json").read_text())["settings"]
    assert settings["model"]["method"]["spatial_weight"] == 0.5
    assert [variant["scope"] for variant in settings["variants"]] == [False]
    other = invoke(*options)
    assert "model.method.spatial_weight: was 0.5, is 1.0" in other.stderr
    anew = invoke(*options, "--restart")
    assert anew.exit_code == 0, anew.output


def test_no_scored_pixel_is_an_error_and_no_score(invoke, model, networkless, tmp_path):
    options = write_masks(tmp_path, (0,))
    found = invoke(*options, "--ignored", 0, "-m", model, "-o", tmp_path / "out")
    assert found.exit_code == 1
    assert "All pixels are left out (0)" in found.stdout
    assert "mIoU -" in found.stdout


def test_data_sets_of_one_name_have_folders_of_their_own(invoke, model, networkless, tmp_path, monkeypatch):
    """Both folders of photos are called "images", and so are their files."""
    monkeypatch.chdir(tmp_path)
    options = {name: write_masks(tmp_path / name, (value,)) for name, value in (("first", 0), ("second", 1))}
    for name in options:
        found = invoke(*options[name], "-m", model)
        assert found.exit_code == 0, found.output
        assert "counted before" not in found.stdout
    contents = [json.loads(path.read_text()) for path in tmp_path.glob("scores/images-*/report.json")]
    assert sorted(content["pixel_accuracy"] for content in contents) == [pytest.approx(2 / 3, abs=1e-5), 1]
    again = invoke(*options["first"], "-m", model)
    assert "1 image in" in again.stdout
    assert "1 of them counted before" in again.stdout


def test_corrected_labels_are_named_and_how_to_go_on(invoke, model, networkless, tmp_path):
    options = [*write_masks(tmp_path, (0, 1)), "-m", model, "-o", tmp_path / "out"]
    assert invoke(*options).exit_code == 0
    Image.new("L", (32, 24), 1).save(tmp_path / "labels" / "0.png")
    changed = invoke(*options)
    assert changed.exit_code == 2
    assert "labels: the content has changed of 1 of 2 counted images: 0" in changed.stderr
    assert "--restart" in changed.stderr
    other = invoke(*options, "--first-id", 1)
    assert "data.first_id: was 0, is 1" in other.stderr
    anew = invoke(*options, "--restart")
    assert anew.exit_code == 0
    assert "counted before" not in anew.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Name a data set"),
        (("voc21",), "Say where the files of voc21 are: --data-root DIR"),
        (("voc22", "--data-root", "."), "the data sets are: scenes, voc21"),
        (("voc21", "--data-root", "nowhere"), "nowhere is no folder"),
        (("voc21", "--images", "photos"), "are for data of your own"),
        (("voc21", "--classes", "cat"), "are for data of your own"),
        (("--images", "photos"), "give the folder of your own photos, --labels and --classes-file"),
        (("--labels", "photos", "-c", "cat"), "give the folder of your own photos"),
        (("photos", "--labels", "truth"), "give the folder of your own photos, --labels and --classes-file"),
        ((".",), r"For the photos in ., give --labels and --classes-file"),
        (
            ("scenes", "--bank", "nowhere"),
            "--bank must be the folder of a bank, or tiny. nowhere holds no bank",
        ),
        (("vok21",), "Did you mean voc21?"),
        (("scenes", "--set", "method.strid=1"), "Did you mean stride?"),
        (("scenes", "--set", "clip.text.width=1"), "follows from the weights"),
        (("scenes", "--set", "regions.source=slic"), "is set by --regions"),
        (("scenes", "--regions", "slik"), "Did you mean slic?"),
        (("scenes", "--data-root", "."), "they take no --data-root"),
        (("scenes", "--predictions"), "name it with --out"),
        (("scenes", "--regions", "nowhere"), "'nowhere' is no folder"),
        (("scenes", "--count", "500"), "count must be 1 to 200, the images of scenes, val. Got 500"),
        (("scenes", "--split", "train"), "the scenes have the splits val, unseen"),
        (("scenes", "--model", "vit-x"), "model must be one of tiny, tiny-v2, vit-b"),
    ],
)
def test_what_cannot_be_is_refused(invoke, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = invoke(*arguments)
    assert found.exit_code == 2
    assert message in found.stderr


@pytest.mark.parametrize("model", EMBEDDED_MODELS)
def test_an_embedded_model_on_photographs_says_once_that_it_knows_none(model, invoke, tmp_path, monkeypatch):
    def stop(*arguments, **options):
        raise ValueError("enough")

    monkeypatch.setattr(evaluate, "run_evaluation", stop)
    assert invoke(*write_own(tmp_path, 1), "--model", model).stderr.count("knows no photographs") == 1
    assert "knows no photographs" not in invoke("scenes", "--model", model).stderr
