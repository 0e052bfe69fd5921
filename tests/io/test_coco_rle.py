"""COCO's run-length encoding: strings known from its own program, and masks of every kind there and back."""

import numpy as np
import pytest

from corrclip_jax.io.coco_rle import RLEError, compress, decode, encode, encode_map, expand


def naive(mask):
    """Counts of a mask, pixel by pixel."""
    counts, last = [0], False
    for column in range(mask.shape[1]):
        for row in range(mask.shape[0]):
            if mask[row, column] != last:
                counts.append(0)
                last = not last
            counts[-1] += 1
    return counts


@pytest.mark.parametrize(
    ("counts", "text"),
    [  # as COCO's own program (pycocotools 2) writes them
        ([6, 1, 40, 4, 5, 4, 5, 4, 21], "61X13mN000`0"),
        ([245, 5, 35, 5, 35, 5, 35, 5, 35, 5, 1190], "e75S10000000ST1"),
        ([5, 2, 2, 2, 5], "52203"),
        ([0, 4], "04"),
        ([15], "?"),
        ([16], "`0"),
    ],
)
def test_known_strings(counts, text):
    assert compress(counts) == text
    assert expand(text) == counts


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (37, 53)])
@pytest.mark.parametrize("share", [0, 0.02, 0.5, 1])
def test_masks_there_and_back(shape, share):
    mask = np.random.default_rng(0).random(shape) < share
    encoded = encode(mask)
    assert encoded["size"] == list(shape)
    assert expand(encoded["counts"]) == naive(mask)
    assert np.array_equal(decode(encoded), mask)
    assert np.array_equal(decode(encoded | {"counts": naive(mask)}), mask)
    assert np.array_equal(decode(encoded | {"counts": encoded["counts"].encode()}), mask)


def test_large_counts_and_differences():
    counts = [0, 10**7, 3, 1, 10**6, 5 * 10**6, 1, 2]
    assert expand(compress(counts)) == counts


def test_all_regions_of_a_map_at_once():
    regions = np.random.default_rng(0).integers(0, 5, (17, 23)).repeat(3, 0)
    assert encode_map(regions) == {id: encode(regions == id) for id in range(1, 5)}
    assert encode_map(np.zeros((3, 4), int)) == {}
    assert encode_map(np.full((3, 4), 7)) == {7: encode(np.ones((3, 4), bool))}


@pytest.mark.parametrize(
    ("segmentation", "words"),
    [
        ({"size": [2, 2]}, "an RLE mask is"),
        (None, "an RLE mask is"),
        ({"size": [2], "counts": "04"}, "an RLE mask is"),
        ({"size": [2, 2], "counts": "05"}, r"2 x 2 = 4\. Got 2 of sum 5"),
        ({"size": [2, 2], "counts": [5, -1]}, "Got 2 of sum 4"),
        ({"size": [2, 2], "counts": [1.5, 2.5]}, "sum unknown"),
        ({"size": [2, 2], "counts": "0~"}, "Got '~'"),
        ({"size": [2, 2], "counts": "0P"}, "cut short"),
    ],
)
def test_what_is_no_mask(segmentation, words):
    with pytest.raises(RLEError, match=words):
        decode(segmentation)
