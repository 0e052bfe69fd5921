"""DINOv2 ViT, with or without registers; its normed patches are features.

Shapes: B images, (h, w) grid of patches, T tokens: class token, registers, patches; C width.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from corrclip_jax.config import DINOv2Config
from corrclip_jax.models.layers import LayerNorm, Module, PatchEmbed, normal
from corrclip_jax.models.vit import (
    Block,
    by_image,
    join_tokens,
    resized_positions,
    split_patches,
    visible_tokens,
)
from corrclip_jax.ops.resize import Length, bicubic_antialias_rows, bicubic_rows


class DINOv2(Module):
    """The network: images to the patches after the final norm."""

    config: DINOv2Config
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, images: Float[Array, "B H W 3"], grids: Int[Array, "B 2"] | None = None
    ) -> Float[Array, "B h w C"]:
        """Features of ImageNet-normalised images, not of unit length; `grids` as in `models.vit`."""
        config, init = self.config, normal(0.02)
        patches = PatchEmbed(config.width, config.patch_size, dtype=self.dtype, name="patch_embed")(images)
        class_token = self.param("cls_token", init, (1, 1, config.width))
        embedding = self.param("pos_embed", init, (1, 1 + config.grid**2, config.width))[0]
        prefix = [class_token[0] + embedding[:1]]
        if config.registers:
            prefix.append(self.param("register_tokens", init, (1, config.registers, config.width))[0])
        grid = patches.shape[1:3]
        positions = by_image(lambda own: self.positions(embedding[1:], grid, own), grids, grid)
        x = join_tokens(jnp.concatenate(prefix), patches + positions.astype(self.dtype), self.dtype)
        visible = visible_tokens(grids, 1 + config.registers, grid)
        for index in range(config.layers):
            x = Block(config, self.dtype, name=f"blocks_{index}")(x, visible)
        return split_patches(LayerNorm(epsilon=1e-6, dtype=self.dtype, name="norm")(x), grid)

    def positions(
        self, embedding: Float[Array, "N C"], grid: tuple[int, ...], own: tuple[Length, ...]
    ) -> Float[Array, "h w C"]:
        """Position embeddings of a grid of `own` rows and columns: bicubic by the sizes.

        The networks with registers were published with antialias, those without them without it.
        """
        matrix = bicubic_antialias_rows if self.config.registers else bicubic_rows
        rows, columns = (matrix(side, self.config.grid, out) for side, out in zip(grid, own, strict=True))
        return resized_positions(embedding, rows, columns)
