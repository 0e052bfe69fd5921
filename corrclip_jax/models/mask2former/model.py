"""Mask2Former in Flax Linen: an image to a fixed number of queries, each with classes and a mask.

The parameter tree mirrors that of transformers' `Mask2FormerForUniversalSegmentation`: `encoder` and
`pixel_decoder` are its `pixel_level_module`, `transformer_module` and `class_predictor` keep their names.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from corrclip_jax.config import Mask2FormerConfig
from corrclip_jax.models.layers import Dense
from corrclip_jax.models.mask2former.decoder import TransformerModule
from corrclip_jax.models.mask2former.pixel_decoder import PixelDecoder
from corrclip_jax.models.mask2former.swin import Swin

__all__ = ["Mask2Former"]


class Mask2Former(nn.Module):
    """Mask2Former with a Swin encoder. Q is `config.queries`."""

    config: Mask2FormerConfig
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """The published parts."""
        self.encoder = Swin(self.config, self.dtype)
        self.pixel_decoder = PixelDecoder(self.config, self.dtype)
        self.transformer_module = TransformerModule(self.config, self.dtype)
        self.class_predictor = Dense(self.config.labels + 1, dtype=self.dtype)

    def __call__(
        self, pixel_values: Float[Array, "B H W 3"]
    ) -> tuple[Float[Array, "B Q classes"], Float[Array, "B Q h w"]]:
        """Logits of classes and masks, in float32, of normalised images of any size.

        The class after all `config.labels` is "no object". Masks have a patch of pixels a cell, sides rounded up.
        Both are the last layer's: what the layers before it predict only tells the next one where to look.
        """
        maps, features = self.pixel_decoder(self.encoder(pixel_values))
        queries, masks = self.transformer_module(maps, features)
        return self.class_predictor(queries).astype(jnp.float32), masks
