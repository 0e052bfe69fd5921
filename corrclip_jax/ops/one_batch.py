"""Batch axes: a function of one batch, mapped over another axis, as one call with a larger batch."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
from jaxtyping import Array, Shaped


def one_batch(
    function: Callable[..., Array], operands: Sequence[Array], axes: Sequence[int | None]
) -> Shaped[Array, "mapped batch ..."]:
    """Call a function whose operands and result begin with a batch axis once for all that it is mapped over.

    Args:
      function: what is called.
      operands: with the axis that is mapped, where they have one.
      axes: where that is, None for operands that all examples share, which are repeated.
    """
    count = next(x.shape[axis] for x, axis in zip(operands, axes, strict=True) if axis is not None)
    whole = [
        jnp.broadcast_to(x, (count, *x.shape)) if axis is None else jnp.moveaxis(x, axis, 0)
        for x, axis in zip(operands, axes, strict=True)
    ]
    out = function(*(x.reshape(-1, *x.shape[2:]) for x in whole))
    return out.reshape(count, -1, *out.shape[1:])
