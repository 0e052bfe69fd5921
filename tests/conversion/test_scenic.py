"""Exchange with scenic: trees there and back bit by bit, and a tower built as scenic's computes the same."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corrclip_jax.config import CLIPConfig, CLIPTextConfig, CLIPVisionConfig, Config, with_fields
from corrclip_jax.conversion.rules import ConversionError
from corrclip_jax.conversion.scenic import (
    clip_from_scenic,
    clip_settings,
    clip_to_scenic,
    read_variables,
    write_variables,
)
from corrclip_jax.models.clip.model import CLIP
from corrclip_jax.params.structure import init_params
from corrclip_jax.params.trees import shapes_by_path

SMALL = CLIPConfig(
    embed_dim=16,
    vision=CLIPVisionConfig(image_size=32, patch_size=8, width=32, layers=2, head_width=16),
    text=CLIPTextConfig(vocab_size=64, context_length=12, width=24, heads=3, layers=2),
)


@pytest.fixture(scope="module")
def params():
    drawn = init_params(Config(clip=SMALL, sam2=None))["clip"]
    rng = np.random.default_rng(0)
    # Biases and norms that are not the identity, so that none can stand for another.
    return jax.tree.map(lambda x: x + jnp.asarray(0.1 * rng.standard_normal(x.shape), jnp.float32), drawn)


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    jax.tree.map(np.testing.assert_array_equal, one, other)


@pytest.mark.parametrize("underscore", [False, True])
def test_the_round_trip_is_exact(params, underscore, tmp_path):
    variables = clip_to_scenic(params, SMALL, underscore=underscore)
    names = set(variables["params"]["visual"]["transformer"])
    assert names == ({"resblocks_0", "resblocks_1"} if underscore else {"resblocks.0", "resblocks.1"})
    write_variables(tmp_path / "clip.msgpack", variables)
    read = read_variables(tmp_path / "clip.msgpack")
    assert_same(read, jax.tree.map(np.asarray, variables))
    assert_same(clip_from_scenic(read, SMALL), jax.tree.map(np.asarray, params))
    assert_same(clip_from_scenic(variables["params"], SMALL), params)


class _Block(nn.Module):
    heads: int

    @nn.compact
    def __call__(self, x, mask=None):
        y = nn.LayerNorm(epsilon=1e-5, name="ln_1")(x)
        x = x + nn.MultiHeadDotProductAttention(self.heads, name="attn")(y, mask=mask)
        return x + _MLP(name="mlp")(nn.LayerNorm(epsilon=1e-5, name="ln_2")(x))


class _MLP(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = nn.Dense(4 * x.shape[-1], name="c_fc")(x)
        return nn.Dense(x.shape[-1], name="c_proj")(y * jax.nn.sigmoid(1.702 * y))


class _Blocks(nn.Module):
    heads: int
    layers: int

    @nn.compact
    def __call__(self, x, mask=None):
        for index in range(self.layers):
            x = _Block(self.heads, name=f"resblocks.{index}")(x, mask)
        return x


class _Image(nn.Module):
    """An image tower of Flax's own layers, put together as scenic's is."""

    vision: CLIPVisionConfig
    embed_dim: int

    @nn.compact
    def __call__(self, images):
        size, width = self.vision.patch_size, self.vision.width
        x = nn.Conv(width, (size, size), (size, size), use_bias=False, name="conv1")(images)
        x = x.reshape(len(x), -1, width)
        first = self.param("class_embedding", nn.initializers.zeros, (width,))
        x = jnp.concatenate([jnp.broadcast_to(first, (len(x), 1, width)), x], axis=1)
        x = x + self.param("positional_embedding", nn.initializers.zeros, x.shape[1:])
        x = nn.LayerNorm(epsilon=1e-5, name="ln_pre")(x)
        x = _Blocks(width // self.vision.head_width, self.vision.layers, name="transformer")(x)
        x = nn.LayerNorm(epsilon=1e-5, name="ln_post")(x[:, 0])
        return nn.Dense(self.embed_dim, use_bias=False, name="proj")(x)


def test_flaxs_own_layers_compute_the_same_from_the_written_tree(params):
    images = jnp.asarray(np.random.default_rng(1).standard_normal((2, 32, 32, 3)), jnp.float32)
    written = clip_to_scenic(params, SMALL)["params"]["visual"]
    tower = _Image(SMALL.vision, SMALL.embed_dim)
    with jax.numpy_rank_promotion("allow"), jax.default_matmul_precision("highest"):  # as scenic has it
        shapes = jax.eval_shape(tower.init, jax.random.key(0), images)["params"]
        assert shapes_by_path(shapes) == shapes_by_path(written)
        theirs = tower.apply({"params": written}, images)
    with jax.default_matmul_precision("highest"):
        ours = CLIP(SMALL).apply({"params": params}, images, method="encode_image")
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * float(abs(theirs).max()))


def test_the_modules_arguments():
    settings = clip_settings(CLIPConfig())
    assert settings["vision_head_dim"] == 64
    assert (settings["text_num_heads"], settings["vision_num_layers"], settings["embed_dim"]) == (8, 12, 512)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"quick_gelu": False}, "has the exact GELU"),
        ({"vision": {"mlp_ratio": 4.9231}}, "the image tower's is 4.9231 times"),
        ({"text": {"mlp_ratio": 3.0}}, "the text tower's is 3.0 times"),
    ],
)
def test_what_scenics_modules_cannot_be(params, changes, words):
    config = with_fields(SMALL, **changes)
    for function in (clip_to_scenic, clip_from_scenic):
        with pytest.raises(ConversionError, match=words):
            function(params, config)


def test_variables_of_another_model(params, tmp_path):
    variables = clip_to_scenic(params, SMALL)["params"]
    del variables["visual"]["ln_pre"]
    variables["visual"]["extra"] = np.zeros(2)
    with pytest.raises(ConversionError) as caught:
        clip_from_scenic(variables, SMALL)
    message = str(caught.value)
    assert "Leaves missing (2)" in message
    assert "visual/ln_pre/scale" in message
    assert "Leaves left over (1):\n  visual/extra" in message
    (tmp_path / "text").write_text("no variables")
    with pytest.raises(ConversionError, match="holds no"):
        read_variables(tmp_path / "text")
