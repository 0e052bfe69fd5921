"""Labels of tiles: blended in the logits, and corrected by regions that are joined across the seams.

Logarithms of a tile's probabilities are its logits but for a number that all classes of a pixel share. Their
weighted mean over the tiles is therefore the mean of the logits. As a whole image does, each region then takes
its most frequent label; a region's pieces in several tiles vote together.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Integer

from corrclip_jax.inference.tile_grid import Axis, TileGrid
from corrclip_jax.inference.tile_store import TileStore
from corrclip_jax.ops.equivalence import equivalence_classes

_LEAST = 2.0**-24  # the smallest number above 0 of the tiles' probabilities
_SAME = 0.5  # intersection over union, where two tiles overlap, above which their regions are one
_MOST_TILES = 8
_ROWS = 64


class Labelled(NamedTuple):
    """The pixels that a tile labels.

    Attributes:
      labels: before the correction by region.
      regions: ids in the tile.
      valid: which pixels have data.
    """

    labels: Int[np.ndarray, "h w"]
    regions: Int[np.ndarray, "h w"]
    valid: Bool[np.ndarray, "h w"]


def label_core(store: TileStore, grid: TileGrid, place: tuple[int, int], threshold: float) -> Labelled:
    """The pixels that a tile labels, from its own and its neighbours' probabilities."""
    tile, own = store.read(place), grid.own(place)
    valid, regions = tile.valid[own], tile.regions[own].astype(np.int64)
    labels = np.zeros(valid.shape, np.int64)
    if valid.any():
        for part, logits, mass in _strips(store, grid, place):
            best = logits.argmax(axis=0)
            labels[part] = np.where(_chances(logits, mass, best) < threshold, 0, best)
    return Labelled(labels, regions, valid)


def class_chances(
    store: TileStore, grid: TileGrid, place: tuple[int, int], labels: Integer[np.ndarray, "h w"]
) -> Float[np.ndarray, "h w"]:
    """The probability of each pixel's class in `labels`, of the pixels that a tile labels; 0 without data."""
    valid = store.read(place).valid[grid.own(place)]
    chances = np.zeros(valid.shape, np.float32)
    if valid.any():
        labels = np.where(valid, labels, 0).astype(np.int64)
        for part, logits, mass in _strips(store, grid, place):
            chances[part] = _chances(logits, mass, labels[part])
    return np.where(valid, chances, 0)


def _strips(
    store: TileStore, grid: TileGrid, place: tuple[int, int]
) -> Iterator[tuple[slice, Float[np.ndarray, "K h w"], Float[np.ndarray, "h w"]]]:
    """Logits and the sum of all probabilities of the pixels that a tile labels, some rows at a time."""
    (top, bottom), (left, right) = grid.y.core(place[0]), grid.x.core(place[1])
    first, logits, mass = _blended(store, grid, (top, bottom), (left, right))
    columns = _interpolation(np.arange(left, right), first[1], logits.shape[2], grid.cell)
    for row in range(0, bottom - top, _ROWS):
        rows = np.arange(top + row, min(top + row + _ROWS, bottom))
        across = _interpolation(rows, first[0], logits.shape[1], grid.cell), columns
        yield slice(row, row + len(rows)), _spread(logits, *across), _spread(mass[None], *across)[0]


def _blended(
    store: TileStore, grid: TileGrid, rows: tuple[int, int], columns: tuple[int, int]
) -> tuple[tuple[int, int], Float[np.ndarray, "K h w"], Float[np.ndarray, "h w"]]:
    """Mean logits and the mean sum of all probabilities at the cells of some pixels, and the first cell."""
    cell = grid.cell
    (top, bottom), (left, right) = _cells(rows, grid.y, cell), _cells(columns, grid.x, cell)
    total: np.ndarray | None = None
    sums = np.zeros((bottom - top, right - left), np.float32)
    weight = np.zeros((bottom - top, right - left), np.float32)
    for row in grid.y.touching(top * cell, bottom * cell):
        for column in grid.x.touching(left * cell, right * cell):
            chances = store.read((row, column)).probabilities
            if chances is None:
                continue
            y, x = grid.y.starts[row] // cell, grid.x.starts[column] // cell
            here, there = _shared(y, chances.shape[1], top, bottom), _shared(x, chances.shape[2], left, right)
            own = chances[:, here[0], there[0]].astype(np.float32)
            share = np.outer(grid.y.weights(row, cell)[here[0]], grid.x.weights(column, cell)[there[0]])
            if total is None:
                total = np.zeros((len(own), *weight.shape), np.float32)
            place = here[1], there[1]
            weight[place] += share
            total[(slice(None), *place)] += share * np.log(np.maximum(own, _LEAST))
            sums[place] += share * own.sum(axis=0)
    assert total is not None
    return (top, left), total / np.maximum(weight, 1e-12), sums / np.maximum(weight, 1e-12)


