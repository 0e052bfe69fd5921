"""CLIP: the image tower with the method's three branches and the ordinary embedding, and the text tower.

Parameter names are scenic's (`visual/transformer/resblocks_0/attn/query/kernel` [C, H, d] ...), so that trees
travel between the two. Shapes: B batch, (h, w) patch grid, P = h w patches, R region tokens, T tokens, C width,
D joint width, H heads, d head width.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from corrclip_jax.config import CLIPConfig
from corrclip_jax.models.clip.transformer import EPSILON, Transformer
from corrclip_jax.models.layers import Dense, LayerNorm, Module, PatchEmbed, interpolate_positions, normal


class LastBlockInputs(NamedTuple):
    """What the branches need of the image tower (METHOD.md, section 7).

    `main` and `spatial` [B, h, w, C] belong to the last block's own input and to the mean of the middle blocks'
    outputs: its value projections, or, where its own attention is kept, what that attends to; either way with its
    output projection, which commutes with any weighted mean over the patches. `regions` [B, R, C] are the region
    tokens after the whole last block.
    """

    main: Float[Array, "B h w C"]
    spatial: Float[Array, "B h w C"]
    regions: Float[Array, "B R C"]


class VisionTransformer(Module):
    """CLIP's image tower."""

    config: CLIPConfig
    dtype: DTypeLike

    def setup(self) -> None:
        """The published parts."""
        vision = self.config.vision
        width, native = vision.width, vision.image_size // vision.patch_size
        init = normal(width**-0.5)
        self.conv1 = PatchEmbed(width, vision.patch_size, use_bias=False, dtype=self.dtype)
        self.class_embedding = self.param("class_embedding", init, (width,))
        self.positional_embedding = self.param("positional_embedding", init, (1 + native**2, width))
        self.ln_pre = LayerNorm(epsilon=EPSILON, dtype=self.dtype)
        self.transformer = Transformer(
            width,
            vision.heads,
            vision.layers,
            int(width * vision.mlp_ratio),
            self.config.quick_gelu,
            self.dtype,
        )
        self.ln_post = LayerNorm(epsilon=EPSILON, dtype=self.dtype)
        self.proj = Dense(self.config.embed_dim, use_bias=False, dtype=self.dtype)

    def embed(self, images: Float[Array, "B H W 3"]) -> tuple[Float[Array, "B T C"], tuple[int, int]]:
        """Class token and patches with their positions after `ln_pre`, and the patch grid."""
        patches = self.conv1(images)
        batch, h, w, width = patches.shape
        positions = self.positional_embedding
        if h * w != positions.shape[0] - 1:
            resized = interpolate_positions(positions[1:], h, w)
            positions = jnp.concatenate([positions[:1], resized])
        class_token = jnp.broadcast_to(self.class_embedding.astype(self.dtype), (batch, 1, width))
        tokens = jnp.concatenate([class_token, patches.reshape(batch, h * w, width)], axis=1)
        return self.ln_pre(tokens + positions.astype(self.dtype)[None]), (h, w)

    def __call__(self, images: Float[Array, "B H W 3"]) -> Float[Array, "B D"]:
        """The ordinary image embedding, not normalised."""
        tokens, _ = self.embed(images)
        return self.proj(self.ln_post(self.transformer(tokens)[:, 0]))

    def last_block_inputs(
        self,
        images: Float[Array, "B H W 3"],
        regions: Bool[Array, "B R h w"],
        own_scope: Bool[Array, "B P P"] | None = None,
        *,
        spatial_layers: int,
    ) -> LastBlockInputs:
        """The tower up to what the three branches read; `regions` are one-hot on the patch grid.

        With `own_scope` the last block's own attention is kept, of the patches and the class token to the patches
        in scope and the class token.
        """
        tokens, (h, w) = self.embed(images)
        batch, _, width = tokens.shape
        region_tokens = jnp.broadcast_to(tokens[:, :1], (batch, regions.shape[1], width))
        own_patches = regions.reshape(*regions.shape[:2], h * w)
        sees = jnp.pad(own_patches, ((0, 0), (0, 0), (1, 0)), constant_values=True)

        *blocks, last = self.transformer.resblocks
        spatial_range = range(len(blocks) - 1 - spatial_layers, len(blocks) - 1)
        spatial = jnp.zeros(tokens.shape, jnp.float32)
        for index, block in enumerate(blocks):
            tokens, region_tokens = block.with_readers(tokens, region_tokens, sees)
            if index in spatial_range:
                spatial = spatial + tokens.astype(jnp.float32)
        spatial = (spatial / spatial_layers).astype(self.dtype)
        region_tokens, values = last.read(region_tokens, tokens, sees)
        if own_scope is None:
            main, spatial = values, last.values(spatial)
        else:
            scope = jnp.pad(own_scope, ((0, 0), (1, 0), (1, 0)), constant_values=True)
            main, spatial = last.mix(tokens, scope), last.mix(spatial, scope)
        main, spatial = (
            last.attn.project(each[:, 1:]).reshape(batch, h, w, width) for each in (main, spatial)
        )
        return LastBlockInputs(main, spatial, region_tokens)

    def read_out(
        self,
        main: Float[Array, "B L C"],
        spatial: Float[Array, "B L C"],
        semantic: Float[Array, "B L C"],
        spatial_weight: float,
        semantic_weight: float,
    ) -> Float[Array, "B L D"]:
        """The three branches of L cells to features in the joint space, not normalised."""
        total = self.ln_post(main) + spatial_weight * self.ln_post(spatial)
        return self.proj(total + semantic_weight * self.ln_post(semantic))


