"""A result: shares, masks, pictures, files."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

import corrclip_jax
from corrclip_jax.inference.segmentation import Segmentation
from corrclip_jax.io.files import OutputError
from corrclip_jax.io.own_files import ForeignFileError
from corrclip_jax.viz.palette import palette


@pytest.fixture
def result():
    labels = np.zeros((4, 10), np.int32)
    labels[:, 5:] = 2
    labels[0, 0] = 1
    return Segmentation(
        photo=np.full((4, 10, 3), 99, np.uint8),
        labels=labels,
        scores=np.full((4, 10), 0.5, np.float32),
        regions=np.arange(40, dtype=np.int32).reshape(4, 10) % 4,
        classes=(("cat",), ("dog",), ("sky", "cloud"), ("grass",)),
        seconds=1.5,
        compiled=True,
    )


def test_shares_are_of_the_classes_that_occur_the_largest_first(result):
    assert result.shares == {"sky": 0.5, "cat": 19 / 40, "dog": 1 / 40}
    assert list(result.shares) == ["sky", "cat", "dog"]


def test_a_notebook_shows_the_overlay_and_a_table(result):
    assert repr(result) == "Segmentation(10 x 4: sky 50.0 %, cat 47.5 %, dog 2.5 %)"
    odd = dataclasses.replace(result, classes=(("<b>",), ("dog",), ("sky",), ("grass",)))
    page = odd._repr_html_()
    assert page.startswith('<img src="data:image/png;base64,')
    assert "<td>&lt;b&gt;</td><td>47.5 %</td>" in page


def test_public_names_can_be_completed():
    assert set(corrclip_jax.__all__) <= set(dir(corrclip_jax))


def test_masks_by_any_name(result):
    assert np.array_equal(result.mask("cloud"), result.labels == 2)
    assert not result.mask("grass").any()
    with pytest.raises(KeyError, match="'bird' is none of the classes: cat, dog, sky, grass"):
        result.mask("bird")


def test_files(result, tmp_path):
    paths = result.save(tmp_path, "a.b", {"photo": "a.b.jpg"})
    assert [path.name for path in paths] == ["a.b.png", "a.b.overlay.jpg", "a.b.json"]
    assert sorted(tmp_path.glob("[!.]*")) == sorted(paths)
    assert np.array_equal(np.asarray(Image.open(paths[0])), result.labels)
    with Image.open(paths[1]) as overlay:
        assert overlay.width >= 10
    content = json.loads(paths[2].read_text())
    assert content["photo"] == "a.b.jpg"
    assert (content["width"], content["height"], content["regions"]) == (10, 4, 3)
    colour = palette(3)[2].tolist()
    sky = {"label": 2, "names": ["sky", "cloud"], "colour": colour, "pixels": 20, "share": 0.5}
    assert content["classes"][2] == sky
    assert sum(one["share"] for one in content["classes"]) == pytest.approx(1)


def test_only_files_that_this_program_wrote_are_replaced(result, tmp_path):
    (tmp_path / "a.json").write_text("mine")
    with pytest.raises(ForeignFileError, match=r"a\.json was not written by this program"):
        result.save(tmp_path, "a")
    assert [path.name for path in tmp_path.glob("[!.]*")] == ["a.json"]
    result.save(tmp_path, "a", overwrite=True)
    result.save(tmp_path, "a", {"again": True})
    assert json.loads((tmp_path / "a.json").read_text())["again"]


def test_a_place_that_cannot_be_written(result, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="Cannot write"):
        result.save(tmp_path / "file", "a")
