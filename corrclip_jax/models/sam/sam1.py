"""The first Segment Anything (SAM) in Flax Linen: encode an image once, then decode as many prompts as you like.

The parameter tree mirrors the published one (`image_encoder/blocks_0/attn/...`), with query, key and value apart.
Prompt encoder and two-way transformer are SAM 2's, which kept them.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, UInt8

from corrclip_jax.config import SAM1Config
from corrclip_jax.models.sam.mask_decoder import nest
from corrclip_jax.models.sam.mask_decoder_sam1 import ImageContext, MaskDecoder
from corrclip_jax.models.sam.prompt_encoder import PromptEncoder
from corrclip_jax.models.sam.vit import ImageEncoder
from corrclip_jax.ops import resize
from corrclip_jax.ops.resize import Length

__all__ = ["SAM1", "ImageContext", "input_sides", "preprocess"]

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


class SAM1(nn.Module):
    """SAM. `S` is `config.image_size`, G = S / patch size, the masks' side M = 4 G."""

    config: SAM1Config
    dtype: DTypeLike = jnp.float32

    def setup(self):
        """The published parts."""
        self.image_encoder = ImageEncoder(self.config, self.dtype)
        self.prompt_encoder = PromptEncoder(self.config, self.dtype, pad_boxes=False)
        self.mask_decoder = MaskDecoder(self.config, self.dtype)

    def encode(self, images: Float[Array, "B S S 3"]) -> Float[Array, "B G G C"]:
        """Feature maps of normalised images (see `preprocess`).

        Raises:
          ValueError: for images of another size than the configuration's.
        """
        side = self.config.image_size
        if images.shape[1:] != (side, side, 3):
            raise ValueError(f"images must have shape (batch, {side}, {side}, 3). Got {images.shape}.")
        return self.image_encoder(images)

    def prepare(self, features: Float[Array, "G G C"]) -> ImageContext:
        """What all prompts without a mask share, from the features of ONE image (no batch axis)."""
        size = self.config.embed_size
        return ImageContext(nest(features, size), nest(self.prompt_encoder.grid_positions(), size))

    def decode(
        self,
        features: Float[Array, "G G C"] | ImageContext,
        points: Float[Array, "N P 2"],
        labels: Int[Array, "N P"],
        boxes: Float[Array, "N 4"] | None = None,
        masks: Float[Array, "N M M"] | None = None,
        multimask: bool = False,
    ) -> tuple[Float[Array, "N K M M"], Float[Array, "N K"]]:
        """Mask logits and predicted IoU of N prompts about ONE image (features without a batch axis).

        Arguments are those of `SAM2.decode`: `points` are (x, y) in pixels of the S x S input, `labels` 1 on the
        object, 0 off it, -1 no point. K is 1, or 3 with `multimask`.
        """
        context = features if isinstance(features, ImageContext) else self.prepare(features)
        plain = context.image + self.prompt_encoder.no_mask()

        def one(model: "SAM1", points, labels, box, mask):
            prompt = model.prompt_encoder.tokens(points, labels, box)
            image = plain
            if mask is not None:
                image = context.image + nest(model.prompt_encoder.dense(mask), model.config.embed_size)
            return model.mask_decoder(context._replace(image=image), prompt, multimask)

        each = nn.vmap(one, variable_axes={"params": None}, split_rngs={"params": False})
        return each(self, points, labels, boxes, masks)

    def __call__(
        self, images: Float[Array, "B S S 3"]
    ) -> tuple[Float[Array, "1 3 M M"], Float[Array, "1 3"]]:
        """Run every part once, on the first image with a prompt of each kind: for `init` and shapes."""
        features = self.encode(images)[0]
        point, label = jnp.zeros((1, 1, 2)), jnp.ones((1, 1), jnp.int32)
        side = 4 * self.config.embed_size
        return self.decode(
            features, point, label, jnp.zeros((1, 4)), jnp.zeros((1, side, side)), multimask=True
        )


def input_sides(height: Length, width: Length, size: int = 1024) -> tuple[Length, Length]:
    """Height and width that a photo has in the model's input: the longer side is `size`, the rest is padding.

    Both may be traced; then the rounding is that of whole numbers, where the published one is of floats.
    """
    if isinstance(height, int) and isinstance(width, int):
        scale = size / max(height, width)
        return int(height * scale + 0.5), int(width * scale + 0.5)
    longest = jnp.maximum(height, width)
    return (2 * height * size + longest) // (2 * longest), (2 * width * size + longest) // (2 * longest)


def preprocess(
    images: UInt8[Array, "B H W 3"], size: int = 1024, sides: Int[Array, "2"] | None = None
) -> Float[Array, "B {size} {size} 3"]:
    """Photos to the model's input: resized to `input_sides`, ImageNet mean and std, zeros to the right and below.

    `sides`, maybe traced, are the height and width of photos that fill the top left corner of `images` only.

    The resize is Pillow's, as published (`resize.pillow`).
    """
    height, width = images.shape[1:3] if sides is None else sides
    fill = input_sides(height, width, size)
    pixels = resize.pillow(images, (height, width), fill, size)
    normalised = (pixels - jnp.array(MEAN)) / jnp.array(STD)
    within = (jnp.arange(size) < fill[0])[:, None] & (jnp.arange(size) < fill[1])
    return jnp.where(within[:, :, None], normalised, 0)
