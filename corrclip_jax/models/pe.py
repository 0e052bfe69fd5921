"""PE-Spatial (Perception Encoder) ViT with learned and rotary positions; its patches are features.

Shapes: B images, (h, w) grid of patches, T tokens: class token, patches; D head width, C width.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from corrclip_jax.config import PEConfig
from corrclip_jax.models.layers import LayerNorm, Module, PatchEmbed, normal
from corrclip_jax.models.vit import (
    Block,
    by_image,
    join_tokens,
    resized_positions,
    rotation,
    split_patches,
    visible_tokens,
)
from corrclip_jax.ops.resize import Length, bilinear_rows

_EPSILON = 1e-5


class PE(Module):
    """The network: images to the last block's patches."""

    config: PEConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, images: Float[Array, "B H W 3"], grids: Int[Array, "B 2"] | None = None
    ) -> Float[Array, "B h w C"]:
        """Features of images in -1 .. 1, not of unit length; `grids` as in `models.vit`."""
        config, init = self.config, normal(0.02)
        patches = PatchEmbed(config.width, config.patch_size, False, self.dtype, name="conv1")(images)
        class_token = self.param("class_embedding", init, (config.width,))
        embedding = self.param("positional_embedding", init, (1 + config.grid**2, config.width))
        grid = patches.shape[1:3]
        positions = by_image(lambda own: self.positions(embedding[1:], grid, own), grids, grid)
        prefix = (class_token + embedding[0])[None]
        x = join_tokens(prefix, patches + positions.astype(self.dtype), self.dtype)
        x = LayerNorm(epsilon=_EPSILON, dtype=self.dtype, name="ln_pre")(x)
        rotate = rotation(self.angles(grid)[None], turn_pairs)
        visible = visible_tokens(grids, 1, grid)
        for index in range(config.layers):
            block = Block(config, self.dtype, _EPSILON, layer_scale=False, name=f"blocks_{index}")
            x = block(x, visible, rotate)
        return split_patches(x, grid)

    def positions(
        self, embedding: Float[Array, "N C"], grid: tuple[int, ...], own: tuple[Length, ...]
    ) -> Float[Array, "h w C"]:
        """Position embeddings of a grid of `own` rows and columns, bilinear."""
        rows, columns = (
            bilinear_rows(np.arange(side), self.config.grid, out) for side, out in zip(grid, own, strict=True)
        )
        return resized_positions(embedding, rows, columns)

    def angles(self, grid: tuple[int, ...]) -> Float[Array, "T D"]:
        """Angles of all tokens: columns first, each twice in a row, counted from 1; of the class token 0."""
        count = self.config.width // self.config.heads // 4
        turns = 10000.0 ** (-np.arange(count) / count)
        y, x = ((np.arange(side) + 1)[:, None] * turns for side in grid)
        shape = (*grid, count)
        angles = np.concatenate([np.broadcast_to(x, shape), np.broadcast_to(y[:, None], shape)], axis=-1)
        angles = np.repeat(angles, 2, axis=-1).reshape(-1, 4 * count)
        return jnp.asarray(np.pad(angles, ((1, 0), (0, 0))), jnp.float32)


def turn_pairs(x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
    """A quarter turn of neighbours: (a, b) to (-b, a)."""
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    return jnp.stack([-pairs[..., 1], pairs[..., 0]], axis=-1).reshape(x.shape)
