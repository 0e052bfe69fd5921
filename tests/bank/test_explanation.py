"""The explanation of a photo names what a region's neighbours in the bank are, and shows them where it can."""

import numpy as np
import pytest
from bank_process import FakeExtractor
from command_line import corrclip, plain
from PIL import Image

from corrclip_jax.inference.bank_build import build
from corrclip_jax.inference.explanation import explain, page
from corrclip_jax.inference.segmentation import RegionSupport, Segmentation


@pytest.fixture
def bank(tmp_path):
    """Two images with 3 and 2 regions, the second of which is gone."""
    images = tmp_path / "images"
    images.mkdir()
    for name, count in (("a", 3), ("b", 2)):
        pixels = np.full((20, 30, 3), 90, np.uint8)
        pixels[0, 0, 0] = count
        Image.fromarray(pixels).save(images / f"{name}.png")
    build([images], tmp_path / "bank", FakeExtractor())
    (images / "b.png").unlink()
    return tmp_path / "bank"


def segmentation(support):
    photo = np.zeros((8, 10, 3), np.uint8)
    regions = np.zeros((8, 10), np.int32)
    regions[2:5, 3:9] = 4
    labels = (regions == 4).astype(np.int32)
    classes = (("sky", "cloud"), ("<cat>",))
    return Segmentation(photo, labels, np.ones((8, 10), np.float32), regions, classes, 0.1, False, support)


def test_regions_are_explained_by_their_neighbours(bank):
    neighbours = np.array([[2, 0, -1], [4, 1, 3]], np.int32)
    similarities = np.array([[0.9, 0.5, -np.inf], [0.8, 0.7, 0.6]], np.float32)
    logits = np.array([[0.1, 0.3, 0.2], [0.0, 0.1, 0.4]], np.float32)
    own = np.array([[0.2, 0.1, 0.3], [0.5, 0.1, 0.4]], np.float32)
    found = segmentation(RegionSupport(np.array([0, 4], np.int32), neighbours, similarities, logits, own))
    rest, cat = explain(found, bank, neighbours=2)
    assert (rest.id, rest.label, [one.entry for one in rest.neighbours]) == (0, "sky", [2, 0])
    assert (cat.id, cat.label, cat.share) == (4, "<cat>", 18 / 80)
    assert [name for name, _ in cat.said] == ["<cat>", "sky"]
    assert rest.said[0] == ("sky", pytest.approx(0.3))
    assert cat.own == [("sky", pytest.approx(0.5)), ("<cat>", pytest.approx(0.4))]
    names = [one.image.rpartition("/")[2] for one in cat.neighbours]
    assert names == ["b.png", "a.png"]
    assert cat.neighbours[0].crop is None
    assert max(cat.neighbours[1].crop.size) == 240

    text = page("photo.jpg", found, [rest, cat], "bank")
    assert "&lt;cat&gt;" in text
    assert "<cat>" not in text
    assert text.count("not at hand") == 1
    assert text.count("<section>") == text.count("Its own pixels") == 2


def test_the_command_writes_a_page_and_refuses_what_it_cannot_explain(bank, tmp_path, monkeypatch):
    support = RegionSupport(np.array([0, 4], np.int32), np.array([[2, 0], [4, 1]], np.int32),
                            np.full((2, 2), 0.5, np.float32), *[np.eye(2, 3, dtype=np.float32)] * 2)  # fmt: skip
    given = []

    class Fake:
        def __init__(self, model, **options):
            given.append(options)

        def __call__(self, photo, classes, *, regions):
            return segmentation(support)

    monkeypatch.setattr("corrclip_jax.inference.segmenter.Segmenter", Fake)
    arguments = [
        "explain",
        tmp_path / "images" / "a.png",
        "-c",
        "sky; cloud, <cat>",
        "--out",
        tmp_path / "out",
    ]
    found = corrclip(*arguments, "--bank", bank, "--also", "dfn=dfn-b16")
    assert found.exit_code == 0, found.output
    assert "2 regions explained" in found.stderr
    assert (given[0]["bank"], given[0]["others"]) == (bank, {"dfn": "dfn-b16"})
    assert (tmp_path / "out" / "a.html").read_text("utf-8").count("<section>") == 2
    again = corrclip(*arguments, "--bank", bank)
    assert again.exit_code == 0
    (tmp_path / "others").mkdir()
    Image.new("RGB", (30, 20), (1, 2, 3)).save(tmp_path / "others" / "a.png")
    before = (tmp_path / "out" / "a.html").read_bytes()
    other = ["explain", tmp_path / "others" / "a.png", *arguments[2:], "--bank", bank]
    refused = corrclip(*other)
    assert refused.exit_code == 2
    assert "a.html is the result of another photo" in plain(refused.stderr)
    assert (tmp_path / "out" / "a.html").read_bytes() == before
    assert corrclip(*other, "--overwrite").exit_code == 0
    for more, message in (([], "--bank is missing"), (["--bank", tmp_path], "holds no bank.json")):
        refused = corrclip(*arguments, *more)
        assert refused.exit_code == 2
        assert message in refused.stderr


def test_a_photo_without_a_bank_has_no_explanation(bank):
    with pytest.raises(ValueError, match="segmented without a bank"):
        explain(segmentation(None), bank)
