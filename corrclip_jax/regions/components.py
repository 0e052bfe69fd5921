"""Connected components of masks, and the removal of small ones, inside jit.

Pixels are neighbours across edges and corners. Shapes: H W the mask, n = H * W.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


def components(mask: Bool[Array, "H W"]) -> Int[Array, "H W"]:
    """A number for each connected component, that of its first pixel in reading order; n outside of the mask.

    Every pixel points at a pixel of its component, at first itself. In a round it takes the smallest pointer around
    it, what it pointed at learns of that too, and pointers are followed one step: distances double, so that the
    number of rounds grows with the logarithm of the longest way through a component, not with its length.
    """
    height, width = mask.shape
    count = height * width
    own = jnp.where(mask, jnp.arange(count).reshape(mask.shape), count)

    def smallest_around(pointers):
        return jax.lax.reduce_window(pointers, count, jax.lax.min, (3, 3), (1, 1), "SAME")

    def step(state):
        before, _ = state
        around = jnp.where(mask, smallest_around(before), count)
        # The last entry is what pixels outside of the mask point at.
        table = jnp.append(before.ravel(), count).at[before.ravel()].min(around.ravel()).at[count].set(count)
        after = jnp.minimum(around, table[:count].reshape(mask.shape))
        return table[after], before

    start = step((own, own))
    return jax.lax.while_loop(lambda state: jnp.any(state[0] != state[1]), step, start)[0]


def remove_small(mask: Bool[Array, "H W"], min_area: int) -> tuple[Bool[Array, "H W"], Bool[Array, ""]]:
    """Fill the holes, then drop the islands of fewer than `min_area` pixels; and whether that changed anything.

    Where all islands are small the largest is left. The surroundings of a mask count as a hole like any other, as
    in SAM's own program.
    """
    holes = components(~mask)
    small_holes = ~mask & (_areas(holes)[holes] < min_area)
    filled = mask | small_holes
    islands = components(filled)
    areas = _areas(islands)
    size = areas[islands]
    small = filled & (size < min_area)
    largest = filled & (islands == jnp.argmax(areas))
    cleaned = filled & ~small
    cleaned = jnp.where(cleaned.any(), cleaned, largest)
    return cleaned, small_holes.any() | small.any()


def _areas(labels: Int[Array, "H W"]) -> Int[Array, " n_plus_1"]:
    """Pixels of each component by its number; 0 for what is outside."""
    count = labels.size
    return jnp.zeros(count + 1, jnp.int32).at[labels.ravel()].add(1).at[count].set(0)
