"""RADIO ViT (C-RADIOv3, RADIOv2.5), a student of several foundation models; its patches are features.

Patches get cropped position embeddings, prefix tokens (class and register tokens of all teachers) get none. The
parameter tree holds layer scales, a final norm and a feature normaliser where the checkpoint has them.
Shapes: B images, (h, w) grid of patches, T tokens, C width, G side of the grid of position embeddings.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from corrclip_jax.config import RadioConfig
from corrclip_jax.models.layers import LayerNorm, Module, PatchEmbed, add_bias, lecun_normal, normal
from corrclip_jax.models.vit import (
    Block,
    by_image,
    join_tokens,
    resized_positions,
    split_patches,
    visible_tokens,
)
from corrclip_jax.ops.resize import Length, bilinear_rows


class FeatureNormalizer(Module):
    """A published affine change of the features."""

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B h w C"]:
        """(x - mean) @ tx, in float32."""
        width = x.shape[-1]
        mean = self.param("mean", nn.initializers.zeros, (width,))
        tx = self.param("tx", lecun_normal, (width, width))
        return add_bias(x.astype(jnp.float32), -mean) @ tx


class Radio(Module):
    """The network: images to the last block's patches."""

    config: RadioConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, images: Float[Array, "B H W 3"], grids: Int[Array, "B 2"] | None = None
    ) -> Float[Array, "B h w C"]:
        """Features of CLIP-normalised images, not normalised; `grids` as in `models.vit`."""
        config, init = self.config, normal(0.02)
        embed = PatchEmbed(config.width, config.patch_size, False, self.dtype, name="patch_embed")
        patches = embed(images)
        prefix = self.param("cls_token", init, (config.prefix_tokens, config.width))
        embedding = self.param("pos_embed", init, (config.grid**2, config.width))
        grid = patches.shape[1:3]
        positions = by_image(lambda own: self.positions(embedding, grid, own), grids, grid)
        x = join_tokens(prefix, patches + positions.astype(self.dtype), self.dtype)
        visible = visible_tokens(grids, config.prefix_tokens, grid)
        for index in range(config.layers):
            block = Block(config, self.dtype, layer_scale=config.layer_scale, name=f"blocks_{index}")
            x = block(x, visible)
        if config.final_norm:
            x = LayerNorm(epsilon=1e-6, dtype=self.dtype, name="norm")(x)
        x = split_patches(x, grid)
        return FeatureNormalizer(name="feature_normalizer")(x) if config.feature_normalizer else x

    def positions(
        self, embedding: Float[Array, "N C"], grid: tuple[int, ...], own: tuple[Length, ...]
    ) -> Float[Array, "h w C"]:
        """Position embeddings of a grid of `own` rows and columns: of a square of its longer side, cropped."""
        longer: Length = jnp.maximum(*own) if isinstance(own[0], jax.Array) else max(own)
        rows, columns = (bilinear_rows(np.arange(side), self.config.grid, longer) for side in grid)
        return resized_positions(embedding, rows, columns)
