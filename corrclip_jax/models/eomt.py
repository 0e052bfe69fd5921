"""EoMT in Flax Linen: a plain ViT that is a segmenter ("Your ViT is Secretly an Image Segmentation Model", 2025).

A DINOv2 or DINOv3 ViT with registers; before its last blocks queries join the tokens, and two small heads read
classes and masks off the last ones. The parameter tree mirrors the published one (`layers_0/attention/q_proj/...`).
Shapes: B images, S side, G = S / patch size, P = G * G patches, Q queries, C width, T tokens: queries, class token,
registers, patches. M = G * 2 ** upscale blocks is the side of the masks.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from corrclip_jax.config import EoMTConfig
from corrclip_jax.models.layers import (
    Dense,
    LayerNorm,
    Module,
    PatchEmbed,
    Upscale,
    gelu,
    lecun_normal,
    normal,
)
from corrclip_jax.models.vit import Block, Rotate, grid_angles, join_tokens, rotation, turn_halves
from corrclip_jax.ops import resize

_EPSILON = 1e-6


class Embeddings(Module):
    """Patches with their learned positions, if any, after the class token and the registers, which have none."""

    config: EoMTConfig
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """The published parts."""
        config, init = self.config, normal(0.02)
        self.cls_token = self.param("cls_token", init, (1, 1, config.width))
        self.register_tokens = self.param("register_tokens", init, (1, config.registers, config.width))
        if config.rope_base is None:
            self.position_embeddings = self.param("position_embeddings", init, (config.grid**2, config.width))
        self.patch_embeddings = PatchEmbed(config.width, config.patch_size, dtype=self.dtype)

    def __call__(self, images: Float[Array, "B S S 3"]) -> Float[Array, "B tokens C"]:
        """Normalised images to tokens."""
        patches = self.patch_embeddings(images)
        if self.config.rope_base is None:
            patches += self.position_embeddings.astype(self.dtype).reshape(1, *patches.shape[1:])
        return join_tokens(
            jnp.concatenate([self.cls_token, self.register_tokens], axis=1)[0], patches, self.dtype
        )


class ByChannel(Module):
    """A convolution of 3 x 3 by channel, as nine shifted sums, which compilers fuse; on CPUs it is slow else."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H H C"]) -> Float[Array, "B H H C"]:
        """Maps to maps; beyond the edges are zeros."""
        kernel = self.param("kernel", lecun_normal, (3, 3, 1, x.shape[-1])).astype(self.dtype)
        side = x.shape[1]
        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        out = jnp.zeros_like(x)
        for i, j in np.ndindex(3, 3):
            out += padded[:, i : i + side, j : j + side] * kernel[None, None, i, j]
        return out


class ScaleLayer(nn.Module):
    """A map to one of twice the side: a transposed convolution of stride 2, then one by channel."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B h h C"]) -> Float[Array, "B H H C"]:
        """The result's side is H = 2 h."""
        batch, side, _, width = x.shape
        quarters = gelu(Upscale(width, width, self.dtype, name="conv1")(x.reshape(-1, width)))
        quarters = quarters.reshape(batch, side, side, 2, 2, width).transpose(0, 1, 3, 2, 4, 5)
        x = ByChannel(self.dtype, name="conv2")(quarters.reshape(batch, 2 * side, 2 * side, width))
        return LayerNorm(epsilon=_EPSILON, dtype=self.dtype, name="layernorm2d")(x)


class UpscaleBlock(nn.Module):
    """The patches' grid, doubled a few times."""

    blocks: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B G G C"]) -> Float[Array, "B M M C"]:
        """A coarse map to a fine one."""
        for index in range(self.blocks):
            x = ScaleLayer(self.dtype, name=f"block_{index}")(x)
        return x


class MaskHead(nn.Module):
    """Three dense layers."""

    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B Q C"]) -> Float[Array, "B Q C"]:
        """Queries to what their masks' cells look like."""
        width = x.shape[-1]
        x = gelu(Dense(width, dtype=self.dtype, name="fc1")(x))
        x = gelu(Dense(width, dtype=self.dtype, name="fc2")(x))
        return Dense(width, dtype=self.dtype, name="fc3")(x)


