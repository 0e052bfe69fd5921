"""Raster tiles: the tiles of a raster run through the networks, those that are done are kept in a folder."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import numpy as np
from jaxtyping import Float16

from corrclip_jax.config import Config, with_fields
from corrclip_jax.inference.label_runner import Outcome, Request
from corrclip_jax.inference.segmenter import Segmenter
from corrclip_jax.inference.tile_grid import TileGrid, plan_axis
from corrclip_jax.inference.tile_store import Tile, TileStore
from corrclip_jax.io.rasters import Raster, RasterError

_POINTS_PER_PATCH = 4
_TILE_BYTES = 512 << 20  # of a tile's probabilities as float32
_PREVIEW = 1024
_SMALLEST_CELL, _LARGEST_CELL = 2, 8

Place = tuple[int, int]
OnStep = Callable[[str, int, int], object]
"""Called with what is being done ("Tiles", "Seams", "Labels", "Polygons"), how much is done, and the total."""


class Stopped(Exception):
    """The run was asked to end; the tiles that are done are kept."""


class Tiling(NamedTuple):
    """How a raster is cut.

    Attributes:
      tile: side of a tile in pixels, at most; two windows of the method if these are more.
      zoom: size at which the networks see the raster, as a factor; about, since windows begin at whole pixels.
    """

    tile: int = 1024
    zoom: float = 1.0

    def check(self) -> None:
        """Refuse what does not fit.

        Raises:
          ValueError: with what is expected.
        """
        if self.tile < 64 or not 0.05 <= self.zoom <= 4:
            raise ValueError(
                f"tiles must have a side of at least 64 pixels and a zoom of 0.05 to 4. Got a side of {self.tile} "
                f"and a zoom of {self.zoom:g}."
            )


class RasterTiles:
    """A raster with its tiles.

    Attributes:
      raster: what is labelled.
      classes: the names of each class, synonyms included.
      grid: of the tiles.
      config: that of the model, for networks that see tiles at the right size.
      step: of how many rows and columns the preview shows one.
    """

    def __init__(
        self, segmenter: Segmenter, raster: Raster, classes: Sequence[Sequence[str]], tiling: Tiling
    ):
        self.raster = raster
        self.classes = [list(names) for names in classes]
        method = segmenter.config.method
        cell = _cell(segmenter.config.clip.vision.patch_size, tiling, len(self.classes))
        stride = max(1, round(method.stride / tiling.zoom / cell)) * cell
        window = round(method.window * stride / method.stride)
        y, x = (plan_axis(side, tiling.tile, window, stride, cell) for side in (raster.height, raster.width))
        self.grid = TileGrid(y, x, cell)
        self.config = scaled_config(segmenter.config, self.grid, method.stride / stride)
        self._segmenter = segmenter
        self.step = max(1, -(-max(raster.height, raster.width) // _PREVIEW))

    @property
    def names(self) -> list[str]:
        """The first name of each class."""
        return [names[0] for names in self.classes]

    def run(self, store: TileStore, on_step: OnStep, stop: Callable[[], bool]) -> int:
        """Run the tiles that are not done; returns how many were.

        Raises:
          RasterError: where the raster is damaged.
          Stopped: if `stop` said so.
        """
        places = self.grid.tiles
        left = [place for place in places if not store.has(place)]
        before = done = len(places) - len(left)
        on_step("Tiles", done, len(places))
        read: dict[int, tuple[np.ndarray, np.ndarray]] = {}

        def request(index: int) -> Request | Exception:
            try:
                seen, valid, small = self._read(left[index])
            except RasterError as error:
                return error
            if not valid.any():
                return _Empty(valid, small)
            read[index] = valid, small
            return Request(seen, None)

        # Every tile is planned as a whole one, so that all share a program.
        sizes = [self.grid.sides] * len(left)
        text = self._segmenter.embed(self.classes)
        runner = self._segmenter.runner_of(self.config, -(-max(self.grid.sides) // self.grid.cell))
        for index, _, found in runner.work(sizes, [False] * len(sizes), request, text):
            if isinstance(found, Outcome):
                store.write(left[index], self._tile(left[index], found, *read.pop(index)))
            elif isinstance(found, _Empty):
                regions = np.zeros(found.valid.shape, np.uint16)
                store.write(left[index], Tile(None, regions, found.valid, found.small))
            else:
                raise found
            done += 1
            on_step("Tiles", done, len(places))
            if stop():
                raise Stopped(f"{done} of {len(places)} tiles of {self.raster} are kept")
        return before

    def _read(self, place: Place) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What the networks see of a tile, which of its pixels have data, and some pixels for the preview."""
        (top, left), (height, width) = self.grid.corner(place), self.grid.extent(place)
        seen, valid = self.raster.read(top, left, *self.grid.seen(place))
        small = seen[-top % self.step : height : self.step, -left % self.step : width : self.step].copy()
        return seen, valid[:height, :width], small

    def _tile(self, place: Place, found: Outcome, valid: np.ndarray, small: np.ndarray) -> Tile:
        height, width = self.grid.extent(place)
        regions = found.regions[:height, :width]
        most = int(regions.max(initial=0))
        asked = cast(np.ndarray, found.probabilities)  # of the segmenter, which was told the points
        chances = at_cells(asked[: len(self.classes)], found.regions.shape, (height, width), self.grid.cell)
        return Tile(chances, regions.astype(np.uint16 if most < 65536 else np.int32), valid, small)