def _cells(pixels: tuple[int, int], axis: Axis, cell: int) -> tuple[int, int]:
    """The cells of some pixels with one more on either side, as far as there are any."""
    return max(pixels[0] // cell - 1, 0), min(-(-pixels[1] // cell) + 1, -(-axis.length // cell))


def _shared(start: int, count: int, first: int, last: int) -> tuple[slice, slice]:
    """The cells that a tile shares with a range: in the tile, and in the range."""
    low, high = max(start, first), min(start + count, last)
    return slice(low - start, high - start), slice(low - first, high - first)


def _interpolation(
    pixels: Int[np.ndarray, " n"], first: int, count: int, cell: int
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """For each pixel two cells and the share of the second; a cell's value is that of its middle pixel."""
    at = np.clip((pixels - cell // 2) / cell - first, 0, count - 1)
    low = np.floor(at).astype(int)
    return low, np.minimum(low + 1, count - 1), (at - low).astype(np.float32)


def _spread(values: Float[np.ndarray, "K h w"], rows: tuple, columns: tuple) -> Float[np.ndarray, "K H W"]:
    low, high, share = rows
    lines = values[:, low] * (1 - share)[:, None] + values[:, high] * share[:, None]
    low, high, share = columns
    return lines[:, :, low] * (1 - share) + lines[:, :, high] * share


def _chances(
    logits: Float[np.ndarray, "K h w"], mass: Float[np.ndarray, "h w"], labels: Int[np.ndarray, "h w"]
) -> Float[np.ndarray, "h w"]:
    """The probability of each pixel's class; with synonyms all classes sum up to less than 1, to `mass`."""
    powers = np.exp(logits - logits.max(axis=0))
    return mass * np.take_along_axis(powers, labels[None], axis=0)[0] / powers.sum(axis=0)


class RegionVotes:
    """Votes of the regions' pixels for labels, tile by tile; the pieces of a region in several tiles vote together.

    Two regions of neighbouring tiles are one if they agree where the tiles overlap: their intersection is more than
    half of their union there. Tiles are added row by row.
    """

    def __init__(self, store: TileStore, grid: TileGrid, classes: int):
        self._store, self._grid, self._classes = store, grid, classes
        self._offsets: dict[tuple[int, int], int] = {}
        self._counts: dict[tuple[int, int], int] = {}
        self._total = 0
        self._pairs: list[np.ndarray] = [np.zeros((0, 2), np.int32)]
        self._votes: list[np.ndarray] = []

    def add(self, place: tuple[int, int], found: Labelled) -> None:
        """Count the votes of the pixels that a tile labels; join its regions with those above and to the left."""
        labels, regions, valid = found
        offset = self._offsets[place] = self._total
        self._counts[place] = int(self._store.read(place).regions.max(initial=0)) + 1
        self._total += self._counts[place]
        voting = valid & (regions > 0)
        keys, numbers = np.unique(
            (regions[voting] + offset) * self._classes + labels[voting], return_counts=True
        )
        votes = np.stack([keys // self._classes, keys % self._classes, numbers])
        self._votes.append(votes.astype(np.int32))
        for other in ((place[0], place[1] - 1), (place[0] - 1, place[1])):
            if other in self._offsets:
                same = _same(self._store, self._grid, other, place)
                self._pairs.append((same + np.array([self._offsets[other], offset])).astype(np.int32))

    def winners(self) -> dict[tuple[int, int], Int[np.ndarray, " R"]]:
        """The label of every region of every tile, by region id; -1 where pixels keep theirs.

        These are those of id 0, and of regions that reach over more than `_MOST_TILES` tiles: one label from there
        to here would be wrong more often than right.
        """
        region, label, number = np.concatenate(self._votes, axis=1).astype(np.int64)
        roots = equivalence_classes(self._total, np.concatenate(self._pairs)).astype(np.int64)
        keys, place_of = np.unique(roots[region] * self._classes + label, return_inverse=True)
        totals = np.bincount(place_of, number, len(keys)).astype(np.int64)
        # The most votes last, and the smallest class of several.
        order = np.lexsort((-(keys % self._classes), totals))
        winners = np.full(self._total, -1)
        winners[keys[order] // self._classes] = keys[order] % self._classes
        winners[self._too_wide(roots)] = -1
        winning = winners[roots]
        for offset in self._offsets.values():
            winning[offset] = -1
        return {
            place: winning[offset : offset + self._counts[place]] for place, offset in self._offsets.items()
        }

    def _too_wide(self, roots: Int[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
        """The joined regions that reach over too many tiles in a direction."""
        counts = list(self._counts.values())
        wide = np.zeros(self._total, bool)
        for axis in (0, 1):
            at = np.repeat([place[axis] for place in self._counts], counts)
            first, last = np.full(self._total, self._total), np.full(self._total, -1)
            np.minimum.at(first, roots, at)
            np.maximum.at(last, roots, at)
            wide |= last - first >= _MOST_TILES
        return np.flatnonzero(wide)


def _same(
    store: TileStore, grid: TileGrid, one: tuple[int, int], other: tuple[int, int]
) -> Int[np.ndarray, "n 2"]:
    """Pairs of regions of two tiles that are the same where the tiles overlap."""
    shifts = grid.y.starts[other[0]] - grid.y.starts[one[0]], grid.x.starts[other[1]] - grid.x.starts[one[1]]
    mine, its = store.read(one).regions, store.read(other).regions
    mine = mine[shifts[0] :, shifts[1] :].astype(np.int64)
    its = its[: mine.shape[0], : mine.shape[1]].astype(np.int64)
    mine = mine[: its.shape[0], : its.shape[1]]
    most = int(its.max(initial=0)) + 1
    pairs, both = np.unique(mine * most + its, return_counts=True)
    a, b = pairs // most, pairs % most
    union = np.bincount(mine.ravel())[a] + np.bincount(its.ravel())[b] - both
    same = (a > 0) & (b > 0) & (both > _SAME * union)
    return np.stack([a[same], b[same]], axis=1)
