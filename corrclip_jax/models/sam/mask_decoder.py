"""Mask decoder of SAM and SAM 2: the tokens of one prompt and the image's maps to mask logits and predicted IoU.

After `facebookresearch/segment-anything` and `facebookresearch/sam2`; `MaskDecoder`'s attributes are what differs.

Shapes: G side of the coarse map, L = G * G, M = 4 G side of the masks, C embedding width, T prompt tokens,
K masks.

After the transformer every cell is decoded on its own. The cells of the finer maps therefore lie "by quarters" (all
first quarters of the coarse cells, all second ones, and so on) until the masks are laid out at the end. Channels
come before cells: the few channels of fine maps would fill a fraction of a TPU's registers. Quarters have axes of
their own, as moving them among the cells would move every number.
"""

from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from corrclip_jax.config import SAM1Config, SAM2Config
from corrclip_jax.models.layers import Conv, Module, ReluMLP, Upscale, gelu, normal, rows_of
from corrclip_jax.models.sam.two_way_transformer import TwoWayTransformer

MASK_TOKENS = 4  # one for an unambiguous mask, three for the alternatives


class ImageContext(NamedTuple):
    """What all prompts of one image share, in the decoder's own layout; SAM has no finer maps."""

    image: Float[Array, "L C"]
    positions: Float[Array, "L C"]
    half: Float[Array, "d 4 L"] | None = None
    full: Float[Array, "e 4 4 L"] | None = None


class LayerNormOfColumns(Module):
    """Layer norm over the first axis, with the parameters of `LayerNorm`.

    CPUs, which are slow at sums over rows that lie far apart, take the means by matrix products.
    """

    epsilon: float
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "C ..."]) -> Float[Array, "C ..."]:
        """The normalised columns, scaled and shifted."""
        scale = self.param("scale", nn.initializers.ones, (len(x),))
        bias = self.param("bias", nn.initializers.zeros, (len(x),))
        x = x.astype(jnp.float32)
        mean = _mean_of_rows(x)
        centred = x - mean
        if self.dtype == jnp.bfloat16:  # in one pass, as in `LayerNorm`
            variance = jnp.maximum(_mean_of_rows(x * x) - mean * mean, 0)
        else:
            variance = _mean_of_rows(centred * centred)
        factor = jax.lax.rsqrt(variance + self.epsilon)
        scaled = centred * (factor * rows_of(scale, x.ndim)) + rows_of(bias, x.ndim)
        return scaled.astype(self.dtype)


def _mean_of_rows(x: Float[Array, "C ..."]) -> Float[Array, "1 ..."]:
    def product(x: Array) -> Array:
        return jnp.einsum("ac,c...->a...", jnp.full((1, len(x)), 1 / len(x), x.dtype), x)

    return jax.lax.platform_dependent(x, cpu=product, default=partial(jnp.mean, axis=0, keepdims=True))


class MaskDecoder(Module):
    """Decodes one prompt; vmap over prompts.

    Attributes:
      config: the network's configuration.
      fine_maps: whether two finer maps of the image are added to the enlarged coarse one (SAM 2).
      object_token: whether the tokens begin with that of the object's score (SAM 2), which images do not need.
      sigmoid_iou: whether the predicted IoU is a sigmoid of the head's output (SAM 2) or the output itself (SAM).
      dtype: the compute type.
    """

    config: SAM1Config | SAM2Config
    fine_maps: bool
    object_token: bool
    sigmoid_iou: bool
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """The published parts; SAM's layers `lin1` and `lin2` of the transformer's MLPs have SAM 2's names."""
        c, config = self.config.embed_dim, self.config
        init = normal(0.02)
        if self.object_token:
            self.obj_score_token = self.param("obj_score_token", init, (1, c))
        self.iou_token = self.param("iou_token", init, (1, c))
        self.mask_tokens = self.param("mask_tokens", init, (MASK_TOKENS, c))
        self.transformer = TwoWayTransformer(
            c, config.decoder_heads, config.decoder_mlp_width, config.decoder_layers, self.dtype
        )
        if self.fine_maps:
            self.conv_s0 = Conv(c // 8, (1, 1), dtype=self.dtype)
            self.conv_s1 = Conv(c // 4, (1, 1), dtype=self.dtype)
        self.output_upscaling_0 = Upscale(c, c // 4, self.dtype)
        self.output_upscaling_1 = LayerNormOfColumns(1e-6, self.dtype)
        self.output_upscaling_3 = Upscale(c // 4, c // 8, self.dtype)
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

        The single mask is always the first token's, as CorrCLIP requires; `facebookresearch/sam2` can replace it
        with the best of the three where it is unstable (`dynamic_multimask_via_stability`).
        """
        chosen = slice(1, MASK_TOKENS) if multimask else slice(0, 1)
        first = [self.obj_score_token] if self.object_token else []
        iou_at = len(first)
        tokens = jnp.concatenate([*first, self.iou_token, self.mask_tokens]).astype(self.dtype)
        tokens = jnp.concatenate([tokens, prompt])
        tokens, image = self.transformer(tokens, context.image, context.positions)
        own = zip(self.output_hypernetworks_mlps, tokens[iou_at + 1 : iou_at + 1 + MASK_TOKENS], strict=True)
        hyper = jnp.stack([mlp(token) for mlp, token in own])[chosen]
        cells = self._enlarge(image, context)
        masks = jnp.einsum("kc,crql->krql", hyper, cells, preferred_element_type=jnp.float32)
        iou = self.iou_prediction_head(tokens[iou_at]).astype(jnp.float32)
        iou = jax.nn.sigmoid(iou) if self.sigmoid_iou else iou
        return from_quarters(masks, self.config.embed_size), iou[chosen]

    def _enlarge(self, image: Float[Array, "L C"], context: ImageContext) -> Float[Array, "e 4 4 L"]:
        halves = self.output_upscaling_0.channels_first(image.T)
        if context.half is not None:
            halves = halves + context.half
        quarters = self.output_upscaling_3.channels_first(gelu(self.output_upscaling_1(halves)))
        if context.full is not None:
            quarters = quarters + context.full
        return gelu(quarters)


def by_quarters(x: Float[Array, "F F c"], length: int) -> Float[Array, "c *quarters {length*length}"]:
    """The cells of a map of side 2 `length` or 4 `length` in the order of `Upscale.channels_first`."""
    levels = (x.shape[0] // length).bit_length() - 1
    rows = x.reshape(length, *[2] * levels, length, *[2] * levels, -1)
    finer = [axis for level in range(levels, 0, -1) for axis in (level, level + levels + 1)]
    cells = rows.transpose(-1, *finer, 0, levels + 1)
    return cells.reshape(x.shape[-1], *[4] * levels, length * length)


def from_quarters(x: Float[Array, "K 4 4 L"], length: int) -> Float[Array, "K M M"]:
    """Maps of side 4 `length` from cells by quarters."""
    x = x.reshape(-1, 2, 2, 2, 2, length, length)
    return x.transpose(0, 5, 3, 1, 6, 4, 2).reshape(-1, 4 * length, 4 * length)