class EoMT(Module):
    """EoMT: images to classes and masks of `config.queries` queries."""

    config: EoMTConfig
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """The published parts."""
        config = self.config
        self.embeddings = Embeddings(config, self.dtype)
        self.query = self.param("query", normal(1.0), (config.queries, config.width))
        keys = config.rope_base is None  # DINOv3's have no bias
        self.layers = [Block(config, self.dtype, _EPSILON, key_bias=keys) for _ in range(config.layers)]
        self.layernorm = LayerNorm(epsilon=_EPSILON, dtype=self.dtype)
        self.upscale_block = UpscaleBlock(config.upscale_blocks, self.dtype)
        self.mask_head = MaskHead(self.dtype)
        self.class_predictor = Dense(config.labels + 1, dtype=self.dtype)
        self.attn_mask_probs = self.param("attn_mask_probs", nn.initializers.zeros, (config.query_blocks,))

    def __call__(
        self, images: Float[Array, "B S S 3"]
    ) -> tuple[Float[Array, "B Q classes"], Float[Array, "B Q M M"]]:
        """Logits of classes, the last of which is "nothing", and of masks, float32, of normalised images.

        `attn_mask_probs` says in which of the last blocks a query sees only the patches of its mask so far.
        Trained models hold zeros: no query is masked. Where the official implementation masks by a probability
        between 0 and 1, as during training, here every query of that block is masked.

        Raises:
          ValueError: for images of another size than the configuration's.
        """
        config, side = self.config, self.config.image_size
        if images.shape[1:] != (side, side, 3):
            raise ValueError(f"images must have shape (batch, {side}, {side}, 3). Got {images.shape}.")
        x = self.embeddings(images)
        first = config.layers - config.query_blocks
        rotate = self.rotate(0)
        for layer in self.layers[:first]:
            x = layer(x, rotate=rotate)
        queries = jnp.broadcast_to(self.query.astype(self.dtype), (len(images), *self.query.shape))
        x = jnp.concatenate([queries, x], axis=1)
        rotate = self.rotate(config.queries)
        for layer, masked in zip(self.layers[first:], self.attn_mask_probs > 0, strict=True):
            x = layer(x, self.visible(x, masked), rotate)
        return self.predict(x)

    def rotate(self, queries: int) -> Rotate | None:
        """DINOv3's rotary positions of the patches, after as many `queries`, class token and registers."""
        config, grid = self.config, (self.config.grid, self.config.grid)
        if config.rope_base is None:
            return None
        angles = grid_angles(config, grid, grid, queries + 1 + config.registers)
        return rotation(angles[None], turn_halves)

    def predict(
        self, x: Float[Array, "B T C"]
    ) -> tuple[Float[Array, "B Q classes"], Float[Array, "B Q M M"]]:
        """Logits of classes and masks from tokens between blocks or after the last."""
        config = self.config
        x = self.layernorm(x)
        queries, patches = x[:, : config.queries], x[:, -(config.grid**2) :]
        cells = self.upscale_block(patches.reshape(len(x), config.grid, config.grid, -1))
        masks = jnp.einsum(
            "bqc,bhwc->bqhw", self.mask_head(queries), cells, preferred_element_type=jnp.float32
        )
        return self.class_predictor(queries).astype(jnp.float32), masks

    def visible(self, x: Float[Array, "B T C"], masked: Bool[Array, ""]) -> Bool[Array, "B T T"]:
        """Which tokens see which: all, or with `masked` queries only the patches where their mask is above zero."""
        config, (batch, tokens, _) = self.config, x.shape
        everything = jnp.ones((batch, tokens, tokens), bool)
        if self.is_initializing():
            return everything  # parameters are not to be made inside of a branch

        def own_patches(model: "EoMT", x: Float[Array, "B T C"]) -> Bool[Array, "B T T"]:
            masks = model.predict(x)[1]
            to_grid = resize.bilinear_matrix(masks.shape[-1], config.grid)
            coarse = jnp.einsum("gh,bqhw,kw->bqgk", to_grid, masks, to_grid)
            seen = (coarse > 0).reshape(batch, config.queries, -1)
            return everything.at[:, : config.queries, -(config.grid**2) :].set(seen)

        return nn.cond(masked, own_patches, lambda model, x: everything, self, x)
