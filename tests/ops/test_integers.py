"""Division of integers that are not negative, static and traced."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corrclip_jax.ops.integers import divide, quotient

NUMBERS = np.array([0, 1, 6, 7, 8, 2**20 + 3, np.iinfo(np.int32).max], np.int32)


@pytest.mark.parametrize("by", [1, 2, 7, 1023])
def test_traced_numbers_are_divided_as_pythons_are(by):
    whole, rest = jax.jit(lambda x: divide(x, by))(jnp.asarray(NUMBERS))
    expected = [divmod(int(number), by) for number in NUMBERS]
    assert list(zip(whole.tolist(), rest.tolist(), strict=True)) == expected
    assert whole.dtype == rest.dtype == jnp.int32


def test_divisor_may_be_traced_alone_or_an_array():
    divisors = jnp.arange(1, len(NUMBERS) + 1)
    assert jax.jit(lambda by: quotient(100, by))(jnp.int32(7)).tolist() == 14
    assert jax.jit(quotient)(NUMBERS, divisors).tolist() == (NUMBERS // np.asarray(divisors)).tolist()
    assert (
        jax.vmap(lambda x, by: quotient(x, by))(jnp.asarray(NUMBERS), divisors).tolist()
        == (NUMBERS // np.asarray(divisors)).tolist()
    )


def test_static_numbers_stay_static():
    assert divide(7, 2) == (3, 1)
    whole, rest = divide(NUMBERS, 7)
    assert isinstance(whole, np.ndarray)
    assert isinstance(rest, np.ndarray)
