"""COCO RLE, the run-length encoding of masks (pycocotools): uncompressed counts and the compressed string.

Counts are the lengths of runs in column-major order, starting with a run of zeros (possibly of length 0). The
string encodes each count (from the fourth on, its difference to the count two before) in groups of five bits,
lowest first, as the characters "0" to "o". The sixth bit is set if another group follows; the last group
carries the sign.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Integer

_MOST_GROUPS = 12  # of five bits, in a count of 64 bits


class RLEError(ValueError):
    """An invalid encoding of a mask."""


def encode(mask: Bool[np.ndarray, "H W"]) -> dict[str, Any]:
    """Encode a mask as {"size": [H, W], "counts": string}, the compressed form.

    >>> encode(np.array([[False, True], [True, True]]))
    {'size': [2, 2], 'counts': '13'}
    """
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    if flat.size and flat[0]:
        counts.insert(0, 0)
    return {"size": list(mask.shape), "counts": compress(counts)}


def encode_within(
    mask: Bool[np.ndarray, "h w"], corner: tuple[int, int], size: tuple[int, int]
) -> dict[str, Any]:
    """Encode, as `encode` does, a mask within an image of a size (H, W), its top left corner at (x, y)."""
    (x, y), (height, width) = corner, size
    columns = np.zeros((mask.shape[1], height), bool)
    columns[:, y : y + mask.shape[0]] = mask.T
    changes = np.flatnonzero(np.diff(columns.ravel(), prepend=False, append=False)) + x * height
    counts = np.diff(np.concatenate([[0], changes, [height * width]])).tolist()
    if counts[-1] == 0 and len(counts) > 1:
        counts.pop()
    return {"size": [height, width], "counts": compress(counts)}


def encode_map(regions: Integer[np.ndarray, "H W"]) -> dict[int, dict[str, Any]]:
    """Encode every region of a map by its id, as `encode` does, in one pass; id 0 is left out."""
    flat = regions.ravel(order="F")
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    ends, ids = np.append(starts[1:], flat.size), flat[starts]
    found = {}
    for id in np.unique(ids[ids != 0]).tolist():
        mine = ids == id
        edges = np.stack([starts[mine], ends[mine]], axis=1).ravel()
        bounds = np.concatenate([[0], edges, [flat.size]])
        counts = np.diff(bounds).tolist()
        if counts[-1] == 0:
            counts.pop()
        found[id] = {"size": list(regions.shape), "counts": compress(counts)}
    return found


def decode(segmentation: Any) -> Bool[np.ndarray, "H W"]:
    """Decode {"size": [H, W], "counts": string or list of counts}.

    Raises:
      RLEError: if it has another form, or the counts do not add up to the size.
    """
    try:
        height, width = (int(side) for side in segmentation["size"])
        counts = segmentation["counts"]
    except (KeyError, TypeError, ValueError) as error:
        raise RLEError(
            f'an RLE mask is {{"size": [height, width], "counts": ...}}. Got {segmentation!r:.80}.'
        ) from error
    if isinstance(counts, bytes):
        counts = counts.decode("ascii", "replace")
    runs = expand(counts) if isinstance(counts, str) else list(counts)
    if not all(isinstance(run, int) and run >= 0 for run in runs) or sum(runs) != height * width:
        raise RLEError(
            f"the counts of an RLE mask must be runs that add up to {height} x {width} = {height * width}. "
            f"Got {len(runs)} of sum {sum(runs) if all(isinstance(run, int) for run in runs) else 'unknown'}."
        )
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(width, height).T


def compress(counts: Sequence[int]) -> str:
    """Encode counts as COCO's compressed string.

    >>> compress([6, 1, 40, 4, 5, 4, 5, 4, 21])
    '61X13mN000`0'
    """
    rest = np.array(counts, np.int64)
    rest[3:] -= rest[1:-2].copy()
    groups, more = [], [np.ones(len(rest), bool)]
    while more[-1].any():
        group, rest = rest & 31, rest >> 5
        more.append(more[-1] & (rest != np.where(group & 16, -1, 0)))
        groups.append(48 + group + 32 * more[-1])
    characters = np.array(groups, np.uint8).reshape(-1, len(rest)).T
    return characters[np.array(more[:-1]).reshape(-1, len(rest)).T].tobytes().decode("ascii")


def expand(text: str) -> list[int]:
    """Decode COCO's compressed string to counts: the inverse of `compress`.

    Raises:
      RLEError: for an invalid character, or if the string ends within a number.
    """
    groups = np.array([ord(character) for character in text], np.int64) - 48
    if not ((groups >= 0) & (groups < 64)).all():
        wrong = text[int(np.flatnonzero((groups < 0) | (groups >= 64))[0])]
        raise RLEError(f"the compressed counts of an RLE mask consist of '0' to 'o'. Got {wrong!r}.")
    last = groups & 32 == 0
    if len(groups) and not last[-1]:
        raise RLEError("the compressed counts of an RLE mask end within a number: the file is cut short.")
    ends = np.flatnonzero(last)
    starts = np.concatenate([[0], ends[:-1] + 1])[: len(ends)]
    if (ends - starts).max(initial=0) >= _MOST_GROUPS:
        raise RLEError("a compressed count of an RLE mask is larger than any image.")
    shifts = 5 * (np.arange(len(groups)) - np.repeat(starts, ends - starts + 1))
    counts = np.add.reduceat((groups & 31) << shifts, starts) if len(ends) else groups
    counts -= np.where(groups[ends] & 16, 32 << shifts[ends], 0)
    counts[1::2], counts[2::2] = np.cumsum(counts[1::2]), np.cumsum(counts[2::2])
    return counts.tolist()
