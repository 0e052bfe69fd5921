"""Points of an image at which the probabilities of all classes are given: the middles of an even grid of cells."""

from typing import TypeVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from corrclip_jax.ops.integers import quotient

Numbers = TypeVar("Numbers", np.ndarray, Array)


def points_per_side(size: Numbers, most: int) -> Numbers:
    """How many rows and columns of points an image has: `most` along its longer side, or all pixels of a small one.

    Args:
      size: height and width of the image, or of several; [..., 2].
      most: points along the longer side.

    >>> points_per_side(np.array([[480, 640], [3, 40]]), 64).tolist()
    [[48, 64], [3, 40]]
    """
    longer = size.max(axis=-1, keepdims=True)
    count = longer.clip(max=most)
    return quotient(2 * size * count + longer, 2 * longer.clip(min=1)).clip(min=1)


def sample_pixels(length: Int[Array, ""], count: Int[Array, ""], most: int) -> Int[Array, " {most}"]:
    """The pixels of `count` points along a side of `length` pixels; beyond the count, the last pixel."""
    middles = quotient((2 * jnp.arange(most) + 1) * length, 2 * jnp.maximum(count, 1))
    return jnp.clip(middles, 0, jnp.maximum(length - 1, 0))
