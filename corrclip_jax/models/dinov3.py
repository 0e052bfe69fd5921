"""DINOv3 ViT with rotary positions; its normed patches are features.

Shapes: B images, (h, w) grid of patches, T tokens: class token, registers (storage tokens), patches; C width.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from corrclip_jax.config import DINOv3Config
from corrclip_jax.models.layers import LayerNorm, Module, PatchEmbed, normal
from corrclip_jax.models.vit import (
    Block,
    by_image,
    grid_angles,
    join_tokens,
    rotation,
    split_patches,
    turn_halves,
    visible_tokens,
)

_EPSILON = 1e-5


class DINOv3(Module):
    """The network: images to the patches after the final norm."""

    config: DINOv3Config
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, images: Float[Array, "B H W 3"], grids: Int[Array, "B 2"] | None = None
    ) -> Float[Array, "B h w C"]:
        """Features of ImageNet-normalised images, not of unit length; `grids` as in `models.vit`."""
        config, init = self.config, normal(0.02)
        patches = PatchEmbed(config.width, config.patch_size, dtype=self.dtype, name="patch_embed")(images)
        prefix = [self.param("cls_token", init, (1, 1, config.width))[0]]
        if config.registers:
            prefix.append(self.param("storage_tokens", init, (1, config.registers, config.width))[0])
        grid = patches.shape[1:3]
        x = join_tokens(jnp.concatenate(prefix), patches, self.dtype)
        prefix_tokens = 1 + config.registers
        angles = by_image(lambda own: grid_angles(config, grid, own, prefix_tokens), grids, grid)
        rotate = rotation(angles, turn_halves)
        visible = visible_tokens(grids, prefix_tokens, grid)
        for index in range(config.layers):
            block = Block(config, self.dtype, _EPSILON, key_bias=False, name=f"blocks_{index}")
            x = block(x, visible, rotate)
        return split_patches(LayerNorm(epsilon=_EPSILON, dtype=self.dtype, name="norm")(x), grid)
