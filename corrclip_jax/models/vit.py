"""Blocks of plain vision transformers: pre-LN, with layer scale, gated MLP, rotary positions and masks as options.

The parameter names are transformers' (`norm1`, `attention/q_proj` ...). Networks for images of any size take,
beside the images, `grids` [B, 2] for images of different sizes in the top left corners of their arrays: the rows
and columns of patches that are each image's own. Features of these equal those of the
image alone, others have no meaning.
Shapes: B images, T tokens (prefix tokens first, then patches row by row), H heads, D head width, C width, (h, w)
grid of patches.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from corrclip_jax.models.layers import MLP, Dense, LayerNorm, Module, gelu
from corrclip_jax.ops.attention import attention
from corrclip_jax.ops.resize import Length, separable

Rotate = Callable[[Float[Array, "B T H D"]], Float[Array, "B T H D"]]


class Attention(nn.Module):
    """Multi-head self-attention; a token sees those where `visible` is True, `rotate` turns queries and keys."""

    width: int
    heads: int
    dtype: DTypeLike = jnp.float32
    key_bias: bool = True

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T C"],
        visible: Bool[Array, "B _ T"] | None = None,
        rotate: Rotate | None = None,
    ) -> Float[Array, "B T C"]:
        """Attend, then project."""
        heads = (*x.shape[:2], self.heads, self.width // self.heads)
        q, k, v = (
            Dense(self.width, use_bias, dtype=self.dtype, name=name)(x).reshape(heads)
            for name, use_bias in (("q_proj", True), ("k_proj", self.key_bias), ("v_proj", True))
        )
        if rotate is not None:
            q, k = rotate(q), rotate(k)
        out = attention(q, k, v, visible).reshape(x.shape)
        return Dense(self.width, dtype=self.dtype, name="out_proj")(out)


class GatedMLP(nn.Module):
    """SwiGLU, two thirds as wide as an MLP would be, rounded up to a multiple of eight."""

    width: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B T C"]) -> Float[Array, "B T C"]:
        """Project down what the gate lets through."""
        gate, up = (Dense(self.width, dtype=self.dtype, name=name)(x) for name in ("gate_proj", "up_proj"))
        return Dense(x.shape[-1], dtype=self.dtype, name="down_proj")(jax.nn.silu(gate) * up)


class LayerScale(Module):
    """A factor for each channel."""

    @nn.compact
    def __call__(self, x: Float[Array, "B T C"]) -> Float[Array, "B T C"]:
        """Scale."""
        factors = self.param("lambda1", nn.initializers.ones, x.shape[-1:])
        return x * factors.astype(x.dtype)[None, None]


class Block(nn.Module):
    """A pre-LN transformer block.

    Attributes:
      config: of the network; `width`, `heads`, `mlp_ratio` and, for a gated MLP, `swiglu` are read.
      epsilon: of the layer norms.
      layer_scale: whether both branches have one.
      key_bias: whether the keys have a bias.
    """

    config: Any
    dtype: DTypeLike = jnp.float32
    epsilon: float = 1e-6
    layer_scale: bool = True
    key_bias: bool = True

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T C"],
        visible: Bool[Array, "B _ T"] | None = None,
        rotate: Rotate | None = None,
    ) -> Float[Array, "B T C"]:
        """Residual attention, residual MLP."""
        config = self.config
        normed = LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="norm1")(x)
        attend = Attention(config.width, config.heads, self.dtype, self.key_bias, name="attention")
        x = x + self._scaled("layer_scale1", attend(normed, visible, rotate))
        normed = LayerNorm(epsilon=self.epsilon, dtype=self.dtype, name="norm2")(x)
        return x + self._scaled("layer_scale2", self._mlp()(normed))

    def _scaled(self, name: str, x: Float[Array, "B T C"]) -> Float[Array, "B T C"]:
        return LayerScale(name=name)(x) if self.layer_scale else x

    def _mlp(self) -> nn.Module:
        hidden = int(self.config.width * self.config.mlp_ratio)
        if getattr(self.config, "swiglu", False):
            return GatedMLP((int(hidden * 2 / 3) + 7) // 8 * 8, self.dtype, name="mlp")
        return MLP(hidden, gelu, dtype=self.dtype, name="mlp")


def join_tokens(
    prefix: Float[Array, "P C"], patches: Float[Array, "B h w C"], dtype: DTypeLike
) -> Float[Array, "B T C"]:
    """Prefix tokens, the same for all images, and after them the patches row by row."""
    batch, _, _, width = patches.shape
    front = jnp.broadcast_to(prefix.astype(dtype), (batch, *prefix.shape))
    return jnp.concatenate([front, patches.reshape(batch, -1, width)], axis=1)


def split_patches(x: Float[Array, "B T C"], grid: tuple[int, ...]) -> Float[Array, "B h w C"]:
    """The patches of `join_tokens`, without the prefix tokens."""
    return x[:, -grid[0] * grid[1] :].reshape(len(x), *grid, -1)


def visible_tokens(
    grids: Int[Array, "B 2"] | None, prefix: int, grid: tuple[int, ...]
) -> Bool[Array, "B 1 T"] | None:
    """Which tokens are an image's own, where images have grids of their own in the top left corner of `grid`."""
    if grids is None:
        return None
    rows, columns = (np.arange(side)[None] < grids[:, axis, None] for axis, side in enumerate(grid))
    own = (rows[:, :, None] & columns[:, None]).reshape(len(grids), 1, -1)
    return jnp.pad(own, ((0, 0), (0, 0), (prefix, 0)), constant_values=True)


