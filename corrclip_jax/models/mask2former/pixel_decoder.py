"""The pixel decoder: the encoder's maps to three maps that know of each other, and fine features for the masks.

Shapes: B images, h w sides of a map, L cells of the three coarser maps in a row, C feature width, M mask features.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from corrclip_jax.config import Mask2FormerConfig
from corrclip_jax.models.layers import MLP, Conv, LayerNorm, Module, normal
from corrclip_jax.models.mask2former.deformable import DeformableAttention, Sides
from corrclip_jax.models.mask2former.positions import sine_positions
from corrclip_jax.ops import resize

LEVELS = 3
"""How many maps, the coarsest of the encoder's, exchange with each other and are read by the transformer."""

_GROUPS = 32


class ConvNorm(nn.Module):
    """A convolution and a group norm."""

    width: int
    kernel: int = 1
    use_bias: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B h w D"]) -> Float[Array, "B h w C"]:
        """Maps to maps of `width` channels and the same sides."""
        sides = (self.kernel, self.kernel)
        x = Conv(self.width, sides, use_bias=self.use_bias, dtype=self.dtype, name="conv")(x)
        # Variance of what the mean leaves, as in `layers.LayerNorm`.
        norm = nn.GroupNorm(_GROUPS, epsilon=1e-5, use_fast_variance=False, dtype=self.dtype, name="norm")
        with jax.numpy_dtype_promotion("standard"):
            return norm(x)


class EncoderLayer(nn.Module):
    """Deformable attention among the cells of all maps, and an MLP; post-norm."""

    config: Mask2FormerConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L C"], positions: Float[Array, "L C"], sides: Sides
    ) -> Float[Array, "B L C"]:
        """Cells to cells."""
        config = self.config
        attend = DeformableAttention(config.decoder_heads, dtype=self.dtype, name="self_attn")
        x = x + attend(x, positions, sides)
        x = LayerNorm(epsilon=1e-5, dtype=self.dtype, name="self_attn_layer_norm")(x)
        x = x + MLP(config.encoder_mlp_width, jax.nn.relu, dtype=self.dtype, name="mlp")(x)
        return LayerNorm(epsilon=1e-5, dtype=self.dtype, name="final_layer_norm")(x)


class PixelDecoder(Module):
    """Deformable attention over the three coarser maps; the finest one is mixed in afterwards."""

    config: Mask2FormerConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, maps: list[Float[Array, "B _ _ _"]]
    ) -> tuple[list[Float[Array, "B _ _ C"]], Float[Array, "B h w M"]]:
        """The encoder's four maps, finest first, to three maps, coarsest first, and features at the finest."""
        config, width = self.config, self.config.feature_size
        coarse = [
            ConvNorm(width, dtype=self.dtype, name=f"input_projections_{level}")(x)
            for level, x in enumerate(maps[: -LEVELS - 1 : -1])
        ]
        sides = [(x.shape[1], x.shape[2]) for x in coarse]
        level_embed = self.param("level_embed", normal(1.0), (LEVELS, width))
        positions = [
            sine_positions(height, columns, width).reshape(-1, width) + own[None]
            for (height, columns), own in zip(sides, level_embed, strict=True)
        ]
        x = jnp.concatenate([x.reshape(len(x), -1, width) for x in coarse], axis=1)
        placed = jnp.concatenate(positions).astype(self.dtype)
        for layer in range(config.encoder_layers):
            x = EncoderLayer(config, self.dtype, name=f"encoder_layers_{layer}")(x, placed, sides)
        ends = np.cumsum([math.prod(side) for side in sides])
        mixed = [
            part.reshape(len(x), *side, width)
            for part, side in zip(jnp.split(x, ends[:-1], axis=1), sides, strict=True)
        ]
        fine = ConvNorm(width, use_bias=False, dtype=self.dtype, name="adapter_1")(maps[0])
        fine = fine + resize.bilinear(mixed[-1], *fine.shape[1:3])
        fine = jax.nn.relu(ConvNorm(width, 3, use_bias=False, dtype=self.dtype, name="layer_1")(fine))
        return mixed, Conv(config.mask_feature_size, (1, 1), dtype=self.dtype, name="mask_projection")(fine)
