"""Palette, label pictures and overlays: numbers survive, colours are told apart, any size works."""

import numpy as np
import pytest
from PIL import Image

from corrclip_jax.viz import fonts
from corrclip_jax.viz.contact_sheet import contact_sheet
from corrclip_jax.viz.legend import Entry, legend_name, percent, with_legend
from corrclip_jax.viz.overlay import class_shares, label_image, overlay
from corrclip_jax.viz.palette import _oklab, class_colours, palette


def names(count):
    return [f"class {k}" for k in range(count)]


def stripes(height, width, count):
    return np.broadcast_to(np.arange(width) * count // width, (height, width)).astype(np.int32)


def grey(height, width):
    return np.full((height, width, 3), 128, np.uint8)


def test_palette_colours_are_apart_and_neither_grey_black_nor_white():
    lab = _oklab(palette(256))
    distance = np.sqrt(((lab[:, None] - lab) ** 2).sum(-1)) + np.eye(256)
    assert distance.min() > 0.035  # a just noticeable difference is about 0.02
    assert distance[:20, :20].min() > 0.1
    assert np.hypot(lab[:, 1], lab[:, 2]).min() > 0.03
    assert 0.45 < lab[:, 0].min() <= lab[:, 0].max() < 0.95


def test_a_class_keeps_its_colour_however_many_there_are():
    assert np.array_equal(palette(1000)[:256], palette(256))
    assert np.array_equal(palette(20), palette(256)[:20])
    assert len(np.unique(palette(1000), axis=0)) == 1000
    assert palette(100_000).shape == (100_000, 3)


def test_background_is_black_and_nothing_else_is():
    colours = class_colours(["Background", "cat", "background wall"])
    assert not colours[0].any()
    assert colours[1:].any(axis=1).all()


@pytest.mark.parametrize("count", [1, 2, 255])
def test_label_image_with_a_palette(tmp_path, count):
    labels = stripes(4, 300, count)
    label_image(labels, names(count)).save(tmp_path / "a.png")
    image = Image.open(tmp_path / "a.png")
    assert image.mode == "P"
    assert np.array_equal(np.asarray(image), labels)
    assert np.array_equal(np.asarray(image.convert("RGB")), class_colours(names(count))[labels])


@pytest.mark.parametrize("count", [256, 1000, 65536])
def test_label_image_of_16_bits(tmp_path, count):
    labels = stripes(1, count, count)
    label_image(labels, names(count)).save(tmp_path / "a.png")
    image = Image.open(tmp_path / "a.png")
    assert image.mode == "I;16"
    assert np.array_equal(np.asarray(image), labels)


def test_labels_that_do_not_fit():
    with pytest.raises(ValueError, match="from 0 to 3, but there are 3 classes"):
        label_image(stripes(2, 8, 4), names(3))
    with pytest.raises(ValueError, match="from -1 to -1"):
        overlay(grey(2, 2), np.full((2, 2), -1), names(3))
    with pytest.raises(ValueError, match=r"differ in size: \(2, 3\) and \(3, 2\)"):
        overlay(grey(2, 3), np.zeros((3, 2), int), names(3))
    with pytest.raises(ValueError, match="at most 16 bits"):
        label_image(stripes(2, 8, 4), names(65537))


def test_shares():
    assert np.allclose(class_shares(np.array([[0, 2], [2, 2]]), 4), [0.25, 0, 0.75, 0])
    assert [percent(s) for s in (0.0, 0.0001, 0.1234, 1.0)] == ["0.0 %", "< 0.1 %", "12.3 %", "100.0 %"]


@pytest.mark.parametrize(
    "size", [(1, 1), (100, 4000), (4000, 100), (1, 4000), (50, 90), (300, 500), (500, 300)]
)
@pytest.mark.parametrize("count", [1, 5, 1000])
def test_overlay_of_any_size_and_number_of_classes(size, count):
    image = overlay(grey(*size), stripes(*size, count), names(count))
    assert image.mode == "RGB"
    assert image.width >= size[1]
    assert image.height >= size[0]


def test_overlay_tints_with_the_classes_colours():
    labels = stripes(400, 400, 2)
    image = np.asarray(overlay(grey(400, 400), labels, names(2), opacity=1.0, legend=False))
    assert image.shape == (400, 400, 3)
    inside = np.abs(np.arange(400) - 199.5) > 4
    assert np.array_equal(image[:, inside], class_colours(names(2))[labels][:, inside])
    assert (image[5, 199] > 200).all()  # the outline


def test_background_stays_clear():
    image = np.asarray(overlay(grey(400, 400), stripes(400, 400, 2), ["background", "cat"], legend=False))
    assert (image[:, :190] == 128).all()
    assert (image[:, 210:] != 128).any(axis=-1).all()


def test_a_large_photo_is_shrunk(monkeypatch):
    monkeypatch.setattr("corrclip_jax.viz.overlay.LONGEST_OVERLAY", 400)
    assert overlay(grey(700, 1001), stripes(700, 1001, 3), names(3), legend=False).size == (334, 234)


def test_legend_stands_below_wide_and_beside_tall_pictures():
    wide = overlay(grey(300, 500), stripes(300, 500, 5), names(5))
    tall = overlay(grey(500, 300), stripes(500, 300, 5), names(5))
    assert wide.width == 500
    assert wide.height > 300
    assert tall.width > 300
    assert tall.height == 500


def test_long_names_that_begin_alike_are_told_apart():
    image = Image.new("RGB", (200, 150))
    car, cat = (f"a photo of a very old and rather rusty {what}" for what in ("red car", "blue cat"))

    def legend(*names):
        return with_legend(image, [Entry(name, 0.5, (9, 9, 9)) for name in names]).tobytes()

    assert legend(car, cat) != legend(car, car)
    assert legend("\u202ecat") == legend("cat")


def test_legend_cuts_long_names_and_long_lists():
    photo = Image.new("RGB", (640, 480))
    entries = [Entry("n" * 500, 0.5, (255, 0, 0))] * 60
    legend = with_legend(photo, entries)
    assert legend.width == 640
    assert legend.height < 2 * 480


@pytest.fixture
def no_fonts(monkeypatch):
    """A machine with no font but Pillow's own."""
    fonts._file_for.cache_clear()
    monkeypatch.setattr(fonts, "_files", lambda: ())
    yield
    fonts._file_for.cache_clear()


def test_a_name_in_another_script_is_written_where_a_font_has_it():
    file = fonts._file_for(frozenset("небо"))
    assert file is not None, "DejaVu comes with matplotlib"
    assert fonts.writable("небо\n\tи море") == "небо и море"
    photo = Image.new("RGB", (640, 480))
    shown = {
        name: with_legend(photo, [Entry(name, 1.0, None)]).tobytes() for name in ("небо", "поле", "????")
    }
    assert len(set(shown.values())) == 3


def test_a_name_that_no_font_has_becomes_a_synonym_or_the_number(no_fonts):
    assert legend_name(0, ["草地", "grass"]) == "grass"
    assert legend_name(7, ["海滩"]) == "class 7"
    assert legend_name(1, ["sky"]) == "sky"
    assert legend_name(2, ["crème brûlée"]) in ("crème brûlée", "creme brulee")
    assert fonts.writable("a\u0000b\n c") == "a b c"


def test_names_from_right_to_left_need_raqm(monkeypatch):
    assert fonts.writable("דשא") == "דשא"
    monkeypatch.setattr("PIL.features.check", lambda feature: False)
    assert legend_name(3, ["דשא"]) == "class 3"


def test_the_legend_of_an_overlay_tells_such_classes_apart(no_fonts):
    labels = np.repeat(np.arange(2), 200)[:, None].repeat(500, 1)
    draw = lambda *names: overlay(grey(400, 500), labels, names, synonyms=[[name] for name in names])  # noqa: E731
    assert draw("草地", "海滩").tobytes() == draw("class 0", "class 1").tobytes()
    sheets = [
        contact_sheet([[Image.new("RGB", (300, 60))]], [title], {title: (1, 2, 3)}) for title in ("a", "b")
    ]
    assert sheets[0].tobytes() != sheets[1].tobytes()


def test_the_swatches_have_the_colours_that_the_label_map_and_the_description_give():
    labels = stripes(400, 500, 5)
    legend = np.asarray(overlay(grey(400, 500), labels, names(5)))[405:]
    shown = {tuple(colour) for colour in legend.reshape(-1, 3).tolist()}
    assert {tuple(colour) for colour in class_colours(names(5)).tolist()} <= shown
