"""SAM's mask decoder: tokens of one prompt and the image's map -> mask logits and predicted IoU.

It is SAM 2's without the finer maps and the object's score, and its predicted IoU is what the head gives, without a
sigmoid. The transformer's norms have the original program's eps, 1e-5, where transformers takes 1e-6.

Shapes: G side of the map, L = G * G, M = 4 G side of the masks, C embedding width, T prompt tokens, K masks.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from corrclip_jax.config import SAM1Config
from corrclip_jax.models.layers import LayerNorm, ReluMLP, Upscale, gelu
from corrclip_jax.models.sam.mask_decoder import MASK_TOKENS, unnest
from corrclip_jax.models.sam.two_way_transformer import TwoWayTransformer


class ImageContext(NamedTuple):
    """What all prompts of one image share."""

    image: Float[Array, "L C"]
    positions: Float[Array, "L C"]


class MaskDecoder(nn.Module):
    """Decodes one prompt; vmap over prompts."""

    config: SAM1Config
    dtype: DTypeLike = jnp.float32

    def setup(self):
        """The published parts; the transformer's MLPs carry SAM 2's names, `layers_0` for `lin1`."""
        c, config = self.config.embed_dim, self.config
        init = nn.initializers.normal(0.02)
        self.iou_token = self.param("iou_token", init, (1, c))
        self.mask_tokens = self.param("mask_tokens", init, (MASK_TOKENS, c))
        self.transformer = TwoWayTransformer(
            c, config.decoder_heads, config.decoder_mlp_width, config.decoder_layers, self.dtype
        )
        self.output_upscaling_0 = Upscale(c // 4, self.dtype)
        self.output_upscaling_1 = LayerNorm(epsilon=1e-6, dtype=self.dtype)
        self.output_upscaling_3 = Upscale(c // 8, self.dtype)
        self.output_hypernetworks_mlps = [ReluMLP(c, c // 8, self.dtype) for _ in range(MASK_TOKENS)]
        self.iou_prediction_head = ReluMLP(c, MASK_TOKENS, self.dtype)

    def __call__(
        self, context: ImageContext, prompt: Float[Array, "T C"], multimask: bool = False
    ) -> tuple[Float[Array, "K M M"], Float[Array, " K"]]:
        """Mask logits and predicted IoU: one mask, or with `multimask` the three alternatives."""
        chosen = slice(1, MASK_TOKENS) if multimask else slice(0, 1)
        tokens = jnp.concatenate([self.iou_token, self.mask_tokens]).astype(self.dtype)
        tokens = jnp.concatenate([tokens, prompt])
        tokens, image = self.transformer(tokens, context.image, context.positions)
        own = zip(self.output_hypernetworks_mlps, tokens[1 : 1 + MASK_TOKENS], strict=True)
        hyper = jnp.stack([mlp(token) for mlp, token in own])[chosen]
        halves = self.output_upscaling_0(image).reshape(len(image) * 4, -1)
        quarters = self.output_upscaling_3(gelu(self.output_upscaling_1(halves)))
        cells = gelu(quarters).reshape(len(image) * 16, -1)
        masks = jnp.einsum("lc,kc->lk", cells, hyper, preferred_element_type=jnp.float32).T
        iou = self.iou_prediction_head(tokens[0]).astype(jnp.float32)
        return unnest(masks, self.config.embed_size), iou[chosen]
