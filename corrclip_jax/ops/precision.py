"""Precision of float32 products: in full for a program in float32, in part for one in bfloat16."""

from contextlib import AbstractContextManager

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike


def float32_products(dtype: DTypeLike) -> AbstractContextManager[None]:
    """A context in which products of float32 arrays are as precise as a compute type needs them.

    In a program in float32 they have all digits. What a program in bfloat16 leaves in float32 (similarities,
    logits, resizing) comes from networks that keep 8 bits or goes to them: three passes on TPUs (16 bits) and TF32
    on GPUs (11 bits) take nothing from that, in half the time or less. CPUs have all digits in any case.

    Args:
      dtype: `config.dtype`.
    """
    context: AbstractContextManager[None] = jax.default_matmul_precision(
        "highest" if jnp.dtype(dtype) == jnp.float32 else "high"
    )
    return context
