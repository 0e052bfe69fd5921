"""Attention: its scale on every platform; large batches on TPUs in parts whose scores fit on the chip."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import ShapeDtypeStruct as Spec

from corrclip_jax.ops import attention as module
from corrclip_jax.ops.attention import attention
from corrclip_jax.ops.fused_attention import fused_attention

BATCH, QUERIES, KEYS, HEADS, WIDTH = 5, 12, 9, 2, 8


@pytest.mark.parametrize("masked", [False, True])
def test_parts_equal_the_whole(masked):
    draw = np.random.default_rng(0)
    q, k, v = (
        jnp.asarray(draw.standard_normal((BATCH, length, HEADS, WIDTH)), jnp.float32)
        for length in (QUERIES, KEYS, KEYS)
    )
    mask = [jnp.asarray(draw.random((BATCH, QUERIES, KEYS)) < 0.5)] if masked else []
    parts = jax.jit(partial(module._attention_in_parts, 2, scale=0.3))
    assert "stablehlo.while" in parts.lower(q, k, v, *mask).as_text()
    np.testing.assert_allclose(parts(q, k, v, *mask), fused_attention(q, k, v, *mask, scale=0.3), atol=1e-6)


@pytest.mark.parametrize(
    ("platform", "batch", "loops"),
    [("tpu", 7, False), ("tpu", 8, True), ("rocm", 16, False)],
    ids=["it fits", "in parts", "other platforms"],
)
def test_only_batches_that_do_not_fit_go_in_parts(platform, batch, loops):
    """Of 12 heads and 442 tokens, CLIP's in a window, seven examples have scores of 64 MB."""
    operands = [Spec((batch, 442, 12, 64), jnp.bfloat16)] * 3
    text = jax.jit(attention).trace(*operands).lower(lowering_platforms=(platform,)).as_text()
    assert ("stablehlo.while" in text) is loops
    longer = [Spec((2, 1000, 26, 64), jnp.bfloat16)] * 3  # one example does not fit: parts would not help
    text = jax.jit(attention).trace(*longer).lower(lowering_platforms=(platform,)).as_text()
    assert "stablehlo.while" not in text


def scales(platform, dtype, **options):
    """The text of a program of 1024 tokens, which is large enough for every kernel."""
    operands = [Spec((1, 1024, 2, 16), dtype)] * 3
    traced = jax.jit(partial(attention, **options)).trace(*operands)
    return traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu", "rocm"])
def test_queries_that_are_scaled_already_are_not_scaled_again(platform, dtype):
    """The default scale of 16 channels is 0.25."""
    usual, scaled = scales(platform, dtype), scales(platform, dtype, scale=1.0)
    assert scales(platform, dtype, scale=0.25) == usual != scaled
    q, k, v = (
        jnp.asarray(np.random.default_rng(i).standard_normal((1, 1024, 2, 16)), dtype) for i in range(3)
    )
    np.testing.assert_array_equal(attention(q, k, v), attention(q * 0.25, k, v, scale=1.0))
