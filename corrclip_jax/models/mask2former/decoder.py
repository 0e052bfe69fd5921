"""The transformer decoder: queries look at where their own masks lie, one map after the other.

Shapes: B images, Q queries, L cells of a map, h w sides of the mask features, C width, M mask features.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from corrclip_jax.config import Mask2FormerConfig
from corrclip_jax.models.layers import MLP, Dense, LayerNorm, Module, ReluMLP, add_bias, normal
from corrclip_jax.models.mask2former.pixel_decoder import LEVELS
from corrclip_jax.models.mask2former.positions import sine_positions
from corrclip_jax.ops import resize
from corrclip_jax.ops.attention import attention


class Attention(nn.Module):
    """Multi-head attention; keys and values may be of different arrays."""

    heads: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        q: Float[Array, "B Q C"],
        k: Float[Array, "B L C"],
        v: Float[Array, "B L C"],
        mask: Bool[Array, "B Q L"] | None = None,
    ) -> Float[Array, "B Q C"]:
        """Queries see the keys where `mask` is True."""
        width = q.shape[-1]
        queries, keys, values = (
            Dense(width, dtype=self.dtype, name=f"{name}_proj")(x).reshape(*x.shape[:2], self.heads, -1)
            for name, x in (("q", q), ("k", k), ("v", v))
        )
        out = attention(queries, keys, values, mask)
        return Dense(width, dtype=self.dtype, name="out_proj")(out.reshape(q.shape))


class DecoderLayer(nn.Module):
    """Queries look at a map, then at each other, then an MLP; post-norm."""

    config: Mask2FormerConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B Q C"],
        query_positions: Float[Array, "Q C"],
        cells: Float[Array, "B L C"],
        cell_positions: Float[Array, "L C"],
        seen: Bool[Array, "B Q L"],
    ) -> Float[Array, "B Q C"]:
        """Queries to queries; each sees the cells where `seen` is True."""
        config = self.config
        cross = Attention(config.decoder_heads, self.dtype, name="cross_attn")
        x = x + cross(x + query_positions[None], cells + cell_positions[None], cells, seen)
        x = LayerNorm(epsilon=1e-5, dtype=self.dtype, name="cross_attn_layer_norm")(x)
        placed = x + query_positions[None]
        x = x + Attention(config.decoder_heads, self.dtype, name="self_attn")(placed, placed, x)
        x = LayerNorm(epsilon=1e-5, dtype=self.dtype, name="self_attn_layer_norm")(x)
        x = x + MLP(config.decoder_mlp_width, jax.nn.relu, dtype=self.dtype, name="mlp")(x)
        return LayerNorm(epsilon=1e-5, dtype=self.dtype, name="final_layer_norm")(x)


def attended(embeddings: Float[Array, "B Q M"], features: Float[Array, "B L M"]) -> Bool[Array, "B Q L"]:
    """Where the queries' masks lie, a probability of at least one half; a query whose mask is empty sees all."""
    inside = _masks("bqm,blm->bql", embeddings, features) >= 0
    return inside | ~inside.any(axis=-1, keepdims=True)


class TransformerModule(Module):
    """Learned queries, decoded through the three maps in turn, coarsest first.

    The official implementation computes every layer's masks at full size and resizes them for the next layer's
    attention. Masks are products of queries and features, and a resize is linear: here the features are resized,
    once a map, and masks at full size are made of the last queries alone.
    """

    config: Mask2FormerConfig
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, maps: list[Float[Array, "B _ _ C"]], features: Float[Array, "B h w M"]
    ) -> tuple[Float[Array, "B Q C"], Float[Array, "B Q h w"]]:
        """The last layer's queries, normed, and their mask logits in float32."""
        config, width, batch = self.config, self.config.feature_size, len(features)
        init = normal(1.0)
        queries = self.param("queries_features", init, (config.queries, width)).astype(self.dtype)
        positions = self.param("queries_embedder", init, (config.queries, width)).astype(self.dtype)
        level_embed = self.param("level_embed", init, (LEVELS, width)).astype(self.dtype)
        norm = LayerNorm(epsilon=1e-5, dtype=self.dtype, name="layernorm")
        embed = ReluMLP(width, config.mask_feature_size, self.dtype, name="mask_embedder")
        sides = [(x.shape[1], x.shape[2]) for x in maps]
        cells = [add_bias(x.reshape(batch, -1, width), own) for x, own in zip(maps, level_embed, strict=True)]
        located = [sine_positions(h, w, width).reshape(-1, width).astype(self.dtype) for h, w in sides]
        small = [resize.bilinear(features, h, w).reshape(batch, h * w, -1) for h, w in sides]
        x = jnp.broadcast_to(queries, (batch, *queries.shape))
        for index in range(config.decoder_layers):
            level = index % LEVELS
            seen = attended(embed(norm(x)), small[level])
            layer = DecoderLayer(config, self.dtype, name=f"layers_{index}")
            x = layer(x, positions, cells[level], located[level], seen)
        x = norm(x)
        return x, _masks("bqm,bhwm->bqhw", embed(x), features)


def _masks(formula: str, embeddings: jax.Array, features: jax.Array) -> jax.Array:
    return jnp.einsum(formula, embeddings, features, preferred_element_type=jnp.float32)
