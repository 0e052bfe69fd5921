"""Compiled programs that tests share: one jitted function for each configuration, kept for the whole process."""

import functools
from collections.abc import Callable
from typing import Any

import jax

from corrclip_jax.config import Config
from corrclip_jax.method.segment import make_segment
from corrclip_jax.regions.sources import find_regions


@functools.cache
def segment_program(config: Config) -> Callable[..., Any]:
    """`jax.jit(make_segment(config))`, the same function for equal configurations."""
    return jax.jit(make_segment(config))


@functools.cache
def region_program(config: Config) -> Callable[..., Any]:
    """Jitted `(params, images, sizes) -> region maps` of the configuration's source of regions.

    `sizes` is None for images of one size. Maps are int32 [B, H, W].
    """
    return jax.jit(lambda params, images, sizes: find_regions(config, params, images, sizes)[0])
