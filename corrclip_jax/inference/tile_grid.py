"""Tile grid: where the overlapping tiles of a raster lie, which pixels each one labels, and their weights.

The sliding windows of the tiles are those of the whole raster, each in one tile: a tile begins one stride after the
last window of the tile before it, and overlaps it by a window less a stride. The last tile of an axis ends where
the raster does, and so does its last window, which is shifted as it is in the whole raster. A tile's weight at a
pixel is the number of its windows there, which falls to its border. So the blended logits are the mean of all
windows, as in the whole raster. Tiles begin at multiples of a cell, once in which their class probabilities are
known.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Axis(NamedTuple):
    """The tiles along an axis of a raster, in its pixels.

    Attributes:
      length: of the raster.
      side: of a tile but the last, which may be shorter.
      starts: the first pixel of each tile.
      window: of the method's sliding windows.
      stride: of these, a multiple of a cell.
    """

    length: int
    side: int
    starts: tuple[int, ...]
    window: int
    stride: int

    def extent(self, index: int) -> int:
        """How many pixels a tile has."""
        return min(self.side, self.length - self.starts[index])

    def core(self, index: int) -> tuple[int, int]:
        """The pixels that a tile labels, from and to: up to the middle of what it shares with its neighbours."""
        first = 0 if index == 0 else self._middle(index - 1)
        last = self.length if index == len(self.starts) - 1 else self._middle(index)
        return first, last

    def _middle(self, index: int) -> int:
        return (self.starts[index + 1] + self.starts[index] + self.side) // 2

    def touching(self, first: int, last: int) -> list[int]:
        """The tiles with pixels from `first` to `last`."""
        return [k for k, start in enumerate(self.starts) if start < last and start + self.side > first]

    def weights(self, index: int, cell: int) -> Float[np.ndarray, " cells"]:
        """The number of windows over each cell of a tile; at least 1."""
        extent = self.extent(index)
        at = (np.arange(-(-extent // cell)) + 0.5) * cell
        # A last window that is alone may begin within a cell; then it is seen twice, a few pixels apart.
        count = -(-(extent - self.window) // self.stride) if extent >= self.window + cell else 0
        begins = np.minimum(np.arange(count + 1) * self.stride, max(extent - self.window, 0))
        inside = (begins[:, None] <= at) & (at < begins[:, None] + self.window)
        return np.maximum(inside.sum(axis=0), 1).astype(np.float64)


class TileGrid(NamedTuple):
    """The tiles of a raster, row by row, and the side of a cell in pixels."""

    y: Axis
    x: Axis
    cell: int

    @property
    def tiles(self) -> list[tuple[int, int]]:
        """Row and column of every tile."""
        return [(row, column) for row in range(len(self.y.starts)) for column in range(len(self.x.starts))]

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of a tile, the largest there are."""
        return self.y.side, self.x.side

    def extent(self, place: tuple[int, int]) -> tuple[int, int]:
        """Height and width of a tile."""
        return self.y.extent(place[0]), self.x.extent(place[1])

    def corner(self, place: tuple[int, int]) -> tuple[int, int]:
        """The first row and column of a tile."""
        return self.y.starts[place[0]], self.x.starts[place[1]]

    def own(self, place: tuple[int, int]) -> tuple[slice, slice]:
        """Where the pixels that a tile labels lie in it."""
        (top, bottom), (left, right) = self.y.core(place[0]), self.x.core(place[1])
        y, x = self.corner(place)
        return slice(top - y, bottom - y), slice(left - x, right - x)

    def common_side(self, most: int) -> int | None:
        """The smallest side of squares that divide the tiles so that they are those of one grid on the raster.

        Tiles begin at multiples of it, but perhaps the last ones, and at most `most` squares cover a tile. None for
        one tile, and where there is no such side.
        """
        regular = [axis.starts[:-1] if len(axis.starts) > 2 else axis.starts for axis in (self.y, self.x)]
        step = math.gcd(*regular[0], *regular[1])
        sides = [side for side in range(1, step + 1) if step % side == 0]
        height, width = self.sides
        return next((side for side in sides if -(-height // side) * -(-width // side) <= most), None)

    @property
    def by_shorter(self) -> bool:
        """Whether the shorter sides of all tiles are equal rather than the longer ones.

        The method resizes an image by its shorter or its longer side, and all tiles must be resized alike.
        """
        single, other = sorted((self.y, self.x), key=lambda axis: len(axis.starts))
        return len(single.starts) == 1 < len(other.starts) and single.side < other.side

    def seen(self, place: tuple[int, int]) -> tuple[int, int]:
        """Height and width of a tile as the networks see it, some mirror image beyond the raster included.

        That is needed where both sides are too short to be resized as other tiles are: in the lower right corner.
        """
        height, width = self.extent(place)
        if self.by_shorter:
            return max(height, min(self.sides)), max(width, min(self.sides))
        if max(height, width) == max(self.sides):
            return height, width
        return (self.y.side, width) if self.y.side > self.x.side else (height, self.x.side)


def plan_axis(length: int, tile: int, window: int, stride: int, cell: int) -> Axis:
    """The fewest tiles of at most `tile` pixels, or of two windows where that is more.

    >>> plan_axis(1000, 512, 168, 56, 4)
    Axis(length=1000, side=504, starts=(0, 392, 784), window=168, stride=56)
    """
    if length <= max(tile, window + stride):
        return Axis(length, length, (0,), window, stride)
    needed = -(-(length - window) // stride) + 1
    most = max(2, (tile - window) // stride + 1)
    side = (most - 1) * stride + window
    starts = [first * stride for first in range(0, needed, most)]
    # A last window that is shifted and alone begins before its place on the grid.
    starts[-1] = min(starts[-1], (length - window) // cell * cell)
    return Axis(length, side, tuple(starts), window, stride)
