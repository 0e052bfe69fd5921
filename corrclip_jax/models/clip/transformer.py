"""CLIP's transformer, of the image and the text tower alike; its blocks can also be used part by part.

Shapes: B batch, T tokens, R region tokens, S tokens that they see, C width.
"""

import flax.linen as nn
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from corrclip_jax.models.layers import MLP, DenseGeneral, LayerNorm, gelu, quick_gelu
from corrclip_jax.ops.attention import attention

EPSILON = 1e-5
_MLP_NAMES = ("c_fc", "c_proj")


class Attention(nn.Module):
    """Multi-head attention whose projections can be used one by one."""

    width: int
    heads: int
    dtype: DTypeLike

    def setup(self) -> None:
        """The four projections, whose kernels keep a heads axis, as Flax's own attention has it."""
        heads = (self.heads, self.width // self.heads)
        self.query = DenseGeneral(heads, dtype=self.dtype)
        self.key = DenseGeneral(heads, dtype=self.dtype)
        self.value = DenseGeneral(heads, dtype=self.dtype)
        self.out = DenseGeneral(self.width, axis=(-2, -1), dtype=self.dtype)

    def __call__(
        self, x: Float[Array, "B T C"], mask: Bool[Array, "1 T T"] | None = None
    ) -> Float[Array, "B T C"]:
        """Self-attention."""
        return self.out(attention(self.query(x), self.key(x), self.value(x), mask))

    def with_readers(
        self, x: Float[Array, "B T C"], readers: Float[Array, "B R C"], mask: Bool[Array, "B R T"]
    ) -> tuple[Float[Array, "B T C"], Float[Array, "B R C"]]:
        """Self-attention of `x`, and cross-attention of `readers` to it, which share keys and values."""
        key, value = self.key(x), self.value(x)
        own, read = attention(self.query(x), key, value), attention(self.query(readers), key, value, mask)
        return self.out(own), self.out(read)

    def values(self, x: Float[Array, "B T C"]) -> Float[Array, "B T C"]:
        """The value projection, heads concatenated."""
        return self.value(x).reshape(x.shape)

    def mix(self, x: Float[Array, "B T C"], mask: Bool[Array, "B T T"]) -> Float[Array, "B T C"]:
        """Self-attention without the output projection, heads concatenated."""
        return attention(self.query(x), self.key(x), self.value(x), mask).reshape(x.shape)

    def read(
        self, tokens: Float[Array, "B R C"], x: Float[Array, "B S C"], mask: Bool[Array, "B R S"]
    ) -> tuple[Float[Array, "B R C"], Float[Array, "B S C"]]:
        """Cross-attention of `tokens` to `x`, and the values of `x`, heads concatenated."""
        value = self.value(x)
        return self.out(attention(self.query(tokens), self.key(x), value, mask)), value.reshape(x.shape)

    def project(self, x: Float[Array, "B T C"]) -> Float[Array, "B T C"]:
        """The output projection of concatenated heads."""
        return self.out(x.reshape(*x.shape[:2], self.heads, -1))


class Block(nn.Module):
    """A pre-LN residual block."""

    width: int
    heads: int
    mlp_width: int
    quick_gelu: bool
    dtype: DTypeLike

    def setup(self) -> None:
        """The published parts."""
        self.ln_1 = LayerNorm(epsilon=EPSILON, dtype=self.dtype)
        self.attn = Attention(self.width, self.heads, self.dtype)
        self.ln_2 = LayerNorm(epsilon=EPSILON, dtype=self.dtype)
        self.mlp = MLP(self.mlp_width, quick_gelu if self.quick_gelu else gelu, _MLP_NAMES, self.dtype)

    def __call__(
        self, x: Float[Array, "B T C"], mask: Bool[Array, "1 T T"] | None = None
    ) -> Float[Array, "B T C"]:
        """Residual attention, residual MLP."""
        return self._add(x, self.attn(self.ln_1(x), mask))

    def with_readers(
        self, x: Float[Array, "B T C"], readers: Float[Array, "B R C"], mask: Bool[Array, "B R T"]
    ) -> tuple[Float[Array, "B T C"], Float[Array, "B R C"]]:
        """The block for `x`, and for `readers`, which see `x` where `mask` is True and never change it.

        The two are not one array: to cut and join them in every block costs TPUs as much as the attention.
        """
        own, read = self.attn.with_readers(self.ln_1(x), self.ln_1(readers), mask)
        return self._add(x, own), self._add(readers, read)

    def values(self, x: Float[Array, "B T C"]) -> Float[Array, "B T C"]:
        """The value projection of the block's attention, its layer norm included."""
        return self.attn.values(self.ln_1(x))

    def mix(self, x: Float[Array, "B T C"], mask: Bool[Array, "B T T"]) -> Float[Array, "B T C"]:
        """What the block's own attention reads, before its projection."""
        return self.attn.mix(self.ln_1(x), mask)

    def read(
        self, tokens: Float[Array, "B R C"], x: Float[Array, "B S C"], mask: Bool[Array, "B R S"]
    ) -> tuple[Float[Array, "B R C"], Float[Array, "B S C"]]:
        """The whole block for `tokens` that see `x` where `mask` is True, and the values of `x`."""
        read, values = self.attn.read(self.ln_1(tokens), self.ln_1(x), mask)
        return self._add(tokens, read), values

    def _add(self, x: Float[Array, "B T C"], attended: Float[Array, "B T C"]) -> Float[Array, "B T C"]:
        """Add what attention gave, then the residual MLP."""
        x = x + attended
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """A stack of blocks."""

    width: int
    heads: int
    layers: int
    mlp_width: int
    quick_gelu: bool
    dtype: DTypeLike

    def setup(self) -> None:
        """Blocks are `resblocks_0` ..."""
        self.resblocks = [
            Block(self.width, self.heads, self.mlp_width, self.quick_gelu, self.dtype)
            for _ in range(self.layers)
        ]

    def __call__(
        self, x: Float[Array, "B T C"], mask: Bool[Array, "1 T T"] | None = None
    ) -> Float[Array, "B T C"]:
        """All blocks, one after the other."""
        for block in self.resblocks:
            x = block(x, mask)
        return x
