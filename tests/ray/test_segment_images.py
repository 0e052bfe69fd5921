"""SegmentImages without a cluster: batches of every kind, broken images beside good ones, rows of both formats."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from small_models import small_model

from corrclip_jax.inference.segmenter import Segmenter
from corrclip_jax.io.photos import BandsOf, photo_size, read_photo
from corrclip_jax.ray import SegmentImages
from corrclip_jax.ray.chunks import NamedBytes
from corrclip_jax.ray.rows import decode_labels, table
from corrclip_jax.runtime import extras

CLASSES = ["cat", ["sky", "cloud"], "grass"]
SIZES = [(60, 90), (80, 60), (60, 90), (45, 70)]


def picture(seed=0, size=SIZES[0]):
    coarse = np.random.default_rng(seed).integers(0, 256, (10, 10, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.NEAREST))


def encoded(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


PICTURES = [picture(seed, size) for seed, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def segmenter(model):
    return Segmenter(model, regions="none")


@pytest.fixture(scope="module")
def expected(segmenter):
    """What one process with all images gives."""
    return segmenter(PICTURES, CLASSES)


@pytest.fixture(scope="module")
def segment(model):
    sizes = {(60, 90): 2, (80, 60): 1, (45, 70): 1}
    return SegmentImages(model, CLASSES, regions="none", sizes=sizes)


def test_batches_have_the_labels_of_one_process_with_all_images(segment, expected):
    keys, data = ["a", "b", "c", "d"], [encoded(one) for one in PICTURES]
    rows = []
    for part in ([3], [1, 0], [2]):
        batch = {"key": np.array([keys[i] for i in part]), "bytes": np.array([data[i] for i in part], object)}
        rows += segment(batch).to_pylist()
    rows.sort(key=lambda row: row["key"])
    assert [row["key"] for row in rows] == keys
    for row, one in zip(rows, expected, strict=True):
        assert np.array_equal(decode_labels(row), one.labels)
        assert (row["height"], row["width"], row["error"], row["notes"]) == (*one.labels.shape, None, [])
        shares = dict(zip(one.class_names, row["shares"], strict=True))
        assert {name: share for name, share in shares.items() if share} == pytest.approx(one.shares)
        assert sum(segment["area"] for segment in json.loads(row["segments"])) == one.labels.size
    assert segment.segmenter._runner.programs.count <= 4


def test_broken_images_are_rows_with_their_error(segment, expected, tmp_path):
    good = encoded(PICTURES[0])
    data = np.array([good, good[: len(good) // 2], b"no image", None, b""], object)
    rows = segment({"path": np.array(["p/a", "p/b", "p/c", "p/d", "p/e"]), "bytes": data}).to_pylist()
    assert np.array_equal(decode_labels(rows[0]), expected[0].labels)
    assert [row["labels"] for row in rows[1:]] == [None] * 4
    for row, words in zip(
        rows[1:], ("cut short", "not an image", "has no image", "is an empty file"), strict=True
    ):
        assert row["error"].startswith(row["key"])
        assert words in row["error"]
    with pytest.raises(ValueError, match="p/d has no labels: p/d has no image"):
        decode_labels(rows[3])


def test_paths_arrays_and_rle(model, segmenter, expected, tmp_path):
    segment = SegmentImages(model, CLASSES, regions="none", labels="rle", sizes={(60, 90): 1, (80, 60): 1})
    segment.segmenter = segmenter  # which has compiled programs for these sizes
    place = tmp_path / "a.png"
    place.write_bytes(encoded(PICTURES[0]))
    by_path = segment({"path": np.array([str(place), str(tmp_path / "gone.png")])}).to_pylist()
    assert np.array_equal(decode_labels(by_path[0]), expected[0].labels)
    assert by_path[0]["key"] == str(place)
    assert by_path[1]["error"] == f"{tmp_path / 'gone.png'} does not exist."
    images = np.empty(2, object)
    images[:] = PICTURES[:2]
    by_array = segment({"key": np.array([7, 8]), "image": images}).to_pylist()
    assert [row["key"] for row in by_array] == ["7", "8"]
    assert np.array_equal(decode_labels(by_array[1]), expected[1].labels)


def test_what_is_refused():
    with pytest.raises(ValueError, match="needs classes"):
        SegmentImages("tiny")
    with pytest.raises(ValueError, match=r"png, rle\. Got 'jpeg'"):
        SegmentImages("tiny", CLASSES, labels="jpeg")
    segment = SegmentImages("no such model", CLASSES)
    with pytest.raises(ValueError, match="Got data, label"):
        segment({"data": [], "label": []})


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(extras.MissingExtraError, match=r"pip install 'corrclip-jax\[ray\]'"):
        table([], "png")


def test_opened_images_have_a_name_a_size_and_bands(tmp_path):
    data = NamedBytes(encoded(PICTURES[1]), "s3://bucket/b.png")
    data.read()
    assert photo_size(data) == SIZES[1]
    assert np.array_equal(read_photo(data), PICTURES[1])
    grey = read_photo(BandsOf(data, (2,)))
    assert np.array_equal(grey[..., 0], PICTURES[1][..., 1])
    with pytest.raises(ValueError, match=r"^s3://bucket/b\.png"):
        read_photo(NamedBytes(b"no image", "s3://bucket/b.png"))
    with pytest.raises(ValueError, match=r"^s3://bucket/b\.png"):
        read_photo(BandsOf(data, (9,)))
