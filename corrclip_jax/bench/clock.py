"""Timing of programs, and the device's peak rate of matrix products."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from corrclip_jax.config import Dtype


def seconds(function: Callable[[], Any]) -> float:
    """Wall time of one call, until its results are ready on the device."""
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def matmul_rate(dtype: Dtype, *, side: int | None = None, repeat: int = 3) -> float:
    """The device's floating-point operations per second in products of square matrices.

    Args:
      dtype: of the matrices. As in the networks, float32 is multiplied in full precision ("highest"), and bfloat16
        is summed in float32.
      side: rows and columns; by default 8192 on accelerators, 1536 on a CPU.
      repeat: runs, of which the fastest counts.
    """
    on_cpu = jax.default_backend() == "cpu"
    side = side or (1536 if on_cpu else 8192)
    products = 2 if on_cpu else 32
    scale = side**-0.5  # keeps the magnitude of the products constant

    def chain(x: jax.Array, w: jax.Array) -> jax.Array:
        for _ in range(products):
            x = (jnp.dot(x, w, preferred_element_type=jnp.float32)).astype(x.dtype)
        return x

    with jax.default_matmul_precision("highest"):
        key = jax.random.key(0)
        x, w = jax.random.normal(key, (2, side, side)).astype(dtype)
        w = (w.astype(jnp.float32) * scale).astype(dtype)
        compiled = jax.jit(chain).lower(x, w).compile()
    compiled(x, w)
    fastest = min(seconds(lambda: compiled(x, w)) for _ in range(repeat))
    return 2 * side**3 * products / fastest