def scaled_config(config: Config, grid: TileGrid, zoom: float) -> Config:
    """The configuration with which networks see a raster's whole tiles at `zoom` times their size."""
    shorter, longer = (max(1, round(side * zoom)) for side in sorted(grid.sides))
    sizes = {"resize_short": longer + 1, "resize_long": longer}
    if grid.by_shorter:
        sizes = {"resize_short": shorter, "resize_long": max(longer, 2 * shorter) + 1}
    superpixel = grid.common_side(config.regions.slic.segments)
    return with_fields(config, method=sizes, regions={"slic": {"side": superpixel}})


def at_cells(
    chances: Float16[np.ndarray, "K a b"], seen: tuple[int, ...], extent: tuple[int, int], cell: int
) -> Float16[np.ndarray, "K h w"]:
    """Probabilities at evenly spaced points (see `method.sample_points`) as those of the middles of cells.

    They are the same if cells divide the sides of what was seen, and interpolated otherwise.
    """
    for axis in (0, 1):
        count = chances.shape[axis + 1]
        points = (2 * np.arange(count) + 1) * seen[axis] // (2 * count)
        wanted = np.arange(-(-extent[axis] // cell)) * cell + cell // 2
        at = np.interp(wanted, points, np.arange(count))
        low = np.floor(at).astype(int)
        shape = [1, 1, 1]
        shape[axis + 1] = len(at)
        share = (at - low).astype(np.float32).reshape(shape)
        high = np.minimum(low + 1, count - 1)
        chances = chances.take(low, axis + 1) * (1 - share) + chances.take(high, axis + 1) * share
    return chances.astype(np.float16)


class _Empty(Exception):
    """A tile without data, which no network needs to see."""

    def __init__(self, valid: np.ndarray, small: np.ndarray):
        super().__init__()
        self.valid, self.small = valid, small


def _cell(patch: int, tiling: Tiling, classes: int) -> int:
    """Pixels between the points at which probabilities are kept: a quarter of a patch, more for many classes."""
    cell = _LARGEST_CELL
    while cell > _SMALLEST_CELL and cell > patch / tiling.zoom / _POINTS_PER_PATCH:
        cell //= 2
    while cell < _LARGEST_CELL and classes * (tiling.tile // cell) ** 2 * 4 > _TILE_BYTES:
        cell *= 2
    return cell
