"""Division of integers that are not negative, for sizes and positions inside compiled programs.

On traced values Python's `//` and `%` handle the signs of both numbers: a dozen operations each time, which XLA
copies into whatever reads the result. Where there are no signs, one operation does.
"""

from typing import Any

import jax
import jax.numpy as jnp


def divide(number: Any, by: Any) -> tuple[Any, Any]:
    """Quotient and remainder.

    Args:
      number: 0 or more; a number or an array, static or traced.
      by: 1 or more, of the same type and rank, or a number.

    >>> divide(7, 2)
    (3, 1)
    >>> [x.tolist() for x in divide(jnp.array([0, 7, 9]), 3)]
    [[0, 2, 3], [0, 1, 0]]
    """
    whole = quotient(number, by)
    return whole, number - whole * by


def quotient(number: Any, by: Any) -> Any:
    """The whole part of `number` / `by`, which are as `divide` has them."""
    if not isinstance(number, jax.Array) and not isinstance(by, jax.Array):
        return number // by
    dtype = jnp.result_type(number, by)
    shape = jnp.broadcast_shapes(jnp.shape(number), jnp.shape(by))
    return jax.lax.div(*(jnp.broadcast_to(jnp.asarray(x, dtype), shape) for x in (number, by)))


def quotient_up(number: Any, by: Any) -> Any:
    """`number` / `by`, rounded up: how many parts of `by` hold `number` things.

    >>> [quotient_up(number, 4) for number in (0, 1, 4, 5)]
    [0, 1, 1, 2]
    """
    return quotient(number + (by - 1), by)
