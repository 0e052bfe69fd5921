"""Region tracks: regions that keep their ids from frame to frame, and one label each over time."""

from collections import deque
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Int32, Integer

from corrclip_jax.inference.segmentation import Segmentation

_LEAST_OVERLAP = 0.3
_DECAY = 0.8
_PATIENCE = 3


class _Seen(NamedTuple):
    """A frame before: the map with numbers from 0, and the id and the votes of each number."""

    map: Int32[np.ndarray, "H W"]
    ids: Int[np.ndarray, " n"]
    votes: Float[np.ndarray, "n classes"]


class RegionTracks:
    """The regions of the frames so far; to be called with the result of every frame in turn.

    A region has the id of the region of the last frame with which it shares most: pairs are taken in the order of
    their intersection over union, down to `least_overlap`. The others are compared in the same way with the regions
    that were lost up to `patience` frames ago, the latest first, and then get new ids. Every frame, a region's
    pixels vote for their labels; old votes count `decay` times as much as those of the next frame. A region that
    is new takes over the votes of the region that most of it belonged to. All pixels of a region get the label with
    most votes. Unsegmented pixels (id 0) stay as they are.
    """

    def __init__(
        self,
        classes: int,
        source: str,
        *,
        least_overlap: float = _LEAST_OVERLAP,
        decay: float = _DECAY,
        patience: int = _PATIENCE,
    ):
        """Begin without regions.

        Args:
          classes: how many there are.
          source: of the regions, as in `config.regions.source`.
          least_overlap: intersection over union of a region and its successor, at least.
          decay: what a vote counts in the next frame, 0..1; 0 leaves labels as they are.
          patience: for how many frames a region may be gone and still keep its id.

        Raises:
          ValueError: for the source "none", and numbers out of range.
        """
        if source == "none":
            raise ValueError(
                "tracks follow regions, and regions='none' finds none. Choose a source, as 'slic'."
            )
        if not 0 < least_overlap <= 1 or not 0 <= decay < 1 or patience < 0:
            raise ValueError(
                "least_overlap must be over 0 and at most 1, decay from 0 to below 1, patience at least 0. Got "
                f"{least_overlap}, {decay} and {patience}."
            )
        self._classes, self._least, self._decay = classes, least_overlap, decay
        self._seen: deque[_Seen] = deque(maxlen=1 + patience)
        self._next = 1

    def __call__(self, result: Segmentation) -> Segmentation:
        """The result of the next frame, with ids that last and labels by vote; another size begins anew."""
        dense, is_region = _compact(result.regions)
        if self._seen and self._seen[0].map.shape != dense.shape:
            self._seen.clear()
        count = len(is_region)
        cells = np.bincount((dense * self._classes + result.labels).ravel(), minlength=count * self._classes)
        counts = cells.reshape(count, self._classes)
        votes = counts / counts.sum(1)[:, None]
        ids = np.where(is_region, -1, 0)
        self._follow(dense, ids, votes)
        new = np.flatnonzero(ids < 0)
        ids[new] = self._next + np.arange(len(new))
        self._next += len(new)
        self._seen.appendleft(_Seen(dense.astype(np.int32), ids, votes))
        winners = np.where(is_region, votes.argmax(1), -1)[dense]
        labels = np.where(winners < 0, result.labels, winners).astype(np.int32)
        return replace(result, labels=labels, regions=ids[dense].astype(np.int32))

    def _follow(
        self,
        dense: Int[np.ndarray, "H W"],
        ids: Int[np.ndarray, " m"],
        votes: Float[np.ndarray, "m classes"],
    ) -> None:
        """Give regions, whose `ids` are -1, those of the frames before, and add the old `votes`, in place."""
        inherits = np.zeros(len(ids), bool)
        newer = [np.zeros(0, np.int64)]
        for gap, seen in enumerate(self._seen, start=1):
            gone = (seen.ids > 0) & ~np.isin(seen.ids, np.concatenate([ids, *newer]))
            newer.append(seen.ids)
            if gap > 1 and not (gone.any() and (ids < 0).any()):
                continue
            shared = np.bincount((seen.map * len(ids) + dense).ravel(), minlength=len(seen.ids) * len(ids))
            shared = shared.reshape(-1, len(ids))
            before, after = _pairs(shared, self._least, gone, ids < 0)
            ids[after] = seen.ids[before]
            if gap > 1:  # votes of what was there meanwhile are newer
                before, after = before[~inherits[after]], after[~inherits[after]]
            votes[after] += self._decay**gap * seen.votes[before]
            if gap == 1:
                origin = shared.argmax(0)
                inherits = (seen.ids[origin] > 0) & (2 * shared[origin, np.arange(len(ids))] > shared.sum(0))
                inherits &= ids < 0
                votes[inherits] += self._decay * seen.votes[origin[inherits]]


def _compact(regions: Int32[np.ndarray, "H W"]) -> tuple[Int[np.ndarray, "H W"], Bool[np.ndarray, " n"]]:
    """The map with numbers from 0 in place of ids, and which of them are regions."""
    ids = np.flatnonzero(np.bincount(regions.ravel()))
    table = np.zeros(ids[-1] + 1, np.int64)
    table[ids] = np.arange(len(ids))
    return table[regions], ids > 0


def _pairs(
    shared: Integer[np.ndarray, "n m"],
    least: float,
    is_row: Bool[np.ndarray, " n"],
    is_column: Bool[np.ndarray, " m"],
) -> tuple[Integer[np.ndarray, " pairs"], Integer[np.ndarray, " pairs"]]:
    """Pairs of such rows and columns by intersection over union, each once, the best first."""
    union = shared.sum(1)[:, None] + shared.sum(0)[None] - shared
    overlap: Float[np.ndarray, "n m"] = shared / np.maximum(union, 1)
    rows, columns = np.nonzero((overlap >= least) & is_row[:, None] & is_column)
    order = np.argsort(-overlap[rows, columns], kind="stable")
    used_rows, used_columns, kept = set(), set(), []
    for place in order.tolist():
        row, column = int(rows[place]), int(columns[place])
        if row not in used_rows and column not in used_columns:
            used_rows.add(row)
            used_columns.add(column)
            kept.append(place)
    return rows[kept], columns[kept]
