"""`corrclip demo` and its pictures."""

import re

import numpy as np
import pytest
from command_line import corrclip
from PIL import Image
from rich.console import Console

from corrclip_jax.cli.commands import demo as command
from corrclip_jax.cli.runs import demo
from corrclip_jax.cli.runs.demo import Gallery, demo_scene, region_picture
from corrclip_jax.datasets.scenes.words import CLASSES
from corrclip_jax.inference.segmentation import Segmentation
from corrclip_jax.viz.contact_sheet import contact_sheet
from corrclip_jax.viz.palette import class_colours

RED, BLUE = (200, 30, 30), (30, 30, 200)


def invoke(*arguments: object):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "keep_compiled_programs", lambda: None)
        return corrclip("demo", *arguments)


def result(labels: np.ndarray, names: tuple[tuple[str, ...], ...], regions: np.ndarray | None = None):
    regions = np.zeros(labels.shape, np.int32) if regions is None else regions
    photo = np.random.default_rng(0).integers(0, 256, (*labels.shape, 3), dtype=np.uint8)
    return Segmentation(photo, labels, np.ones(labels.shape, np.float32), regions, names, 0.5, False)


# --- the command ---


def size_of(file):
    with Image.open(file) as image:
        return image.size


@pytest.mark.slow
def test_the_demo_writes_its_pictures_and_a_table_where_the_method_is_better_than_plain_clip(tmp_path):
    found = invoke("--out", tmp_path / "demo", "--scenes", 1)
    assert found.exit_code == 0, found.output
    files = {file.name: size_of(file) for file in (tmp_path / "demo").glob("[!.]*")}
    assert set(files) == {
        "demo.png",
        "scene-1-overlay.png",
        "scene-1-regions.png",
        "scene-1-comparison.png",
    }
    assert files["scene-1-regions.png"] == (448, 336)
    assert files["scene-1-comparison.png"][0] > 4 * 448
    assert re.search(r"plain CLIP: IoU % +CorrCLIP: IoU %", found.stdout)
    for name in ("sand", "heart", "mean"):
        assert re.search(rf"{name} +\d+\.\d", found.stdout), name
    plain, whole = map(float, re.search(r"mean +(\S+) +(\S+)", found.stdout).groups())
    assert whole > plain
    assert "1 scene in" in found.stderr
    assert str(tmp_path / "demo" / "demo.png") in found.stderr


def test_the_demo_replaces_no_foreign_file(tmp_path):
    (tmp_path / "demo.png").write_bytes(b"mine")
    found = invoke("--model", tmp_path / "never-read", "--out", tmp_path)
    assert found.exit_code == 2
    assert "demo.png was not written by this program" in found.stderr
    assert (tmp_path / "demo.png").read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--classes", "red star, , grass"), "class 2 has an empty name"),
        (("--scenes", "9"), "--scenes"),
        (("--out", __file__), "Cannot write"),
        (("--bank",), "--bank is for the embedded model"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_loaded(tmp_path, arguments, message):
    found = invoke("--model", tmp_path / "never-read", "--out", tmp_path, *arguments)
    assert found.exit_code == 2
    assert message in found.stderr


# --- scenes and pictures ---


def test_scenes_are_the_same_every_time_and_unlike_each_other():
    assert len(demo.SEEDS) == command.MOST_SCENES
    np.testing.assert_array_equal(demo_scene(1).image, demo_scene(1).image)
    assert demo_scene(0).image.shape == (336, 448, 3)
    assert (demo_scene(0).areas, demo_scene(1).areas) == (("wood", "sand"), ("wood", "water"))


def test_the_truth_follows_the_order_of_the_demos_classes():
    classes, order = demo.own_classes()
    assert sorted(classes) == sorted(CLASSES)
    for index, names in zip(order, CLASSES, strict=True):
        assert classes[index] == names


def show_half_right() -> Gallery:
    """Two classes on two halves: plain CLIP sees the first everywhere, the whole method is right."""
    names = (("sky",), ("grass",), ("never seen",))
    truth = np.repeat(np.int32([0, 1]), 160)[:, None].repeat(330, 1)
    return Gallery({"plain CLIP": [result(truth * 0, names)], "CorrCLIP": [result(truth, names)]}, [truth])


def printed(shown: Gallery) -> str:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(shown.table())
    return capture.get()


def test_the_table_has_the_iou_of_each_class_that_occurs():
    lines = printed(show_half_right()).splitlines()
    assert [line.split()[-2:] for line in lines[1:]] == [
        ["50.0", "100.0"],
        ["0.0", "100.0"],
        ["25.0", "100.0"],
    ]
    assert "never seen" not in "".join(lines)


def test_without_truth_the_table_has_shares_and_the_pictures_no_truth(tmp_path):
    known = show_half_right()
    shown = Gallery(known.ways, None)
    text = printed(shown)
    assert "share %" in text
    assert "mean" not in text
    assert [line.split()[-2:] for line in text.splitlines()[1:]][:2] == [["100.0", "50.0"], ["0.0", "50.0"]]
    for gallery_, columns in ((known, 4), (shown, 3)):
        gallery_.save(tmp_path)
        width, _ = size_of(tmp_path / "scene-1-comparison.png")
        assert columns * 330 < width < (columns + 0.3) * 330


def test_the_legend_of_every_sheet_has_the_colours_of_the_classes_as_they_are(tmp_path):
    known = show_half_right()
    known.save(tmp_path)
    wanted = {tuple(colour) for colour in class_colours(known.results[0].class_names)[:2].tolist()}
    for name in ("demo.png", "scene-1-comparison.png", "scene-1-overlay.png"):
        pixels = np.asarray(Image.open(tmp_path / name))
        assert wanted <= {tuple(colour) for colour in pixels.reshape(-1, 3).tolist()}, name


def test_regions_have_a_colour_each_and_the_rest_is_clear():
    regions = np.zeros((340, 340), np.int32)
    regions[:100], regions[200:] = 7, 30
    picture = np.asarray(region_picture(result(np.zeros((340, 340), np.int32), (("a",),), regions)))
    first, rest, second = (
        picture[20:80].mean((0, 1)),
        picture[120:180].mean((0, 1)),
        picture[220:].mean((0, 1)),
    )
    assert np.ptp(rest) < 2, "grey"
    assert np.ptp(first) > 30
    assert np.ptp(second) > 30
    assert np.abs(first - second).max() > 30


def test_a_contact_sheet_has_all_pictures_in_their_places():
    pictures = [[Image.new("RGB", (100, 60), colour) for colour in row] for row in ((RED, BLUE), (BLUE, RED))]
    sheet = contact_sheet(pictures, ["left", "right"], {"a rather long name": RED, "b": BLUE})
    pixels = np.asarray(sheet)
    for colour in (RED, BLUE):
        assert (pixels == colour).all(-1).sum() >= 2 * 100 * 60
    rows, columns = np.nonzero((pixels == RED).all(-1)[: 24 + 2 * 68])
    assert (columns[rows.argmin()] < 100) and (columns[rows.argmax()] > 100)
    assert pixels[0, 0].tolist() == [255, 255, 255]
    without = contact_sheet(pictures, ["left", "right"], {}, width=50)
    assert without.width == 2 * 50 + 3 * 8
    assert without.height < sheet.height - 60
