"""Splash attention, the kernel of TPUs: equal to plain attention when interpreted; in programs of TPUs alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import ShapeDtypeStruct as Spec

from corrclip_jax.ops.attention import attention, pad_tokens
from corrclip_jax.ops.splash_attention import kernel, splash_attention


def operands(queries, keys, width, value_width, heads=2, batch=2):
    draw = np.random.default_rng(0)
    shapes = (queries, width), (keys, width), (keys, value_width)
    return [
        jnp.asarray(draw.normal(size=(batch, length, heads, size)), jnp.bfloat16) for length, size in shapes
    ]


@pytest.mark.parametrize(
    ("queries", "keys", "width", "value_width"),
    [(130, 130, 64, 64), (40, 300, 72, 72), (256, 140, 24, 8)],
    ids=["self", "fewer queries", "longer keys than values"],
)
@pytest.mark.parametrize("hidden", ["nothing", "by a mask", "padding"])
def test_it_equals_plain_attention(queries, keys, width, value_width, hidden):
    q, k, v = operands(queries, keys, width, value_width)
    length = keys - 37 if hidden == "padding" else None
    mask = None
    if hidden == "by a mask":
        mask = jnp.asarray(np.random.default_rng(1).random((2, 1, keys)) < 0.7)
    seen = jnp.arange(keys)[None] < (length or keys) if mask is None else mask[:, 0]
    splashed = kernel(q, k, v, jnp.broadcast_to(seen, (2, keys)), scale=width**-0.5, interpret=True)
    exact = attention(*(x.astype(jnp.float32) for x in (q, k, v)), mask, length=length)
    assert splashed.shape == exact.shape
    assert splashed.dtype == jnp.bfloat16
    np.testing.assert_allclose(splashed.astype(jnp.float32), exact, atol=0.01 * float(abs(exact).max()))


def test_padded_keys_change_nothing_on_this_platform():
    q, k, v = operands(300, 200, 16, 16)
    padded = [jnp.pad(x, ((0, 0), (0, 56), (0, 0), (0, 0)), constant_values=3) for x in (k, v)]
    np.testing.assert_array_equal(attention(q, *padded, length=200), attention(q, k, v))


def lowered(platform, dtype, queries, keys, mask=None):
    shapes = [Spec((2, length, 2, 64), dtype) for length in (queries, keys, keys)]
    masks = [] if mask is None else [Spec(mask, bool)]
    return jax.jit(attention).trace(*shapes, *masks).lower(lowering_platforms=(platform,)).as_text()


def test_only_large_matrices_in_bfloat16_take_the_kernel_and_on_tpus_alone():
    def splashes(platform="tpu", dtype=jnp.bfloat16, queries=1024, keys=1100, mask=None):
        return "tpu_custom_call" in lowered(platform, dtype, queries, keys, mask)

    assert splashes()
    assert splashes(mask=(2, 1, 1100))
    assert not splashes(platform="cpu")
    assert not splashes(dtype=jnp.float32)
    assert not splashes(queries=442, keys=442)
    assert not splashes(mask=(2, 1024, 1100))


def test_a_program_for_several_platforms_keeps_plain_attention_and_runs():
    q, k, v = operands(1024, 1024, 8, 8, heads=1, batch=1)
    exported = jax.export.export(jax.jit(attention), platforms=["cpu", "tpu"])(q, k, v)
    assert "tpu_custom_call" not in exported.mlir_module()
    np.testing.assert_array_equal(exported.call(q, k, v), attention(q, k, v))


@pytest.mark.parametrize("axes", [(0, 0, 0), (0, None, None), (None, 1, 1)])
def test_mapping_keeps_every_example_in_its_place(axes):
    draw = np.random.default_rng(2)
    shapes = [
        (1, 1024, 1, 8) if axis is None else tuple(np.insert((1, 1024, 1, 8), axis, 2)) for axis in axes
    ]
    many = [jnp.asarray(draw.normal(size=shape), jnp.bfloat16) for shape in shapes]
    seen = jnp.asarray(draw.random((1, 1, 1024)) < 0.5)

    def one(q, k, v):
        return splash_attention(q, k, v, seen)

    mapped = jax.jit(jax.vmap(one, axes))(*many)
    for index, found in enumerate(mapped):
        own = [x if axis is None else jnp.take(x, index, axis) for x, axis in zip(many, axes, strict=True)]
        exact = attention(*(x.astype(jnp.float32) for x in own), seen)
        np.testing.assert_allclose(found.astype(jnp.float32), exact, atol=0.02 * float(abs(exact).max()))


def test_long_sequences_in_bfloat16_are_padded_to_whole_registers():
    long, short = jnp.ones((1, 1025, 2), jnp.bfloat16), jnp.ones((1, 442, 2), jnp.bfloat16)
    padded = pad_tokens(long)
    assert padded.shape == (1, 1152, 2)
    np.testing.assert_array_equal(padded[:, :1025], long)
    assert not padded[:, 1025:].any()
    assert pad_tokens(short) is short
    assert pad_tokens(long.astype(jnp.float32)).shape == long.shape
