"""Prompt decoding of SAM and SAM 2: an image's features and any number of prompts to masks.

Shapes: S side of the input, G side of the decoder's map, M = 4 G side of the masks, C embedding width, N prompts of
P points, K masks of a prompt.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from corrclip_jax.config import SAM1Config, SAM2Config
from corrclip_jax.models.layers import add_bias
from corrclip_jax.models.sam.mask_decoder import ImageContext, MaskDecoder
from corrclip_jax.models.sam.prompt_encoder import PromptEncoder


class PromptedSAM(nn.Module):
    """The part of a SAM that does not depend on its image encoder.

    A subclass defines `encode` and `prepare`, and returns its prompt encoder and mask decoder from `prompt_parts`:
    their attributes, and thereby their parameters, have the published names.
    """

    config: SAM1Config | SAM2Config
    dtype: DTypeLike = jnp.float32

    def encode(self, images: Float[Array, "B S S 3"]) -> Any:
        """Features of normalised images: a pytree of arrays with a leading axis B."""
        raise NotImplementedError

    def prepare(self, features: Any) -> ImageContext:
        """What all prompts without a mask share, from the features of ONE image (no batch axis)."""
        raise NotImplementedError

    def prompt_parts(self) -> tuple[PromptEncoder, MaskDecoder]:
        """Prompt encoder and mask decoder."""
        raise NotImplementedError

    def decode(
        self,
        features: Any,
        points: Float[Array, "N P 2"],
        labels: Int[Array, "N P"],
        boxes: Float[Array, "N 4"] | None = None,
        masks: Float[Array, "N M M"] | None = None,
        multimask: bool = False,
    ) -> tuple[Float[Array, "N K M M"], Float[Array, "N K"]]:
        """Mask logits and predicted IoU of N prompts about ONE image.

        Args:
          features: one image's part of what `encode` returns (no batch axis), or the result of `prepare`, which
            saves work when prompts are decoded in chunks.
          points: (x, y) in pixels of the S x S input; P may be 0 where there are boxes.
          labels: 1 on the object, 0 off it, -1 no point; more in `PromptEncoder.tokens`.
          boxes: (x0, y0, x1, y1) in the same pixels.
          masks: logits of an earlier result.
          multimask: whether to return the three alternatives (K = 3) instead of the one mask (K = 1);
            `multimask_output` of SAM's predictors.
        """
        context = features if isinstance(features, ImageContext) else self.prepare(features)
        plain = add_bias(context.image, self.prompt_parts()[0].no_mask())

        def one(
            model: PromptedSAM,
            points: Float[Array, "P 2"],
            labels: Int[Array, " P"],
            box: Float[Array, "4"] | None,
            mask: Float[Array, "M M"] | None,
        ) -> tuple[Float[Array, "K M M"], Float[Array, " K"]]:
            prompts, decoder = model.prompt_parts()
            tokens = prompts.tokens(points, labels, box)
            image = plain
            if mask is not None:
                image = context.image + prompts.dense(mask).reshape(context.image.shape)
            return decoder(context._replace(image=image), tokens, multimask)

        each = nn.vmap(one, variable_axes={"params": None}, split_rngs={"params": False})
        return each(self, points, labels, boxes, masks)

    def __call__(
        self, images: Float[Array, "B S S 3"]
    ) -> tuple[Float[Array, "1 3 M M"], Float[Array, "1 3"]]:
        """Run every part once, on the first image with a prompt of each kind: for `init` and shapes."""
        features = jax.tree.map(lambda x: x[0], self.encode(images))
        point, label = jnp.zeros((1, 1, 2)), jnp.ones((1, 1), jnp.int32)
        side = 4 * self.config.embed_size
        mask = jnp.zeros((1, side, side))
        return self.decode(features, point, label, jnp.zeros((1, 4)), mask, multimask=True)

    def _check(self, images: Float[Array, "B H W 3"]) -> None:
        side = self.config.image_size
        if images.shape[1:] != (side, side, 3):
            raise ValueError(f"images must have shape (batch, {side}, {side}, 3). Got {images.shape}.")
