"""SAM 2's mask decoder: tokens of one prompt and the image's maps -> mask logits and predicted IoU.

Shapes: G side of the coarse map, L = G * G, M = 4 G side of the masks, C embedding width, T prompt tokens,
K masks.

Once the transformer is through, no cell looks at another. So the cells of the finer maps stay in "nested"
order (coarse cell, its four quarters, their four quarters) until the masks are laid out at the end.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from corrclip_jax.config import SAM2Config
from corrclip_jax.models.layers import LayerNorm, ReluMLP, Upscale, gelu
from corrclip_jax.models.sam.two_way_transformer import TwoWayTransformer

MASK_TOKENS = 4  # one for an unambiguous mask, three for the alternatives


class ImageContext(NamedTuple):
    """What all prompts of one image share, in the decoder's own layout."""

    image: Float[Array, "L C"]
    positions: Float[Array, "L C"]
    half: Float[Array, "L d"]
    full: Float[Array, "4*L e"]


class MaskDecoder(nn.Module):
    """Decodes one prompt; vmap over prompts."""

    config: SAM2Config
    dtype: DTypeLike = jnp.float32

    def setup(self):
        """The published parts, but for the score of the object's presence, which images do not need."""
        c, config = self.config.embed_dim, self.config
        init = nn.initializers.normal(0.02)
        self.obj_score_token = self.param("obj_score_token", init, (1, c))
        self.iou_token = self.param("iou_token", init, (1, c))
        self.mask_tokens = self.param("mask_tokens", init, (MASK_TOKENS, c))
        self.transformer = TwoWayTransformer(
            c, config.decoder_heads, config.decoder_mlp_width, config.decoder_layers, self.dtype
        )
        self.conv_s0 = nn.Conv(c // 8, (1, 1), dtype=self.dtype)
        self.conv_s1 = nn.Conv(c // 4, (1, 1), dtype=self.dtype)
        self.output_upscaling_0 = Upscale(c // 4, self.dtype)
        self.output_upscaling_1 = LayerNorm(epsilon=1e-6, dtype=self.dtype)
        self.output_upscaling_3 = Upscale(c // 8, self.dtype)
        self.output_hypernetworks_mlps = [ReluMLP(c, c // 8, self.dtype) for _ in range(MASK_TOKENS)]
        self.iou_prediction_head = ReluMLP(c, MASK_TOKENS, self.dtype)

    def fine_features(
        self, full: Float[Array, "B M M C"], half: Float[Array, "B h h C"]
    ) -> tuple[Float[Array, "B M M c"], Float[Array, "B h h d"]]:
        """The two finer maps at the widths at which they are added to the enlarged coarse one."""
        return self.conv_s0(full), self.conv_s1(half)

    def __call__(
        self, context: ImageContext, prompt: Float[Array, "T C"], multimask: bool = False
    ) -> tuple[Float[Array, "K M M"], Float[Array, " K"]]:
        """Mask logits and predicted IoU: one mask, or with `multimask` the three alternatives.

        As the method wants it, the single mask is always the first token's; the published program can fall
        back to the best of the three where that one is unstable.
        """
        chosen = slice(1, MASK_TOKENS) if multimask else slice(0, 1)
        tokens = jnp.concatenate([self.obj_score_token, self.iou_token, self.mask_tokens]).astype(self.dtype)
        tokens = jnp.concatenate([tokens, prompt])
        tokens, image = self.transformer(tokens, context.image, context.positions)
        own = zip(self.output_hypernetworks_mlps, tokens[2 : 2 + MASK_TOKENS], strict=True)
        hyper = jnp.stack([mlp(token) for mlp, token in own])[chosen]
        cells = self._enlarge(image, context)
        masks = jnp.einsum("lc,kc->lk", cells, hyper, preferred_element_type=jnp.float32).T
        iou = jax.nn.sigmoid(self.iou_prediction_head(tokens[1]).astype(jnp.float32))
        return unnest(masks, self.config.embed_size), iou[chosen]

    def _enlarge(self, image: Float[Array, "L C"], context: ImageContext) -> Float[Array, "fine c"]:
        halves = self.output_upscaling_0(image) + context.half
        quarters = gelu(self.output_upscaling_1(halves.reshape(len(image) * 4, -1)))
        return gelu(self.output_upscaling_3(quarters) + context.full).reshape(len(image) * 16, -1)


def nest(x: Float[Array, "F F c"], size: int) -> Float[Array, "cells c"]:
    """The cells of a map of side `size`, 2 `size` or 4 `size`, in nested order."""
    levels = (x.shape[0] // size).bit_length() - 1
    rows = x.reshape(size, *[2] * levels, size, *[2] * levels, -1)
    order = [axis for level in range(levels + 1) for axis in (level, level + levels + 1)]
    return rows.transpose(*order, -1).reshape(x.shape[0] * x.shape[1], -1)


def unnest(x: Float[Array, "K cells"], size: int) -> Float[Array, "K M M"]:
    """Maps of side 4 `size` from cells in nested order."""
    x = x.reshape(-1, size, size, 2, 2, 2, 2)
    return x.transpose(0, 1, 3, 5, 2, 4, 6).reshape(-1, 4 * size, 4 * size)
