"""Segments: every labelled pixel in one, by region, piece or class, with the means of the probabilities."""

import numpy as np
import pytest

from corrclip_jax.formats.segments import find_segments, from_json, to_json

LABELS = np.array([[0, 0, 1, 1], [0, 2, 2, 1], [1, 2, -1, 0]])
REGIONS = np.array([[5, 5, 0, 0], [5, 5, 5, 0], [0, 9, 9, 0]])


def kinds(by):
    return {(one.label, one.region, one.area, one.box) for one in find_segments(LABELS, REGIONS, by=by)}


def test_regions_and_pieces_where_there_are_none():
    assert kinds("region") == {
        (0, 5, 3, (0, 0, 2, 2)), (2, 5, 2, (1, 1, 2, 1)), (1, 0, 3, (2, 0, 2, 2)), (2, 9, 1, (1, 2, 1, 1)),
        (1, 0, 1, (0, 2, 1, 1)), (0, 0, 1, (3, 2, 1, 1)),
    }  # fmt: skip


def test_pieces_and_classes():
    assert (2, 0, 3, (1, 1, 2, 2)) in kinds("piece")
    assert len(kinds("piece")) == 5
    assert kinds("class") == {(0, 0, 4, (0, 0, 4, 3)), (1, 0, 4, (0, 0, 4, 3)), (2, 0, 3, (1, 1, 2, 2))}


@pytest.mark.parametrize("by", ["region", "piece", "class"])
def test_segments_make_up_the_labels_and_survive_json(by):
    random = np.random.default_rng(1)
    for size in [(1, 1), (1, 9), (12, 7), (20, 20)]:
        labels, regions = random.integers(-1, 4, size), random.integers(0, 3, size)
        again = np.full(size, -1)
        for segment in find_segments(labels, regions, by=by):
            same = from_json(to_json(segment, *size, "abcd"), 4, size)
            assert (same.label, same.region, same.box) == (segment.label, segment.region, segment.box)
            mask = same.full_mask(*size)
            assert mask.sum() == segment.area and (again[mask] == -1).all()
            again[mask] = segment.label
        assert np.array_equal(again, labels)


def test_an_image_without_labels_has_no_segments():
    assert find_segments(np.full((3, 3), -1), np.zeros((3, 3), int)) == []


def test_probabilities_are_means_over_the_pixels():
    labels = np.zeros((4, 6), int)
    labels[:, 3:] = 1
    chances = np.zeros((3, 2, 2), np.float16)
    chances[:, :, 0] = [[0.5, 0.75], [0.25, 0.0], [0.25, 0.25]]
    chances[:, :, 1] = [[0.25], [0.5], [0.25]]
    left, right = find_segments(labels, np.zeros((4, 6), int), probabilities=chances)
    assert (left.probability, left.runner_up, left.runner_up_probability) == (0.625, 2, 0.25)
    assert (right.probability, right.runner_up, right.runner_up_probability) == (0.5, 0, 0.25)
    (only,) = find_segments(labels * 0, labels * 0, probabilities=chances[:1])
    assert (only.runner_up, only.runner_up_probability) == (None, None)
    assert find_segments(labels, labels)[0].probability is None


def test_json_names_the_classes():
    labels = np.zeros((2, 2), int)
    (segment,) = find_segments(labels, labels, probabilities=np.full((2, 1, 1), 0.5, np.float16))
    content = to_json(segment, 2, 2, ["кот", "dog"])
    assert content["class"] == "кот" and content["probability"] == 0.5
    assert content["runner_up"] == {"label": 1, "class": "dog", "probability": 0.5}
    with pytest.raises(ValueError, match="do not fit its mask"):
        from_json({**content, "area": 3}, 2, (2, 2))
