"""SAM 2 and 2.1 for images, in Flax Linen: encode an image once, then decode any number of prompts.

The parameter tree has the names of `facebookresearch/sam2` (`image_encoder/trunk/blocks_0/attn/...`), with query,
key and value apart and without what only videos need.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, UInt8

from corrclip_jax.config import SAM2Config
from corrclip_jax.models.layers import IMAGENET_MEAN, IMAGENET_STD, add_bias, normal, normalise_channels
from corrclip_jax.models.sam.hiera import Hiera
from corrclip_jax.models.sam.mask_decoder import ImageContext, MaskDecoder, by_quarters
from corrclip_jax.models.sam.neck import FPNNeck
from corrclip_jax.models.sam.prompt_encoder import PromptEncoder
from corrclip_jax.models.sam.prompted_sam import PromptedSAM
from corrclip_jax.ops import resize
from corrclip_jax.ops.precision import float32_products

__all__ = ["SAM2", "ImageContext", "ImageFeatures", "preprocess"]


class ImageFeatures(NamedTuple):
    """What the encoder makes of images: the coarse map and the two finer ones, sides S/16, S/4 and S/8."""

    embed: Float[Array, "*B G G C"]
    high0: Float[Array, "*B 4*G 4*G c"]
    high1: Float[Array, "*B 2*G 2*G d"]


class ImageEncoder(nn.Module):
    """Trunk and neck."""

    config: SAM2Config
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """The published parts."""
        self.trunk = Hiera(self.config, self.dtype)
        self.neck = FPNNeck(self.config.embed_dim, self.dtype)

    def __call__(
        self, images: Float[Array, "B S S 3"], project: Sequence[Callable[[Array], Array]] = ()
    ) -> list[Float[Array, "B _ _ _"]]:
        """Normalised images to three maps of one width, finest first; or the finest as `project` makes them."""
        return self.neck(self.trunk(images, project), len(project))


class SAM2(PromptedSAM):
    """SAM 2's image model. `S` is `config.image_size`, G = S / 16, the masks' side M = S / 4."""

    config: SAM2Config

    def setup(self) -> None:
        """The published parts."""
        self.image_encoder = ImageEncoder(self.config, self.dtype)
        self.sam_prompt_encoder = PromptEncoder(self.config, self.dtype)
        self.sam_mask_decoder = MaskDecoder(
            self.config, fine_maps=True, object_token=True, sigmoid_iou=True, dtype=self.dtype
        )
        self.no_mem_embed = self.param("no_mem_embed", normal(0.02), (self.config.embed_dim,))

    def prompt_parts(self) -> tuple[PromptEncoder, MaskDecoder]:
        """Prompt encoder and mask decoder."""
        return self.sam_prompt_encoder, self.sam_mask_decoder

    def encode(self, images: Float[Array, "B S S 3"]) -> ImageFeatures:
        """Feature maps of normalised images (see `preprocess`).

        Raises:
          ValueError: for images of another size than the configuration's.
        """
        self._check(images)
        if self.dtype == jnp.bfloat16 and not self.is_initializing():
            high0, high1, coarse = self.image_encoder(images, self._fine_projections())
        else:
            full, half, coarse = self.image_encoder(images)
            high0, high1 = self.sam_mask_decoder.fine_features(full, half)
        return ImageFeatures(add_bias(coarse, self.no_mem_embed.astype(self.dtype)), high0, high1)

    def _fine_projections(self) -> list[Callable[[Array], Array]]:
        """The neck's projection of each finer map and then the decoder's, both of single cells, as one product.

        It saves a map of 256 channels at S/4, and rounds once where the two round twice.
        """
        params = self.variables["params"]
        neck, decoder = params["image_encoder"]["neck"], params["sam_mask_decoder"]
        return [
            partial(_project, neck[f"convs_{len(neck) - 1 - level}"], decoder[f"conv_s{level}"])
            for level in range(2)
        ]

    def prepare(self, features: ImageFeatures) -> ImageContext:
        """What all prompts without a mask share, from the features of ONE image (no batch axis)."""
        side, width = self.config.embed_size, self.config.embed_dim
        return ImageContext(
            image=features.embed.reshape(-1, width),
            positions=self.sam_prompt_encoder.grid_positions().reshape(-1, width),
            half=by_quarters(features.high1, side),
            full=by_quarters(features.high0, side),
        )


def _project(
    first: Mapping[str, Array], second: Mapping[str, Array], x: Float[Array, "N h w C"]
) -> Float[Array, "N h w D"]:
    """Two 1 x 1 convolutions, one after the other, as one in x's type."""
    kernel, onwards = (part["kernel"][0, 0].astype(jnp.float32) for part in (first, second))
    with jax.default_matmul_precision("highest"):
        bias = first["bias"].astype(jnp.float32) @ onwards + second["bias"].astype(jnp.float32)
        kernel = kernel @ onwards
    return add_bias(x @ kernel.astype(x.dtype), bias.astype(x.dtype))


def preprocess(
    images: UInt8[Array, "B H W 3"],
    image_size: int = 1024,
    size: Int[Array, "2"] | None = None,
    dtype: DTypeLike = jnp.float32,
) -> Float[Array, "B {image_size} {image_size} 3"]:
    """Images to the network's input: / 255, resized with antialias to a square, normalised.

    Args:
      images: RGB, 0..255.
      image_size: side of the input.
      size: the true height and width of images in the top left corners of a padded batch; may be traced.
      dtype: compute type of the network, which decides how precise the resizing is.
    """
    if size is None:
        rows, columns = (resize.antialias_matrix(length, image_size) for length in images.shape[1:3])
    else:
        rows, columns = (
            resize.antialias_columns(padded, size[axis], image_size)
            for axis, padded in enumerate(images.shape[1:3])
        )
    with float32_products(dtype):
        resized = resize.separable(images.astype(jnp.float32) / 255, rows, columns)
    return normalise_channels(resized, IMAGENET_MEAN, IMAGENET_STD)
