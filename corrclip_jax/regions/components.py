"""Connected components of label maps and masks, and the removal of small ones, inside jit.

Shapes: H W the map, n = H * W.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Shaped

# The directions (dy, dx) of a pixel's neighbours.
_DIRECTIONS = {
    4: ((-1, 0), (0, -1), (0, 1), (1, 0)),
    8: ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)),
}


def components(
    labels: Int[Array, "H W"] | Bool[Array, "H W"], neighbours: Literal[4, 8]
) -> Int[Array, "H W"]:
    """Number the connected components of pixels with one label, each by its first pixel in reading order.

    Every pixel points to one of its component that is not after it, at first to itself. In a round, it takes the
    smallest pointer around it, the pixel that it pointed to takes that one too, and pointers are followed twice:
    distances multiply, so that the number of rounds grows with the logarithm of the longest path through a
    component.

    Args:
      labels: the map, or a mask; 0 (False) is background.
      neighbours: whether pixels are connected across edges (4) or across edges and corners (8).

    Returns:
      Indices y * W + x; n for the background.
    """
    shape, count = labels.shape, labels.size
    # On CPUs a window is several times faster than the comparison of eight neighbours.
    window = neighbours == 8 and labels.dtype == bool
    same = [] if window else [near == labels for near in shifted(labels, neighbours, 0)]

    def least_around(pointers: Int[Array, "H W"]) -> Int[Array, "H W"]:
        if window:
            least = jax.lax.reduce_window(pointers, count, jax.lax.min, (3, 3), (1, 1), "SAME")
            return jnp.where(labels, least, count)
        least = pointers
        for alike, near in zip(same, shifted(pointers, neighbours, count), strict=True):
            least = jnp.minimum(least, jnp.where(alike, near, pointers))
        return least

    def step(state: tuple[Array, Array]) -> tuple[Array, Array]:
        before, _ = state
        at, least = before.ravel(), least_around(before).ravel()
        moved = jnp.minimum(at.at[at].min(least, mode="drop"), least)
        for _ in range(2):
            moved = moved.at[moved].get(mode="fill", fill_value=count)
        return moved.reshape(shape), before

    start = jnp.where(labels.astype(bool), jnp.arange(count, dtype=jnp.int32).reshape(shape), count)
    return jax.lax.while_loop(lambda state: jnp.any(state[0] != state[1]), step, step((start, start)))[0]


def shifted(
    x: Shaped[Array, "H W *rest"], neighbours: Literal[4, 8], edge: int
) -> list[Shaped[Array, "H W *rest"]]:
    """The neighbours of all pixels, an array for each direction, in reading order; `edge` beyond the edges."""
    height, width = x.shape[:2]
    padded = jnp.pad(x, ((1, 1), (1, 1), *[(0, 0)] * (x.ndim - 2)), constant_values=edge)
    return [padded[1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width] for dy, dx in _DIRECTIONS[neighbours]]


def remove_small(mask: Bool[Array, "H W"], min_area: int) -> tuple[Bool[Array, "H W"], Bool[Array, ""]]:
    """Fill holes, then drop islands of fewer than `min_area` pixels; and whether that changed anything.

    `remove_small_regions` of `facebookresearch/segment-anything`, twice. Where all islands are small the largest is
    left. The surroundings of a mask count as a hole like any other. Pixels are connected across edges and corners.
    """
    holes = components(~mask, 8)
    small_holes = ~mask & (_areas(holes)[holes] < min_area)
    filled = mask | small_holes
    islands = components(filled, 8)
    areas = _areas(islands)
    area = areas[islands]
    small = filled & (area < min_area)
    largest = filled & (islands == jnp.argmax(areas))
    cleaned = filled & ~small
    cleaned = jnp.where(cleaned.any(), cleaned, largest)
    return cleaned, small_holes.any() | small.any()


def _areas(numbers: Int[Array, "H W"]) -> Int[Array, " n_plus_1"]:
    """Pixels of each component by its number; 0 for the background."""
    count = numbers.size
    return jnp.zeros(count + 1, jnp.int32).at[numbers.ravel()].add(1).at[count].set(0)
