"""Segment Anything (SAM, the first one) in Flax Linen: encode an image once, then decode any number of prompts.

The parameter tree has the names of `facebookresearch/segment-anything` (`image_encoder/blocks_0/attn/...`), with
query, key and value apart. Prompt encoder and mask decoder are shared with SAM 2.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from corrclip_jax.config import SAM1Config
from corrclip_jax.models.layers import normalise_channels
from corrclip_jax.models.sam.mask_decoder import ImageContext, MaskDecoder
from corrclip_jax.models.sam.prompt_encoder import PromptEncoder
from corrclip_jax.models.sam.prompted_sam import PromptedSAM
from corrclip_jax.models.sam.vit import ImageEncoder
from corrclip_jax.ops import resize
from corrclip_jax.ops.masks import inside
from corrclip_jax.ops.resize import Length

__all__ = ["SAM1", "ImageContext", "preprocess", "resized_extent"]

# ImageNet's statistics of pixels 0..255, as `Sam.pixel_mean` and `Sam.pixel_std`.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


class SAM1(PromptedSAM):
    """SAM. `S` is `config.image_size`, G = S / patch size, the masks' side M = 4 G."""

    config: SAM1Config

    def setup(self) -> None:
        """The published parts."""
        self.image_encoder = ImageEncoder(self.config, self.dtype)
        self.prompt_encoder = PromptEncoder(self.config, self.dtype, pad_boxes=False)
        self.mask_decoder = MaskDecoder(
            self.config, fine_maps=False, object_token=False, sigmoid_iou=False, dtype=self.dtype
        )

    def prompt_parts(self) -> tuple[PromptEncoder, MaskDecoder]:
        """Prompt encoder and mask decoder."""
        return self.prompt_encoder, self.mask_decoder

    def encode(self, images: Float[Array, "B S S 3"]) -> Float[Array, "B G G C"]:
        """Feature maps of normalised images (see `preprocess`).

        Raises:
          ValueError: for images of another size than the configuration's.
        """
        self._check(images)
        return self.image_encoder(images)

    def prepare(self, features: Float[Array, "G G C"]) -> ImageContext:
        """What all prompts without a mask share, from the features of ONE image (no batch axis)."""
        width, positions = self.config.embed_dim, self.prompt_encoder.grid_positions()
        return ImageContext(features.reshape(-1, width), positions.reshape(-1, width))


def resized_extent(height: Length, width: Length, image_size: int = 1024) -> tuple[Length, Length]:
    """Height and width of an image in the network's input: the longer side is `image_size`, the rest is padding.

    `ResizeLongestSide.get_preprocess_shape` of `facebookresearch/segment-anything`. Both may be traced; then the
    rounding is done in whole numbers, where the official implementation uses floats.
    """
    if isinstance(height, int) and isinstance(width, int):
        scale = image_size / max(height, width)
        return int(height * scale + 0.5), int(width * scale + 0.5)
    longest = jnp.maximum(height, width)
    return (
        (2 * height * image_size + longest) // (2 * longest),
        (2 * width * image_size + longest) // (2 * longest),
    )


def preprocess(
    images: UInt8[Array, "B H W 3"], image_size: int = 1024, size: Int[Array, "2"] | None = None
) -> Float[Array, "B {image_size} {image_size} 3"]:
    """Images to the network's input: resized to `resized_extent`, normalised, zeros to the right and below.

    The resize is Pillow's, as in the official implementation (`resize.pillow`).

    Args:
      images: RGB, 0..255.
      image_size: side of the input.
      size: the true height and width of images in the top left corners of a padded batch; may be traced.
    """
    height, width = images.shape[1:3] if size is None else size
    extent = resized_extent(height, width, image_size)
    pixels = resize.pillow(images, (height, width), extent, image_size)
    normalised = normalise_channels(pixels, MEAN, STD)
    within = inside((image_size, image_size), extent)
    return jnp.where(within[:, :, None], normalised, 0)
