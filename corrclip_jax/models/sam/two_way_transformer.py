"""The two-way transformer of SAM's and SAM 2's mask decoder, for the tokens of one prompt.

Shapes: T tokens, L = G * G positions of the image map, C width, H heads, D width of a head.

A prompt has few tokens (8 for a point), an image has many positions (4096), so neither the image's keys and
values nor its queries are ever projected for each prompt: with q . (W x) = (W' q) . x the token's side takes
the projection over, as the output projection takes the values'. The numbers are the official implementation's up to
rounding, for half of its arithmetic. Every product is one large matrix product, with the heads of all tokens along
one axis: with two axes, TPUs would run it as a convolution that sums eight channels at a time.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from corrclip_jax.models.layers import MLP, LayerNorm, Projection, add_bias


class Attention(nn.Module):
    """Multi-head attention between tokens, from tokens to the image, or from the image to tokens.

    `inner` is the width of queries, keys and values, all heads together.
    """

    width: int
    inner: int
    heads: int
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """The four projections."""
        self.q_proj = Projection(self.width, self.inner, self.dtype)
        self.k_proj = Projection(self.width, self.inner, self.dtype)
        self.v_proj = Projection(self.width, self.inner, self.dtype)
        self.out_proj = Projection(self.inner, self.width, self.dtype)

    def between_tokens(self, q: Float[Array, "T C"], v: Float[Array, "T C"]) -> Float[Array, "T C"]:
        """Self-attention; `q` gives queries and keys, `v` the values."""
        queries, keys = self._split(self.q_proj(q)), self._split(self.k_proj(q))
        values = self._split(self.v_proj(v))
        weights = jax.nn.softmax(_product("thd,shd->hts", queries * self._scale, keys)).astype(self.dtype)
        return self._join(jnp.einsum("hts,shd->thd", weights, values))

    def from_tokens(
        self, q: Float[Array, "T C"], k: Float[Array, "L C"], v: Float[Array, "L C"]
    ) -> Float[Array, "T C"]:
        """Tokens look at the image. The key's bias is left out: it is the same for every position."""
        kernel, _ = self.k_proj.weights()
        queries = jnp.einsum("thd,chd->thc", self._split(self.q_proj(q)) * self._scale, self._split(kernel))
        scores = _product("rc,lc->rl", queries.reshape(-1, self.width), k)
        weights = jax.nn.softmax(scores).astype(self.dtype)
        mixed = jnp.einsum("rl,lc->rc", weights, v).reshape(queries.shape)
        kernel, bias = self.v_proj.weights()
        return self._join(
            jnp.einsum("thc,chd->thd", mixed, self._split(kernel)) + bias.reshape(1, self.heads, -1)
        )

    def from_image(
        self, q: Float[Array, "L C"], k: Float[Array, "T C"], v: Float[Array, "T C"]
    ) -> Float[Array, "L C"]:
        """The image's positions look at the tokens."""
        keys, values = self._split(self.k_proj(k)) * self._scale, self._split(self.v_proj(v))
        kernel, bias = self.q_proj.weights()
        merged = jnp.einsum("thd,chd->thc", keys, self._split(kernel))
        offset = _product("thd,hd->th", keys, bias.reshape(self.heads, -1))
        scores = _product("lc,rc->lr", q, merged.reshape(-1, self.width)).reshape(-1, *offset.shape)
        weights = self._softmax_over_tokens(scores + offset[None])
        kernel, bias = self.out_proj.weights()
        outputs = jnp.einsum("thd,hdc->thc", values, kernel.reshape(self.heads, -1, self.width))
        return add_bias(weights.reshape(len(q), -1) @ outputs.reshape(-1, self.width), bias)

    def _softmax_over_tokens(self, scores: Float[Array, "L T H"]) -> Float[Array, "L T H"]:
        """The weights, in the compute type. Of bfloat16 a product sums them, as TPUs are slow at sums of a few."""
        if self.dtype != jnp.bfloat16:
            return jax.nn.softmax(scores, axis=1).astype(self.dtype)
        exponentials = jnp.exp(scores - scores.max(axis=1, keepdims=True)).astype(jnp.bfloat16)
        of_head = jnp.tile(jnp.eye(self.heads, dtype=jnp.bfloat16), (scores.shape[1], 1))
        sums = _product("lr,rh->lh", exponentials.reshape(len(scores), -1), of_head)
        return (exponentials.astype(jnp.float32) / sums[:, None]).astype(jnp.bfloat16)

    @property
    def _scale(self) -> float:
        return (self.inner // self.heads) ** -0.5

    def _split(self, x: Float[Array, "rows inner"]) -> Float[Array, "rows H D"]:
        return x.reshape(len(x), self.heads, -1)

    def _join(self, x: Float[Array, "T H D"]) -> Float[Array, "T C"]:
        return self.out_proj(x.reshape(len(x), -1))


class TwoWayBlock(nn.Module):
    """Tokens among themselves, tokens to image, MLP, image to tokens; post-norm throughout.

    The norms' eps is 1e-5, as in the official implementations; transformers has 1e-6.
    """

    width: int
    heads: int
    mlp_width: int
    first: bool = False
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """The published parts."""
        self.self_attn = Attention(self.width, self.width, self.heads, self.dtype)
        self.cross_attn_token_to_image = Attention(self.width, self.width // 2, self.heads, self.dtype)
        self.cross_attn_image_to_token = Attention(self.width, self.width // 2, self.heads, self.dtype)
        self.mlp = MLP(self.mlp_width, jax.nn.relu, ("layers_0", "layers_1"), self.dtype)
        self.norm1, self.norm2, self.norm3, self.norm4 = (
            LayerNorm(epsilon=1e-5, dtype=self.dtype) for _ in range(4)
        )

    def __call__(
        self,
        tokens: Float[Array, "T C"],
        image: Float[Array, "L C"],
        token_positions: Float[Array, "T C"],
        image_positions: Float[Array, "L C"],
    ) -> tuple[Float[Array, "T C"], Float[Array, "L C"]]:
        """New tokens and new image map. The first block's self-attention has no positions and no residual."""
        if self.first:
            tokens = self.self_attn.between_tokens(tokens, tokens)
        else:
            tokens = tokens + self.self_attn.between_tokens(tokens + token_positions, tokens)
        tokens = self.norm1(tokens)
        placed = image + image_positions
        looked = self.cross_attn_token_to_image.from_tokens(tokens + token_positions, placed, image)
        tokens = self.norm2(tokens + looked)
        tokens = self.norm3(tokens + self.mlp(tokens))
        looked = self.cross_attn_image_to_token.from_image(placed, tokens + token_positions, tokens)
        return tokens, self.norm4(image + looked)


class TwoWayTransformer(nn.Module):
    """The blocks, then a last look of the tokens at the image."""

    width: int
    heads: int
    mlp_width: int
    layers: int = 2
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, tokens: Float[Array, "T C"], image: Float[Array, "L C"], image_positions: Float[Array, "L C"]
    ) -> tuple[Float[Array, "T C"], Float[Array, "L C"]]:
        """Tokens and image map after the exchange; the tokens themselves serve as their own positions."""
        positions = tokens
        for i in range(self.layers):
            block = TwoWayBlock(
                self.width, self.heads, self.mlp_width, first=i == 0, dtype=self.dtype, name=f"layers_{i}"
            )
            tokens, image = block(tokens, image, positions, image_positions)
        final = Attention(
            self.width, self.width // 2, self.heads, self.dtype, name="final_attn_token_to_image"
        )
        looked = final.from_tokens(tokens + positions, image + image_positions, image)
        return LayerNorm(epsilon=1e-5, dtype=self.dtype, name="norm_final_attn")(tokens + looked), image


def _product(formula: str, x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.einsum(formula, x, y, preferred_element_type=jnp.float32)
