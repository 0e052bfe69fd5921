"""Tile grid: the windows of all tiles are those of the whole raster."""

from itertools import pairwise

import numpy as np
import pytest

from corrclip_jax.inference.raster_tiles import at_cells
from corrclip_jax.inference.tile_grid import TileGrid, plan_axis


def windows(length, window, stride):
    """Where the method's windows begin (METHOD.md, section 3)."""
    count = max(0, -(-(length - window) // stride)) + 1
    return [max(min(k * stride + window, length) - window, 0) for k in range(count)]


@pytest.mark.parametrize(("window", "stride", "tile"), [(168, 56, 512), (48, 24, 64), (768, 256, 1024)])
def test_windows_of_tiles_are_those_of_the_raster(window, stride, tile):
    for length in range(20, 3000, 7):
        axis = plan_axis(length, tile, window, stride, 8)
        tiles = range(len(axis.starts))
        whole = windows(length, window, stride)
        found = [axis.starts[k] + start for k in tiles for start in windows(axis.extent(k), window, stride)]
        # At most one is seen twice, a few pixels apart.
        more = sorted(set(found) - set(whole))
        assert set(whole) <= set(found)
        assert len(found) <= len(whole) + 1
        assert all(whole[-1] - one < 8 for one in more)
        cores = [axis.core(k) for k in tiles]
        assert [cores[0][0], cores[-1][1]] == [0, length]
        assert all(one[1] == other[0] for one, other in pairwise(cores))


@pytest.mark.parametrize("shape", [(500, 700), (160, 300), (300, 160), (900, 40), (60, 60)])
def test_all_tiles_are_resized_alike(shape):
    grid = TileGrid(*(plan_axis(side, 128, 64, 32, 8) for side in shape), 8)
    seen = [grid.seen(place) for place in grid.tiles]
    deciding = {min(one) if grid.by_shorter else max(one) for one in seen}
    assert len(deciding) == 1
    for place, one in zip(grid.tiles, seen, strict=True):
        assert all(a <= b <= c for a, b, c in zip(grid.extent(place), one, grid.sides, strict=True))


def test_probabilities_are_those_of_the_middles_of_cells():
    place = np.arange(30, dtype=np.float16).reshape(1, 1, 30) * np.ones((1, 4, 1), np.float16)
    assert (at_cells(place, (16, 120), (16, 120), 4) == place).all()
    points = (2 * np.arange(15) + 1) * 124 // 30  # cells of 8 pixels and a bit
    linear = np.tile(points.astype(np.float16), (1, 2, 1))
    found = at_cells(linear, (16, 124), (16, 124), 8)
    assert found.shape == (1, 2, 16)
    assert np.allclose(found[0, 0, :-1], np.arange(15) * 8 + 4, atol=0.1)
