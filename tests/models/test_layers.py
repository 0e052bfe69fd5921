"""Attention's implementations agree, and the small pieces equal torch's."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax.errors import ScopeParamNotFoundError, ScopeParamShapeError
from torch.nn import functional as F

from corrclip_jax.models import layers
from corrclip_jax.ops import attention
from corrclip_jax.ops.cudnn_attention import EXPORT_CHECKS


def random(*shape, seed=0):
    return jax.device_put(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


@pytest.mark.parametrize("shape", [(2, 7, 3, 8), (1, 700, 2, 16), (64, 16, 2, 8)])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_equals_torch(shape, masked):
    batch, tokens, _, _ = shape
    q, k, v = (random(*shape, seed=seed) for seed in range(3))
    mask = np.random.default_rng(3).random((batch, tokens, tokens)) < 0.7 if masked else None
    ours = jax.jit(attention.attention)(q, k, v, mask)
    wanted = F.scaled_dot_product_attention(
        *(torch.from_numpy(np.array(x)).transpose(1, 2) for x in (q, k, v)),
        attn_mask=None if mask is None else torch.from_numpy(mask)[:, None],
    ).transpose(1, 2)
    np.testing.assert_allclose(ours, wanted.numpy(), atol=2e-6)


def test_the_activation_in_bfloat16_differs_from_the_exact_one_by_less_than_rounding():
    x = jnp.linspace(-40, 40, 80001).astype(jnp.bfloat16)
    ours = np.asarray(layers.gelu(x).astype(jnp.float32), np.float64)
    exact = F.gelu(torch.from_numpy(np.array(x.astype(jnp.float32), np.float64))).numpy()
    np.testing.assert_allclose(ours, exact, rtol=2**-8, atol=3e-5)  # half a unit in the last place is 2 ** -9
    for odd in (np.inf, -np.inf, np.nan):
        wide = layers.gelu(jnp.float32(odd))
        np.testing.assert_array_equal(layers.gelu(jnp.bfloat16(odd)).astype(jnp.float32), wide)


def test_attention_broadcasts_one_mask_over_the_batch():
    q, k, v = (random(3, 5, 2, 4, seed=seed) for seed in range(3))
    causal = jnp.tril(jnp.ones((1, 5, 5), bool))
    each = jnp.broadcast_to(causal, (3, 5, 5))
    np.testing.assert_array_equal(attention.attention(q, k, v, causal), attention.attention(q, k, v, each))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("value_width", [8, 5])
def test_attention_in_blocks_of_rows_is_the_same(masked, value_width, monkeypatch):
    q, k, v = (random(2, 53, 3, width, seed=width) for width in (8, 8, value_width))
    mask = np.random.default_rng(3).random((2, 53, 53)) < 0.7 if masked else None
    whole = attention.attention(q, k, v, mask)
    for limit in ("_TOGETHER", "_IN_BLOCKS"):
        monkeypatch.setattr(attention, limit, 0)
    monkeypatch.setattr(attention, "_ROWS", 10)  # blocks of 9 rows, of which the last has 8
    jax.clear_caches()  # traces are kept by shapes
    assert "while" in attention.attention.lower(q, k, v, mask).as_text()
    np.testing.assert_allclose(attention.attention(q, k, v, mask), whole, atol=1e-6)
    jax.clear_caches()


def test_an_mlp_in_blocks_of_tokens_is_the_same_and_so_are_its_derivatives(monkeypatch):
    x = random(3, 11, 6)
    mlp = layers.MLP(24, layers.gelu)
    params = jax.eval_shape(mlp.init, jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda leaf: 0.2 * np.asarray(random(*leaf.shape)), params)

    def run(params, x):
        return mlp.apply({"params": params}, x)

    def loss(params, x):
        result = run(params, x)
        return (result**2).sum(), result

    slopes, wanted = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, x)
    monkeypatch.setattr(layers, "_HIDDEN", 0)
    monkeypatch.setattr(layers, "_TOKENS", 10)  # blocks of 9 tokens, of which the last has 6
    jax.clear_caches()  # traces are kept by shapes
    assert "while" in jax.jit(run).lower(params, x).as_text()
    mapped = jax.jit(jax.vmap(run, (None, 0)))(params, x[None])
    np.testing.assert_allclose(mapped, wanted[None], atol=1e-6)
    ours, result = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, x)
    np.testing.assert_allclose(result, wanted, atol=1e-6)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), ours, slopes)
    jax.clear_caches()


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_attention_lowers_for_every_platform(platform):
    spec = jax.ShapeDtypeStruct((1, 64, 2, 16), jnp.bfloat16)
    exported = jax.export.export(
        jax.jit(attention.attention), platforms=[platform], disabled_checks=EXPORT_CHECKS
    )(spec, spec, spec)
    assert exported.platforms == (platform,)


def test_attention_works_on_bfloat16_with_a_float32_softmax():
    q, k, v = (random(1, 400, 2, 16, seed=seed) for seed in range(3))
    exact = attention.attention(q, k, v)
    rounded = attention.attention(*(x.astype(jnp.bfloat16) for x in (q, k, v)))
    assert rounded.dtype == jnp.bfloat16
    np.testing.assert_allclose(rounded.astype(jnp.float32), exact, atol=0.02)


@pytest.mark.parametrize(("ours", "theirs"), [(layers.gelu, F.gelu), (layers.quick_gelu, None)])
def test_activations(ours, theirs):
    x = torch.linspace(-6, 6, 101)
    wanted = x * torch.sigmoid(1.702 * x) if theirs is None else theirs(x)
    np.testing.assert_allclose(ours(jnp.asarray(x.numpy())), wanted.numpy(), atol=1e-6)


def test_layer_norm_keeps_digits_on_large_activations():
    x = 1000 + random(4, 64)
    norm = layers.LayerNorm(epsilon=1e-6)
    ours = norm.apply({"params": {"scale": jnp.ones(64), "bias": jnp.zeros(64)}}, x)
    exact = np.asarray(x, np.float64)
    exact = (exact - exact.mean(1, keepdims=True)) / exact.std(1, keepdims=True)
    np.testing.assert_allclose(ours, exact, atol=2e-3)


@pytest.mark.parametrize("layer", [layers.Dense(4), layers.DenseGeneral((2, 2)), layers.LayerNorm()])
def test_parameters_of_another_shape_are_refused_by_name(layer):
    x = random(3, 5)
    params = layer.init(jax.random.key(0), x)["params"]
    layer.apply({"params": params}, x)
    for name, value in params.items():
        with pytest.raises(ScopeParamShapeError, match=name):
            layer.apply({"params": params | {name: value[:-1]}}, x)
    with pytest.raises(ScopeParamNotFoundError, match="bias"):
        layer.apply({"params": {name: value for name, value in params.items() if name != "bias"}}, x)


@pytest.mark.parametrize("size", [(28, 42), (30, 47)])
def test_patch_embedding_is_the_strided_convolution(size):
    images = random(2, *size, 3)
    embed = layers.PatchEmbed(16, 14)
    params = embed.init(jax.random.key(0), images)["params"]
    kernel = torch.from_numpy(np.asarray(params["kernel"])).permute(3, 2, 0, 1)
    wanted = F.conv2d(torch.from_numpy(np.asarray(images)).permute(0, 3, 1, 2), kernel, stride=14)
    np.testing.assert_allclose(
        embed.apply({"params": params}, images), wanted.permute(0, 2, 3, 1).numpy(), atol=1e-5
    )


def test_positions_are_interpolated_with_the_programs_scale():
    embedding = random(28 * 28, 6)
    grid = torch.from_numpy(np.asarray(embedding)).reshape(1, 28, 28, 6).permute(0, 3, 1, 2)
    resized = F.interpolate(grid, scale_factor=(42.1 / 28, 21.1 / 28), mode="bicubic")
    wanted = resized.permute(0, 2, 3, 1).reshape(42 * 21, 6)
    np.testing.assert_allclose(layers.interpolate_positions(embedding, 42, 21), wanted.numpy(), atol=1e-5)


def test_mlp_takes_the_published_names():
    mlp = layers.MLP(8, partial(jax.nn.relu), ("c_fc", "c_proj"))
    assert set(mlp.init(jax.random.key(0), jnp.zeros((1, 4)))["params"]) == {"c_fc", "c_proj"}
