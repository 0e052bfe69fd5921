"""DINOv3 ViT with rotary positions; its normed patches are features.

Shapes: B images, (h, w) grid of patches, T tokens: class token, registers (storage tokens), patches; D head width,
C width.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from corrclip_jax.config import DINOv3Config
from corrclip_jax.models.layers import LayerNorm, PatchEmbed, normal
from corrclip_jax.models.vit import Block, by_image, join_tokens, rotation, split_patches, visible_tokens
from corrclip_jax.ops.resize import Length

_EPSILON = 1e-5


class DINOv3(nn.Module):
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
        angles = by_image(lambda own: self.angles(grid, own), grids, grid)
        rotate = rotation(angles, turn_halves)
        visible = visible_tokens(grids, 1 + config.registers, grid)
        for index in range(config.layers):
            block = Block(config, self.dtype, _EPSILON, key_bias=False, name=f"blocks_{index}")
            x = block(x, visible, rotate)
        return split_patches(LayerNorm(epsilon=_EPSILON, dtype=self.dtype, name="norm")(x), grid)

    def angles(self, grid: tuple[int, ...], own: tuple[Length, ...]) -> Float[Array, "T D"]:
        """Angles of all tokens in a grid of `own` rows and columns with edges at -1 and 1; 0 of prefix tokens."""
        config = self.config
        count = config.width // config.heads // 4
        turns = 2 * np.pi / config.rope_base ** (np.arange(count) / count)
        y, x = (
            (2 * (jnp.arange(side, dtype=jnp.float32) + 0.5) / jnp.float32(out) - 1)[:, None]
            * turns.astype(np.float32)[None]
            for side, out in zip(grid, own, strict=True)
        )
        shape = (*grid, count)
        angles = jnp.concatenate(
            [jnp.broadcast_to(y[:, None], shape), jnp.broadcast_to(x, shape)] * 2, axis=-1
        ).reshape(-1, 4 * count)
        return jnp.pad(angles, ((1 + config.registers, 0), (0, 0)))


def turn_halves(x: Float[Array, "*batch D"]) -> Float[Array, "*batch D"]:
    """A quarter turn of pairs that are half a head apart: [a, b] to [-b, a]."""
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([-second, first], axis=-1)