def by_image(
    function: Callable[[tuple[Length, ...]], Array], grids: Int[Array, "B 2"] | None, grid: tuple[int, ...]
) -> Array:
    """What depends on the size of an image's grid: of one grid for all images [1, ...], or of each [B, ...]."""
    if grids is None:
        return jnp.asarray(function(grid))[None]
    return jax.vmap(lambda own: function((own[0], own[1])))(grids)


def resized_positions(embedding: Float[Array, "N C"], rows: Any, columns: Any) -> Float[Array, "h w C"]:
    """Position embeddings of a square grid by a matrix along its rows [h, G] and one along its columns [w, G]."""
    native = rows.shape[1]
    return separable(embedding.reshape(native, native, -1), rows, columns)


def rotation(angles: Float[Array, "#B T D"], turn: Callable[[Array], Array]) -> Rotate:
    """Rotary positions: x cos + turn(x) sin, in float32."""
    cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]

    def rotate(x: Float[Array, "B T H D"]) -> Float[Array, "B T H D"]:
        wide = x.astype(jnp.float32)
        return (wide * cos + turn(wide) * sin).astype(x.dtype)

    return rotate


def grid_angles(
    config: Any, grid: tuple[int, ...], own: tuple[Length, ...], prefix: int
) -> Float[Array, "T D"]:
    """DINOv3's angles of all tokens in a grid of `own` rows and columns with edges at -1 and 1.

    Those of the `prefix` tokens before the patches are 0; `width`, `heads` and `rope_base` of `config` are read.
    """
    count = config.width // config.heads // 4
    turns = 2 * np.pi / config.rope_base ** (np.arange(count) / count)
    y, x = (
        (2 * (jnp.arange(side, dtype=jnp.float32) + 0.5) / jnp.float32(out) - 1)[:, None]
        * turns.astype(np.float32)[None]
        for side, out in zip(grid, own, strict=True)
    )
    shape = (*grid, count)
    angles = jnp.concatenate([jnp.broadcast_to(y[:, None], shape), jnp.broadcast_to(x, shape)] * 2, axis=-1)
    return jnp.pad(angles.reshape(-1, 4 * count), ((prefix, 0), (0, 0)))


def turn_halves(x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
    """A quarter turn of pairs that are half a head apart: [a, b] to [-b, a]."""
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([-second, first], axis=-1)
