"""Region tracks: regions that keep their ids from frame to frame, and one label each over time."""

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float, Int, Int32, Integer

from corrclip_jax.inference.segmentation import Segmentation

_LEAST_OVERLAP = 0.3
_DECAY = 0.8


class RegionTracks:
    """The regions of the frames so far; to be called with the result of every frame in turn.

    A region has the id of the region of the last frame with which it shares most: pairs are taken in the order of
    their intersection over union, down to `least_overlap`; the other regions get new ids. Every frame, a region's
    pixels vote for their labels; old votes count `decay` times as much as those of the next frame. A region that
    is new takes over the votes of the region that most of it belonged to. All pixels of a region get the label with
    most votes. Unsegmented pixels (id 0) stay as they are.
    """

    def __init__(
        self, classes: int, source: str, *, least_overlap: float = _LEAST_OVERLAP, decay: float = _DECAY
    ):
        """Begin without regions.

        Args:
          classes: how many there are.
          source: of the regions, as in `config.regions.source`.
          least_overlap: intersection over union of a region and its successor, at least.
          decay: what a vote counts in the next frame, 0..1; 0 leaves labels as they are.

        Raises:
          ValueError: for the source "none", and numbers out of range.
        """
        if source == "none":
            raise ValueError(
                "tracks follow regions, and regions='none' finds none. Choose a source, as 'slic'."
            )
        if not 0 < least_overlap <= 1 or not 0 <= decay < 1:
            raise ValueError(
                f"least_overlap must be over 0 and at most 1, decay at least 0 and below 1. Got {least_overlap} "
                f"and {decay}."
            )
        self._classes, self._least, self._decay = classes, least_overlap, decay
        self._map: Int[np.ndarray, "H W"] | None = None
        self._ids = np.zeros(0, np.int64)
        self._votes = np.zeros((0, classes))
        self._next = 1

    def __call__(self, result: Segmentation) -> Segmentation:
        """The result of the next frame, with ids that last and labels by vote; another size begins anew."""
        dense, is_region = _compact(result.regions)
        count = len(is_region)
        cells = np.bincount((dense * self._classes + result.labels).ravel(), minlength=count * self._classes)
        counts = cells.reshape(count, self._classes)
        areas = counts.sum(1)
        votes = counts / areas[:, None]
        ids = np.full(count, -1)
        if self._map is not None and self._map.shape == dense.shape:
            shared = np.bincount((self._map * count + dense).ravel(), minlength=len(self._ids) * count)
            shared = shared.reshape(-1, count)
            before, after = _pairs(shared, self._least)
            known = (self._ids[before] > 0) & is_region[after]
            ids[after[known]] = self._ids[before[known]]
            origin = shared.argmax(0)
            origin[after] = before
            inherits = (self._ids[origin] > 0) & (2 * shared[origin, np.arange(count)] > areas)
            inherits[after[known]] = True
            votes[inherits] += self._decay * self._votes[origin[inherits]]
        ids[~is_region] = 0
        new = np.flatnonzero(ids < 0)
        ids[new] = self._next + np.arange(len(new))
        self._next += len(new)
        self._map, self._ids, self._votes = dense, ids, votes
        winners = np.where(is_region, votes.argmax(1), -1)[dense]
        labels = np.where(winners < 0, result.labels, winners).astype(np.int32)
        return replace(result, labels=labels, regions=ids[dense].astype(np.int32))


def _compact(regions: Int32[np.ndarray, "H W"]) -> tuple[Int[np.ndarray, "H W"], Bool[np.ndarray, " n"]]:
    """The map with numbers from 0 in place of ids, and which of them are regions."""
    ids = np.flatnonzero(np.bincount(regions.ravel()))
    table = np.zeros(ids[-1] + 1, np.int64)
    table[ids] = np.arange(len(ids))
    return table[regions], ids > 0


def _pairs(
    shared: Integer[np.ndarray, "n m"], least: float
) -> tuple[Integer[np.ndarray, " pairs"], Integer[np.ndarray, " pairs"]]:
    """Pairs of rows and columns by intersection over union, each row and column once, the best first."""
    union = shared.sum(1)[:, None] + shared.sum(0)[None] - shared
    overlap: Float[np.ndarray, "n m"] = shared / np.maximum(union, 1)
    rows, columns = np.nonzero(overlap >= least)
    order = np.argsort(-overlap[rows, columns], kind="stable")
    used_rows, used_columns, kept = set(), set(), []
    for place in order.tolist():
        row, column = int(rows[place]), int(columns[place])
        if row not in used_rows and column not in used_columns:
            used_rows.add(row)
            used_columns.add(column)
            kept.append(place)
    return rows[kept], columns[kept]
