"""cuDNN's attention: the call that JAX itself would make, wherever it is lowered, mapped or not."""

import json
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import ShapeDtypeStruct as Spec

from corrclip_jax.ops import cudnn_attention
from corrclip_jax.ops.attention import attention
from corrclip_jax.ops.cudnn_attention import TARGETS, can_flash, flash_attention

Q, K = Spec((2, 301, 4, 16), jnp.bfloat16), Spec((2, 97, 4, 16), jnp.bfloat16)
MASK = Spec((2, 301, 97), bool)


def lowered(function, *operands, platform="cuda"):
    return jax.jit(function).trace(*operands).lower(lowering_platforms=(platform,)).as_text()


def calls(text):
    """The custom calls of a program: target, settings, types and layouts."""
    found = re.findall(r'custom_call @(__cudnn\$\w+)\(.*?backend_config = "(.*?)", (operand_layouts.*)', text)
    return [(target, json.loads(config.replace("\\22", '"')), rest) for target, config, rest in found]


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_the_call_that_jax_makes(monkeypatch, dtype, masked):
    from jax._src.cudnn import fused_attention_stablehlo as own

    monkeypatch.setattr(own, "cuda_versions", types.SimpleNamespace(cudnn_get_version=lambda: 91000))

    def of_jax(q, k, v, mask=None):
        mask = None if mask is None else mask[:, None]
        return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="cudnn")

    operands = (Q.update(dtype=dtype), K.update(dtype=dtype), K.update(dtype=dtype), MASK)[: 3 + masked]
    ours, theirs = calls(lowered(flash_attention, *operands)), calls(lowered(of_jax, *operands))
    assert len(ours) == 1
    assert ours[0][0] == TARGETS[masked]
    assert ours == theirs


@pytest.mark.parametrize("masked", [False, True])
def test_attention_flashes_on_gpus_in_bfloat16_alone(masked):
    operands = (Q, K, K, MASK)[: 3 + masked]
    assert [target for target, *_ in calls(lowered(attention, *operands))] == [TARGETS[masked]]
    for platform in ("cpu", "tpu", "rocm"):
        assert "fmha" not in lowered(attention, *operands, platform=platform)
    exact = [Spec(x.shape, jnp.float32 if x.dtype == jnp.bfloat16 else x.dtype) for x in operands]
    assert "fmha" not in lowered(attention, *exact)


def test_mapped_over_everything_it_is_one_larger_batch():
    shapes = [Spec((5, *x.shape), x.dtype) for x in (Q, K, K, MASK)]
    ((_, settings, _),) = calls(lowered(jax.vmap(flash_attention), *shapes))
    shape = settings["cudnn_fmha_backend_config"]["intermediate_tensor_shape"]["dimensions"]
    assert shape == ["10", "4", "301", "97"]


def test_mapped_over_queries_alone_keys_are_not_repeated():
    many = Spec((5, *Q.shape), Q.dtype)
    ((_, settings, _),) = calls(lowered(jax.vmap(flash_attention, (0, None, None)), many, K, K))
    shape = settings["cudnn_fmha_backend_config"]["intermediate_tensor_shape"]["dimensions"]
    assert shape == ["2", "4", str(5 * 301), "97"]


@pytest.mark.parametrize("axes", [(0, None, None), (0, 0, 0), (None, 0, 0)])
@pytest.mark.parametrize("masked", [False, True])
def test_mapping_keeps_every_example_in_its_place(monkeypatch, axes, masked):
    # The kernel's stand-in computes what the kernel does, from the same operands.
    def stand_in(q, k, v, bias, scale):
        bias = None if bias is None else bias.astype(jnp.float32)
        return jax.nn.dot_product_attention(
            *(x.astype(jnp.float32) for x in (q, k, v)), bias=bias, scale=scale
        )

    monkeypatch.setattr(cudnn_attention, "_call", stand_in)
    rng = np.random.default_rng(0)
    shapes = [x.shape if axis is None else (3, *x.shape) for x, axis in zip((Q, K, K), axes, strict=True)]
    operands = [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]
    if masked:
        operands.append(jnp.asarray(rng.random(MASK.shape) < 0.5))
        axes = (*axes, None)
    got = jax.vmap(flash_attention, axes)(*operands)
    for index in range(3):
        own = [x if axis is None else x[index] for x, axis in zip(operands, axes, strict=True)]
        wanted = attention(*own)
        np.testing.assert_allclose(got[index], wanted, atol=2e-5)


@pytest.mark.parametrize(
    ("q", "k", "answer"),
    [
        (Q, K, True),
        (Spec((1, 7, 8, 16), jnp.bfloat16), Spec((1, 4096, 8, 16), jnp.bfloat16), True),
        (Spec((1, 7, 8, 16), jnp.bfloat16), Spec((1, 7, 8, 16), jnp.bfloat16), False),
        (Spec((1, 300, 2, 12), jnp.bfloat16), Spec((1, 300, 2, 12), jnp.bfloat16), False),
        (Spec((1, 300, 2, 136), jnp.bfloat16), Spec((1, 300, 2, 136), jnp.bfloat16), False),
        (Spec((1, 300, 2, 80), jnp.bfloat16), Spec((1, 300, 2, 80), jnp.bfloat16), True),
        (Spec((1, 300, 2, 64), jnp.float32), Spec((1, 300, 2, 64), jnp.float32), False),
    ],
)
def test_which_operands_the_kernel_takes(q, k, answer):
    assert can_flash(q, k) is answer


@pytest.mark.parametrize(
    ("capability", "answer"), [("7.5", False), ("8.0", True), ("9.0", True), ("10.0", True)]
)
def test_older_gpus_do_without(monkeypatch, capability, answer):
    monkeypatch.setattr(jax, "devices", lambda: [types.SimpleNamespace(compute_capability=capability)])
    assert can_flash(Q, K) is answer
