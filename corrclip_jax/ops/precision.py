"""Precision of float32 products: full in float32 programs, reduced in bfloat16 ones."""

from contextlib import AbstractContextManager

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


def float32_products(dtype: DTypeLike) -> AbstractContextManager[None]:
    """A context that sets the precision of products of float32 arrays by the compute type of the networks.

    It is full for float32. The float32 products of a bfloat16 program (similarities, logits, resizing) are of
    values that come from or go to networks with 8 bits of precision, so 16 bits on TPUs (three passes) and 11 on
    GPUs (TF32) are enough, and take at most half the time. On CPUs precision is always full.

    Args:
      dtype: `config.dtype`.
    """
    context: AbstractContextManager[None] = jax.default_matmul_precision(
        "highest" if jnp.dtype(dtype) == jnp.float32 else "high"
    )
    return context
