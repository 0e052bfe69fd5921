"""Swin, Mask2Former's image encoder: attention in windows, which every second block shifts by half a side.

Shapes: B images, N windows, M windows of an image, H W grid of patches, T = w * w tokens of a window, C width.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from corrclip_jax.config import Mask2FormerConfig
from corrclip_jax.models.layers import (
    MLP,
    Dense,
    LayerNorm,
    Module,
    PatchEmbed,
    gelu,
    normal,
    window_merge,
    window_partition,
)

_APART = -100.0  # as published: what a logit loses between tokens that lie apart in the image


def relative_rows(window: int) -> Int[np.ndarray, "T T"]:
    """The row of the table of biases for every query and key of a window: all offsets, row by row."""
    y, x = np.divmod(np.arange(window * window), window)
    distances = 2 * window - 1
    return (y[:, None] - y + window - 1) * distances + x[:, None] - x + window - 1


def shifted_regions(height: int, width: int, window: int, shift: int) -> Int[np.ndarray, "M T"]:
    """Labels of the tokens in the windows of a shifted map; tokens of different labels do not see each other.

    The shift brings the first `shift` rows and columns to the end, where windows hold cells of opposite edges.
    Height and width are multiples of the window.
    """

    def bands(size: int) -> Int[np.ndarray, " size"]:
        cells = np.arange(size)
        return (cells >= size - window).astype(np.int32) + (cells >= size - shift)

    labels = 3 * bands(height)[:, None] + bands(width)
    blocks = labels.reshape(height // window, window, width // window, window)
    return blocks.transpose(0, 2, 1, 3).reshape(-1, window * window)


class WindowAttention(Module):
    """Self-attention within windows, with a learned bias for every offset between two tokens."""

    heads: int
    window: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "N T C"], regions: Int[np.ndarray, "M T"] | None = None
    ) -> Float[Array, "N T C"]:
        """Windows, image by image, to windows; with `regions` those of a shifted map."""
        count, tokens, width = x.shape
        q, k, v = (
            Dense(width, dtype=self.dtype, name=name)(x).reshape(count, tokens, self.heads, -1)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        shape = ((2 * self.window - 1) ** 2, self.heads)
        table = self.param("relative_position_bias_table", normal(0.02), shape)
        bias = table[relative_rows(self.window)].transpose(2, 0, 1)
        logits = jnp.einsum("nthd,nshd->nhts", q, k, preferred_element_type=jnp.float32)
        logits = logits * q.shape[-1] ** -0.5 + bias[None]
        if regions is not None:
            labels = jnp.asarray(regions)
            apart = jnp.where(labels[:, :, None] != labels[:, None], _APART, 0)
            by_image = logits.reshape(-1, len(regions), *logits.shape[1:])
            logits = (by_image + apart[None, :, None]).reshape(logits.shape)
        weights = jax.nn.softmax(logits).astype(self.dtype)
        out = jnp.einsum("nhts,nshd->nthd", weights, v)
        return Dense(width, dtype=self.dtype, name="o_proj")(out.reshape(x.shape))


class Block(nn.Module):
    """A pre-LN transformer block on a grid; `shift` moves its windows down and to the right."""

    config: Mask2FormerConfig
    heads: int
    shift: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Maps to maps. Windows that reach beyond the grid see zeros there, as published."""
        config, channels = self.config, x.shape[-1]
        normed = LayerNorm(epsilon=1e-5, dtype=self.dtype, name="layernorm_before")(x)
        x = x + self._attend(normed)
        normed = LayerNorm(epsilon=1e-5, dtype=self.dtype, name="layernorm_after")(x)
        return x + MLP(int(channels * config.mlp_ratio), gelu, dtype=self.dtype, name="mlp")(normed)

    def _attend(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        window, shift = self.config.window, self.shift
        _, height, width, channels = x.shape
        x = jnp.pad(x, ((0, 0), (0, -height % window), (0, -width % window), (0, 0)))
        sides, regions = x.shape[1:3], None
        if shift:
            x = jnp.roll(x, (-shift, -shift), axis=(1, 2))
            regions = shifted_regions(sides[0], sides[1], window, shift)
        windows = window_partition(x, window)
        attend = WindowAttention(self.heads, window, self.dtype, name="attention")
        out = attend(windows.reshape(-1, window * window, channels), regions)
        x = window_merge(out.reshape(windows.shape), *sides)
        return jnp.roll(x, (shift, shift), axis=(1, 2))[:, :height, :width]


class PatchMerging(nn.Module):
    """Every 2 x 2 cells to one of twice the width; odd sides are padded with zeros."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w 2*C"]:
        """A grid [B, H, W, C] to half the sides, rounded up."""
        x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
        batch, height, width, channels = x.shape
        cells = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
        # The published order: columns outside, rows inside.
        cells = cells.transpose(0, 1, 3, 4, 2, 5).reshape(batch, height // 2, width // 2, 4 * channels)
        normed = LayerNorm(epsilon=1e-5, dtype=self.dtype, name="norm")(cells)
        return Dense(2 * channels, use_bias=False, dtype=self.dtype, name="reduction")(normed)


class Swin(nn.Module):
    """The encoder; it returns the normed map at the end of each stage, finest first."""

    config: Mask2FormerConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "B H W 3"]) -> list[Float[Array, "B h w C"]]:
        """Normalised images of any size to four maps, a patch of pixels a cell and twice as many each time.

        Sides round up: images are padded with zeros to whole patches, maps to an even number of cells.
        """
        config, patch = self.config, self.config.patch_size
        images = jnp.pad(
            images, ((0, 0), (0, -images.shape[1] % patch), (0, -images.shape[2] % patch), (0, 0))
        )
        x = PatchEmbed(config.embed_dim, patch, dtype=self.dtype, name="patch_embeddings")(images)
        x = LayerNorm(epsilon=1e-5, dtype=self.dtype, name="embeddings_norm")(x)
        maps = []
        for stage, (depth, heads) in enumerate(zip(config.depths, config.heads, strict=True)):
            if stage:
                x = PatchMerging(self.dtype, name=f"layers_{stage - 1}_downsample")(x)
            for block in range(depth):
                shift = config.window // 2 if block % 2 else 0
                x = Block(config, heads, shift, self.dtype, name=f"layers_{stage}_blocks_{block}")(x)
            norm = LayerNorm(epsilon=1e-5, dtype=self.dtype, name=f"hidden_states_norms_stage{stage + 1}")
            maps.append(norm(x))
        return maps