class TextTransformer(Module):
    """CLIP's text tower."""

    config: CLIPConfig
    dtype: DTypeLike

    @nn.compact
    def __call__(self, tokens: Int[Array, "N T"]) -> Float[Array, "N D"]:
        """Features at the end-of-text token, which has the highest id, times the projection."""
        text = self.config.text
        if tokens.shape[1] != text.context_length:
            raise ValueError(f"tokens must have shape (N, {text.context_length}). Got {tokens.shape}.")
        positions = self.param("positional_embedding", normal(0.01), (text.context_length, text.width))
        x = nn.Embed(text.vocab_size, text.width, dtype=self.dtype, name="token_embedding")(tokens)
        causal = jnp.tril(jnp.ones((1, text.context_length, text.context_length), bool))
        x = Transformer(
            text.width,
            text.heads,
            text.layers,
            int(text.width * text.mlp_ratio),
            self.config.quick_gelu,
            self.dtype,
            name="transformer",
        )(x + positions.astype(self.dtype)[None], causal)
        end = jnp.take_along_axis(x, tokens.argmax(axis=-1)[:, None, None], axis=1)[:, 0]
        end = LayerNorm(epsilon=EPSILON, dtype=self.dtype, name="ln_final")(end)
        return Dense(self.config.embed_dim, use_bias=False, dtype=self.dtype, name="text_projection")(end)


class CLIP(Module):
    """Both towers. Embeddings are not normalised."""

    config: CLIPConfig
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """The published parts; `logit_scale` is carried for exchange, the method does not use it."""
        self.visual = VisionTransformer(self.config, self.dtype)
        self.text = TextTransformer(self.config, self.dtype)
        self.logit_scale = self.param("logit_scale", nn.initializers.zeros, ())

    def __call__(
        self, images: Float[Array, "B H W 3"], tokens: Int[Array, "N T"]
    ) -> tuple[Float[Array, "B D"], Float[Array, "N D"]]:
        """The ordinary image and text embeddings."""
        return self.visual(images), self.text(tokens)

    def encode_image(self, images: Float[Array, "B H W 3"]) -> Float[Array, "B D"]:
        """Image embeddings of CLIP-normalised images."""
        return self.visual(images)

    def encode_text(self, tokens: Int[Array, "N T"]) -> Float[Array, "N D"]:
        """Text embeddings of token ids."""
        return self.text(tokens)

    def last_block_inputs(
        self,
        images: Float[Array, "B H W 3"],
        regions: Bool[Array, "B R h w"],
        own_scope: Bool[Array, "B P P"] | None = None,
        *,
        spatial_layers: int,
    ) -> LastBlockInputs:
        """See `VisionTransformer.last_block_inputs`."""
        return self.visual.last_block_inputs(images, regions, own_scope, spatial_layers=spatial_layers)

    def read_out(
        self,
        main: Float[Array, "B L C"],
        spatial: Float[Array, "B L C"],
        semantic: Float[Array, "B L C"],
        spatial_weight: float,
        semantic_weight: float,
    ) -> Float[Array, "B L D"]:
        """See `VisionTransformer.read_out`."""
        return self.visual.read_out(main, spatial, semantic, spatial_weight, semantic_weight)
