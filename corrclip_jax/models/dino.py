"""DINO v1 ViT, read where the method reads it: the last block's query plus key (METHOD.md, section 4).

Parameter names are the published ones (`blocks.0` is `blocks_0`), query, key and value as kernels of their own.
Shapes: B batch, (h, w) grid, T = 1 + h w tokens, C width.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from corrclip_jax.config import DINOConfig
from corrclip_jax.models.layers import (
    MLP,
    ROUNDING_GUARD,
    Dense,
    LayerNorm,
    Module,
    PatchEmbed,
    Projection,
    add_bias,
    gelu,
    interpolate_positions,
    normal,
)
from corrclip_jax.models.vit import resized_positions, visible_tokens
from corrclip_jax.ops.attention import attention, pad_tokens
from corrclip_jax.ops.resize import bicubic_rows

_EPSILON = 1e-6


class Attention(nn.Module):
    """Multi-head self-attention."""

    width: int
    heads: int
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T C"],
        visible: Bool[Array, "B 1 length"] | None = None,
        length: int | None = None,
    ) -> Float[Array, "B T C"]:
        """Attend to the tokens that are visible, of the first `length`, then project.

        The scale of attention is in the queries' weights, which is exact where it is a power of two, as in all
        published sizes: on TPUs it would be a pass of its own over the queries.
        """
        heads = (*x.shape[:2], self.heads, self.width // self.heads)
        kernel, bias = Projection(self.width, self.width, self.dtype, name="query").weights()
        scale = heads[-1] ** -0.5
        q = add_bias(x @ (kernel * scale), bias * scale)
        k, v = (Dense(self.width, dtype=self.dtype, name=name)(x) for name in ("key", "value"))
        q, k, v = (y.reshape(heads) for y in (q, k, v))
        out = attention(q, k, v, visible, length=length, scale=1.0).reshape(x.shape)
        return Dense(self.width, dtype=self.dtype, name="proj")(out)


class QueryPlusKey(nn.Module):
    """What is read of the last block's attention: query plus key, heads concatenated, biases included."""

    width: int
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B T C"]) -> Float[Array, "B T C"]:
        """The sum of the two projections, as one: that of the summed parameters."""
        query, key = (Projection(self.width, self.width, name=name) for name in ("query", "key"))
        kernel, bias = query.kernel + key.kernel, query.bias + key.bias
        return add_bias(x.astype(self.dtype) @ kernel.astype(self.dtype), bias.astype(self.dtype))


class Block(nn.Module):
    """A pre-LN transformer block."""

    config: DINOConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T C"],
        visible: Bool[Array, "B 1 length"] | None = None,
        length: int | None = None,
    ) -> Float[Array, "B T C"]:
        """Residual attention to the first `length` tokens, residual MLP."""
        config = self.config
        normed = LayerNorm(epsilon=_EPSILON, dtype=self.dtype, name="norm1")(x)
        x = x + Attention(config.width, config.heads, self.dtype, name="attn")(normed, visible, length)
        normed = LayerNorm(epsilon=_EPSILON, dtype=self.dtype, name="norm2")(x)
        return x + MLP(int(config.width * config.mlp_ratio), gelu, dtype=self.dtype, name="mlp")(normed)


class LastBlock(nn.Module):
    """The last block up to its query and key; value, projection and MLP would never be read."""

    config: DINOConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, x: Float[Array, "B T C"]) -> Float[Array, "B T C"]:
        """Query plus key."""
        normed = LayerNorm(epsilon=_EPSILON, dtype=self.dtype, name="norm1")(x)
        return QueryPlusKey(self.config.width, self.dtype, name="attn")(normed)


class DINO(Module):
    """The network: images to the last block's query plus key of every patch."""

    config: DINOConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, images: Float[Array, "B H W 3"], grids: Int[Array, "B 2"] | None = None
    ) -> Float[Array, "B h w C"]:
        """Features [B, H // p, W // p, C], not normalised, of ImageNet-normalised images [B, H, W, 3].

        `grids` as in `models.vit`.
        """
        config = self.config
        native = config.image_size // config.patch_size
        patches = PatchEmbed(config.width, config.patch_size, dtype=self.dtype, name="patch_embed")(images)
        cls_token = self.param("cls_token", normal(0.02), (1, 1, config.width))
        pos_embed = self.param("pos_embed", normal(0.02), (1, 1 + native**2, config.width))

        batch, h, w, width = patches.shape
        positions = pos_embed[:, 1:]
        if grids is not None:
            positions = jax.vmap(lambda own: grid_positions(pos_embed[0, 1:], (h, w), own))(grids)
        elif (h, w) != (native, native):
            positions = interpolate_positions(pos_embed[0, 1:], h, w)[None]
        x = patches.reshape(batch, h * w, width) + positions.astype(self.dtype)
        class_token = jnp.broadcast_to(cls_token + pos_embed[:, :1], (batch, 1, width))
        x = jnp.concatenate([class_token.astype(self.dtype), x], axis=1)
        visible = visible_tokens(grids, 1, (h, w))
        length = x.shape[1]
        x = pad_tokens(x)
        for index in range(config.layers - 1):
            x = Block(config, self.dtype, name=f"blocks_{index}")(x, visible, length)
        x = LastBlock(config, self.dtype, name=f"blocks_{config.layers - 1}")(x)
        return x[:, 1:length].reshape(batch, h, w, width)


def grid_positions(
    embedding: Float[Array, "N C"], grid: tuple[int, int], own: Int[Array, "2"]
) -> Float[Array, "{grid[0]}*{grid[1]} C"]:
    """`interpolate_positions` for `own` rows and columns, which may be traced, of a larger grid."""
    native = math.isqrt(len(embedding))
    unchanged = (own[0] == native) & (own[1] == native)
    rows, columns = (
        jnp.where(unchanged, jnp.eye(side, native), bicubic_rows(side, native, own[axis], ROUNDING_GUARD))
        for axis, side in enumerate(grid)
    )
    return resized_positions(embedding, rows, columns).reshape(grid[0] * grid[1], -1)
