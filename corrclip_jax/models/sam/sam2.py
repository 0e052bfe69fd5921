"""SAM 2 and 2.1 for images, in Flax Linen: encode an image once, then decode as many prompts as you like.

The parameter tree mirrors the published one (`image_encoder/trunk/blocks_0/attn/...`), with query, key and
value apart and what only videos need left out.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, UInt8

from corrclip_jax.config import SAM2Config
from corrclip_jax.models.sam.hiera import Hiera
from corrclip_jax.models.sam.mask_decoder import ImageContext, MaskDecoder, nest
from corrclip_jax.models.sam.neck import FPNNeck
from corrclip_jax.models.sam.prompt_encoder import PromptEncoder
from corrclip_jax.ops import resize

__all__ = ["SAM2", "ImageContext", "ImageFeatures", "preprocess"]

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class ImageFeatures(NamedTuple):
    """What the encoder makes of images: the coarse map and the two finer ones, sides S/16, S/4 and S/8."""

    embed: Float[Array, "*B G G C"]
    high0: Float[Array, "*B 4*G 4*G c"]
    high1: Float[Array, "*B 2*G 2*G d"]


class ImageEncoder(nn.Module):
    """Trunk and neck."""

    config: SAM2Config
    dtype: DTypeLike = jnp.float32

    def setup(self):
        """The published parts."""
        self.trunk = Hiera(self.config, self.dtype)
        self.neck = FPNNeck(self.config.embed_dim, self.dtype)

    def __call__(self, images: Float[Array, "B S S 3"]) -> list[Float[Array, "B _ _ C"]]:
        """Normalised images to three maps of one width, finest first."""
        return self.neck(self.trunk(images))


class SAM2(nn.Module):
    """SAM 2's image model. `S` is `config.image_size`, G = S / 16, the masks' side M = S / 4."""

    config: SAM2Config
    dtype: DTypeLike = jnp.float32

    def setup(self):
        """The published parts."""
        self.image_encoder = ImageEncoder(self.config, self.dtype)
        self.sam_prompt_encoder = PromptEncoder(self.config, self.dtype)
        self.sam_mask_decoder = MaskDecoder(self.config, self.dtype)
        self.no_mem_embed = self.param("no_mem_embed", nn.initializers.normal(0.02), (self.config.embed_dim,))

    def encode(self, images: Float[Array, "B S S 3"]) -> ImageFeatures:
        """Feature maps of normalised images (see `preprocess`).

        Raises:
          ValueError: for images of another size than the configuration's.
        """
        side = self.config.image_size
        if images.shape[1:] != (side, side, 3):
            raise ValueError(f"images must have shape (batch, {side}, {side}, 3). Got {images.shape}.")
        full, half, coarse = self.image_encoder(images)
        high0, high1 = self.sam_mask_decoder.fine_features(full, half)
        return ImageFeatures(coarse + self.no_mem_embed.astype(self.dtype), high0, high1)

    def prepare(self, features: ImageFeatures) -> ImageContext:
        """What all prompts without a mask share, from the features of ONE image (no batch axis)."""
        size = self.config.embed_size
        return ImageContext(
            image=nest(features.embed, size),
            positions=nest(self.sam_prompt_encoder.grid_positions(), size),
            half=nest(features.high1, size).reshape(size**2, -1),
            full=nest(features.high0, size).reshape(size**2 * 4, -1),
        )

    def decode(
        self,
        features: ImageFeatures | ImageContext,
        points: Float[Array, "N P 2"],
        labels: Int[Array, "N P"],
        boxes: Float[Array, "N 4"] | None = None,
        masks: Float[Array, "N M M"] | None = None,
        multimask: bool = False,
    ) -> tuple[Float[Array, "N K M M"], Float[Array, "N K"]]:
        """Mask logits and predicted IoU of N prompts about ONE image (features without a batch axis).

        `points` are (x, y) in pixels of the S x S input, `labels` as `PromptEncoder.tokens` has them; P may
        be 0 where there are boxes (x0, y0, x1, y1). `masks` are logits of an earlier answer. K is 1, or 3 with
        `multimask`. `prepare`'s result may stand for the features, which pays when prompts come in chunks.
        """
        context = features if isinstance(features, ImageContext) else self.prepare(features)
        plain = context.image + self.sam_prompt_encoder.no_mask()

        def one(model: "SAM2", points, labels, box, mask):
            prompt = model.sam_prompt_encoder.tokens(points, labels, box)
            image = plain
            if mask is not None:
                image = context.image + nest(model.sam_prompt_encoder.dense(mask), model.config.embed_size)
            return model.sam_mask_decoder(context._replace(image=image), prompt, multimask)

        each = nn.vmap(one, variable_axes={"params": None}, split_rngs={"params": False})
        return each(self, points, labels, boxes, masks)

    def __call__(
        self, images: Float[Array, "B S S 3"]
    ) -> tuple[Float[Array, "1 3 M M"], Float[Array, "1 3"]]:
        """Run every part once, on the first image with a prompt of each kind: for `init` and shapes."""
        features = jax.tree.map(lambda x: x[0], self.encode(images))
        point, label = jnp.zeros((1, 1, 2)), jnp.ones((1, 1), jnp.int32)
        mask = jnp.zeros((1, *features.high0.shape[:2]))
        return self.decode(features, point, label, jnp.zeros((1, 4)), mask, multimask=True)


def preprocess(
    images: UInt8[Array, "B H W 3"], size: int = 1024, sides: Int[Array, "2"] | None = None
) -> Float[Array, "B {size} {size} 3"]:
    """Photos to the model's input: / 255, resized with antialias to a square, ImageNet mean and std.

    `sides`, maybe traced, are the height and width of photos that fill the top left corner of `images` only.
    """
    if sides is None:
        rows, columns = (resize.antialias_matrix(side, size) for side in images.shape[1:3])
    else:
        rows, columns = (
            resize.antialias_columns(canvas, sides[axis], size)
            for axis, canvas in enumerate(images.shape[1:3])
        )
    with jax.default_matmul_precision("highest"):
        resized = resize.separable(images.astype(jnp.float32) / 255, rows, columns)
    return (resized - jnp.array(MEAN)) / jnp.array(STD)
