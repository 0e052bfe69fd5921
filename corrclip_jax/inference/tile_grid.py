"""Tile grid: where the overlapping tiles of a raster lie, which pixels each one labels, and their weights.

The sliding windows of neighbouring tiles are those of the whole raster, each in one tile: a tile begins one stride
after the last window of the tile before it, and overlaps it by a window less a stride. A tile's weight at a pixel
is the number of its windows there, which falls to its border. So the blended logits are the mean of all windows, as
in the whole raster. Tiles begin at multiples of a cell, once in which their class probabilities are known.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

CELL_MULTIPLE = 8
"""Strides are multiples of this many pixels, the side of the largest cell."""


class Axis(NamedTuple):
    """The tiles along an axis of a raster, in its pixels.

    Attributes:
      length: of the raster.
      side: of a tile; the last one may reach beyond the raster.
      starts: the first pixel of each tile.
      window: of the method's sliding windows.
      stride: of these.
    """

    length: int
    side: int
    starts: tuple[int, ...]
    window: int
    stride: int

    def core(self, index: int) -> tuple[int, int]:
        """The pixels that a tile labels, from and to: up to the middle of what it shares with its neighbours."""
        first = 0 if index == 0 else self._middle(index - 1)
        last = self.length if index == len(self.starts) - 1 else self._middle(index)
        return first, last

    def _middle(self, index: int) -> int:
        return min((self.starts[index + 1] + self.starts[index] + self.side) // 2, self.length)

    def touching(self, first: int, last: int) -> list[int]:
        """The tiles with pixels from `first` to `last`."""
        return [k for k, start in enumerate(self.starts) if start < last and start + self.side > first]

    def weights(self, cell: int) -> Float[np.ndarray, " cells"]:
        """The number of windows over each cell of a tile."""
        at = (np.arange(self.side // cell) + 0.5) * cell
        begins = np.arange(max(1, (self.side - self.window) // self.stride + 1)) * self.stride
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


def plan_axis(length: int, tile: int, window: int, stride: int, cell: int) -> Axis:
    """Tiles of about `tile` pixels, as few as there can be, with as many windows each.

    >>> plan_axis(1000, 512, 168, 56, 4).starts
    (0, 336, 672)
    """
    if length <= max(tile, window):
        return Axis(length, -(-length // cell) * cell, (0,), window, stride)
    needed = -(-(length - window) // stride) + 1
    most = max(1, (tile - window) // stride + 1)
    tiles = -(-needed // most)
    each = -(-needed // tiles)
    side = -(-((each - 1) * stride + window) // cell) * cell
    return Axis(length, side, tuple(index * each * stride for index in range(tiles)), window, stride)
