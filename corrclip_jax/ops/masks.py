"""Mask of the pixels that are an image's own, in an array that pads it."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from corrclip_jax.ops.resize import Length


def inside(shape: tuple[int, ...], size: Int[Array, "2"] | tuple[Length, Length]) -> Bool[Array, "H W"]:
    """Which pixels of an array of `shape` belong to an image in its top left corner.

    Args:
      shape: static height and width.
      size: the image's height and width; may be traced.
    """
    height, width = shape
    return (jnp.arange(height) < size[0])[:, None] & (jnp.arange(width) < size[1])[None]
