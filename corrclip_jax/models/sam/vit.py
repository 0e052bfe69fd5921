"""SAM's image encoder: a ViT whose blocks attend in windows, with relative positions, and the neck.

Shapes: B images, N windows, H W grid of patches, S image side, G = S / patch size, C width.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from corrclip_jax.config import SAM1Config
from corrclip_jax.models.layers import (
    MLP,
    Conv,
    Dense,
    LayerNorm,
    Module,
    PatchEmbed,
    gelu,
    normal,
    window_merge,
    window_partition,
)
from corrclip_jax.ops.attention import attention


def relative_table(positions: Float[Array, "distances D"], side: int) -> Float[Array, "{side} {side} D"]:
    """The embedding of every query and key along an axis; row `side - 1` of `positions` is distance zero."""
    ticks = jnp.arange(side)
    return positions[ticks[:, None] - ticks[None] + side - 1]


class RelativeAttention(Module):
    """Self-attention over a square grid, with relative positions that are the sum of a row's and a column's part.

    A query's bias for a key is q . R_h[row, key's row] + q . R_w[column, key's column]: products of what belongs
    to the query with one-hot vectors of the key's row and column. So queries and keys are lengthened by these, and
    no [L, L] matrix of biases ever exists.
    """

    width: int
    heads: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N H H C"]) -> Float[Array, "N H H C"]:
        """A grid [N, H, H, C] to one of the same shape."""
        count, side, _, _ = x.shape
        head_width = self.width // self.heads
        q, k, v = (
            Dense(self.width, dtype=self.dtype, name=name)(x).reshape(count, side, side, self.heads, -1)
            for name in ("query", "key", "value")
        )
        rows, columns = (
            self.param(name, normal(0.02), (2 * side - 1, head_width)).astype(self.dtype)
            for name in ("rel_pos_h", "rel_pos_w")
        )
        by_row = jnp.einsum("nhwdc,hkc->nhwdk", q, relative_table(rows, side))
        by_column = jnp.einsum("nhwdc,wkc->nhwdk", q, relative_table(columns, side))
        # `attention` divides by the root of the whole length, of which only the head's own width is meant.
        length = head_width + 2 * side
        q = jnp.concatenate([q * head_width**-0.5, by_row, by_column], axis=-1) * length**0.5
        one_hot = jnp.eye(side, dtype=k.dtype)
        shape = (count, side, side, self.heads, side)
        key_row = jnp.broadcast_to(one_hot[:, None, None], shape)
        key_column = jnp.broadcast_to(one_hot[:, None], shape)
        k = jnp.concatenate([k, key_row, key_column], axis=-1)
        out = attention(*(y.reshape(count, side * side, self.heads, -1) for y in (q, k, v)))
        return Dense(self.width, dtype=self.dtype, name="proj")(out.reshape(x.shape))


class Block(nn.Module):
    """A pre-LN transformer block on a grid; `window` 0 attends globally."""

    config: SAM1Config
    window: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B G G C"]) -> Float[Array, "B G G C"]:
        """Maps to maps. Windows that reach beyond the grid see zeros there, as published."""
        config = self.config
        normed = LayerNorm(epsilon=1e-6, dtype=self.dtype, name="norm1")(x)
        attend = RelativeAttention(config.width, config.heads, self.dtype, name="attn")
        if self.window:
            x = x + window_merge(attend(window_partition(normed, self.window)), *x.shape[1:3])
        else:
            x = x + attend(normed)
        normed = LayerNorm(epsilon=1e-6, dtype=self.dtype, name="norm2")(x)
        hidden = int(config.width * config.mlp_ratio)
        return x + MLP(hidden, gelu, ("lin1", "lin2"), self.dtype, name="mlp")(normed)


class ImageEncoder(Module):
    """The ViT and its neck."""

    config: SAM1Config
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "B S S 3"]) -> Float[Array, "B G G D"]:
        """Normalised images to one map of `config.embed_dim` channels."""
        config, size = self.config, self.config.embed_size
        x = PatchEmbed(config.width, config.patch_size, dtype=self.dtype, name="patch_embed")(images)
        positions = self.param("pos_embed", normal(0.02), (1, size, size, config.width))
        x = x + positions.astype(self.dtype)
        for index in range(config.layers):
            window = 0 if index in config.global_blocks else config.window
            x = Block(config, window, self.dtype, name=f"blocks_{index}")(x)
        for index, kernel in ((0, (1, 1)), (2, (3, 3))):
            conv = Conv(config.embed_dim, kernel, use_bias=False, dtype=self.dtype, name=f"neck_{index}")
            x = LayerNorm(epsilon=1e-6, dtype=self.dtype, name=f"neck_{index + 1}")(conv(x))
        return x
