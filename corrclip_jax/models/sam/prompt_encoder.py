"""The prompt encoder of SAM and SAM 2: points, boxes and masks become tokens and a dense map.

Shapes: P points, C embedding width, G side of the decoder's map, M = 4 G side of the masks.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from corrclip_jax.config import SAM1Config, SAM2Config
from corrclip_jax.models.layers import Conv, LayerNorm, Module, gelu, normal


class PositionEncoding(Module):
    """Random Fourier features of positions in the unit square; always float32."""

    width: int

    @nn.compact
    def __call__(self, positions: Float[Array, "*batch 2"]) -> Float[Array, "*batch C"]:
        """(x, y) in 0..1 to [sin, cos] of 2 pi (2 position - 1) @ matrix."""
        name = "positional_encoding_gaussian_matrix"
        matrix = self.param(name, normal(1.0), (2, self.width // 2))
        x, y = jnp.split(2 * positions - 1, 2, axis=-1)
        # Two products rather than a matrix product, which a GPU would round to TF32 before the sine.
        kernel_x, kernel_y = (jax.lax.broadcast_to_rank(row, positions.ndim) for row in matrix)
        angles = 2 * jnp.pi * (x * kernel_x + y * kernel_y)
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


class PromptEncoder(Module):
    """Encodes the prompts of one mask.

    `pad_boxes` says whether a padding token follows a box, as it follows points: see `tokens`.
    """

    config: SAM1Config | SAM2Config
    dtype: DTypeLike = jnp.float32
    pad_boxes: bool = True

    def setup(self) -> None:
        """The published parts; the point embeddings are for labels 0, 1, 2, 3."""
        width, channels = self.config.embed_dim, self.config.mask_channels
        init = normal(0.02)
        self.pe_layer = PositionEncoding(width)
        self.point_embeddings = [self.param(f"point_embeddings_{i}", init, (1, width)) for i in range(4)]
        self.not_a_point_embed = self.param("not_a_point_embed", init, (1, width))
        self.no_mask_embed = self.param("no_mask_embed", init, (1, width))
        self.mask_downscaling_0 = Conv(channels // 4, (2, 2), (2, 2), dtype=self.dtype)
        self.mask_downscaling_1 = LayerNorm(epsilon=1e-6, dtype=self.dtype)
        self.mask_downscaling_3 = Conv(channels, (2, 2), (2, 2), dtype=self.dtype)
        self.mask_downscaling_4 = LayerNorm(epsilon=1e-6, dtype=self.dtype)
        self.mask_downscaling_6 = Conv(width, (1, 1), dtype=self.dtype)

    def tokens(
        self, points: Float[Array, "P 2"], labels: Int[Array, " P"], box: Float[Array, "4"] | None = None
    ) -> Float[Array, "tokens C"]:
        """Tokens of the points, then the box's two corners, then one padding token.

        Points are (x, y) in pixels of the model's input, whose centres are at +0.5. Labels: 1 on the object,
        0 off it, 2 and 3 the first and second corner of a box, -1 no point at all. SAM 2's published predictor
        hands a box over as two such points, so that there is always exactly one padding token; SAM's hands it
        over as a box, which has none (`pad_boxes` False).
        """
        padding = self.not_a_point_embed if box is None or self.pad_boxes else self.not_a_point_embed[:0]
        if box is not None:
            points = jnp.concatenate([points, box.reshape(2, 2)])
            labels = jnp.concatenate([labels, jnp.array([2, 3], labels.dtype)])
        encoded = self.pe_layer((points.astype(jnp.float32) + 0.5) / self.config.image_size)
        encoded = encoded + jnp.concatenate(self.point_embeddings)[jnp.clip(labels, 0, 3)]
        encoded = jnp.where((labels >= 0)[:, None], encoded, self.not_a_point_embed)
        return jnp.concatenate([encoded, padding]).astype(self.dtype)

    def dense(self, mask: Float[Array, "M M"]) -> Float[Array, "G G C"]:
        """The dense map of a mask prompt, given as logits of a quarter of the input's side."""
        x = mask[..., None].astype(self.dtype)
        x = gelu(self.mask_downscaling_1(self.mask_downscaling_0(x)))
        x = gelu(self.mask_downscaling_4(self.mask_downscaling_3(x)))
        return self.mask_downscaling_6(x)

    def no_mask(self) -> Float[Array, " C"]:
        """What stands at every position of the dense map where there is no mask prompt."""
        return self.no_mask_embed[0].astype(self.dtype)

    def grid_positions(self) -> Float[Array, "G G C"]:
        """Position encoding of the decoder's map, at the centres of its cells."""
        centres = (jnp.arange(self.config.embed_size, dtype=jnp.float32) + 0.5) / self.config.embed_size
        return self.pe_layer(jnp.stack(jnp.meshgrid(centres, centres), axis=-1)).astype(self.dtype)
