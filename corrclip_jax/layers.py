"""Pieces that the towers share: attention, layer norm, MLP, patch embedding, interpolated position embedding.

Shapes: B batch, T tokens, H heads, D head width (V that of the values), C width.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from corrclip_jax import resize
from corrclip_jax.flash import can_flash, flash_attention

Activation = Callable[[jax.Array], jax.Array]

# Mean, then the mean square of what is left: the one-pass variance loses digits on large activations.
LayerNorm = partial(nn.LayerNorm, use_fast_variance=False)
gelu: Activation = partial(jax.nn.gelu, approximate=False)


def quick_gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """x * sigmoid(1.702 x), the activation of OpenAI's CLIP weights."""
    return x * jax.nn.sigmoid(1.702 * x)


def attention(
    q: Float[Array, "B T H D"],
    k: Float[Array, "B S H D"],
    v: Float[Array, "B S H V"],
    mask: Bool[Array, "#B T S"] | None = None,
) -> Float[Array, "B T H V"]:
    """Scaled dot-product attention; the softmax is float32 whatever the inputs are. V is at most D.

    A query sees the keys where `mask` is True. The implementation is chosen for the platform that the program
    is lowered for: on CPU plain matrix products by head (XLA's batched products of long sequences are several
    times slower there); on NVIDIA GPUs cuDNN's flash attention where it takes the operands (bfloat16, see
    `flash`); elsewhere `jax.nn.dot_product_attention`, which XLA fuses.
    """
    operands = (q, k, v) if mask is None else (q, k, v, jnp.broadcast_to(mask, (q.shape[0], *mask.shape[1:])))
    own = {"cuda": flash_attention} if can_flash(q, k) else {}
    return jax.lax.platform_dependent(*operands, cpu=_attention_by_head, **own, default=_attention_fused)


def _attention_fused(q, k, v, mask=None):
    width = v.shape[-1]
    v = jnp.pad(v, ((0, 0), (0, 0), (0, 0), (0, q.shape[-1] - width)))  # it wants one width for all three
    mask = None if mask is None else mask[:, None]
    return jax.nn.dot_product_attention(q, k, v, mask=mask)[..., :width]


# On CPU, by the size of one head's attention matrix: small ones (windows, prompts) go all at once, large ones
# in blocks of rows that stay in the caches.
_TOGETHER = 256 * 256
_IN_BLOCKS = 2048 * 2048
_ROWS = 512


def _attention_by_head(q, k, v, mask=None):
    queries, keys = q.shape[1], k.shape[1]
    masks = () if mask is None else (mask[:, None],)
    q, k, v = (jnp.moveaxis(x, 2, 1) for x in (q * q.shape[-1] ** -0.5, k, v))

    def attend(q, k, v, mask=None):
        logits = jnp.matmul(q, k.mT, preferred_element_type=jnp.float32)
        if mask is not None:
            logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
        weights = jnp.exp(logits - logits.max(axis=-1, keepdims=True))
        total = weights.sum(axis=-1, keepdims=True)
        out = jnp.matmul(weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
        return (out / total).astype(v.dtype)

    def one_head(q, k, v, *mask):
        if queries * keys <= _IN_BLOCKS:
            return attend(q, k, v, *mask)
        return _by_rows(lambda q, *mask: attend(q, k, v, *mask), _ROWS, q, *mask)[:, : v.shape[-1]]

    def one_example(example):
        heads, mask = example[:3], [x[0] for x in example[3:]]
        return jax.lax.map(lambda head: one_head(*head, *mask), heads)

    together = queries * keys <= _TOGETHER
    out = attend(q, k, v, *masks) if together else jax.lax.map(one_example, (q, k, v, *masks))
    return jnp.moveaxis(out, 1, 2)


def _by_rows(function, rows, x, *others):
    """A function of arrays [N, .] that treats each row alone, on at most `rows` of them at a time.

    What it gives takes the place of `x`, and may not be wider: the results of `lax.map` are a buffer more, and XLA
    makes those of all loops of a program at its beginning.
    """
    count = len(x)
    blocks = -(-count // rows)

    def cut(y):
        return jnp.pad(y, ((0, -count % blocks), (0, 0))).reshape(blocks, -1, y.shape[-1])

    def one(index, cells):
        out = function(cells[index], *(y[index] for y in others))
        return cells.at[index, :, : out.shape[-1]].set(out)

    others = tuple(cut(y) for y in others)
    return jax.lax.fori_loop(0, blocks, one, cut(x)).reshape(-1, x.shape[-1])[:count]


class Projection(nn.Module):
    """A dense layer whose weights may be read, so that they can be merged into a neighbouring product."""

    inputs: int
    outputs: int
    dtype: DTypeLike = jnp.float32

    def setup(self):
        """The parameters of `nn.Dense`."""
        self.kernel = self.param("kernel", nn.initializers.lecun_normal(), (self.inputs, self.outputs))
        self.bias = self.param("bias", nn.initializers.zeros, (self.outputs,))

    def weights(self) -> tuple[Float[Array, "inputs outputs"], Float[Array, " outputs"]]:
        """Kernel and bias in the compute type."""
        return jnp.asarray(self.kernel, self.dtype), jnp.asarray(self.bias, self.dtype)

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        """The layer itself."""
        kernel, bias = self.weights()
        return x.astype(self.dtype) @ kernel + bias


# On CPU, by the size of an MLP's hidden layer: large ones (24 MB in float32) exist for a block of tokens at a time,
# which stays in the caches.
_HIDDEN = 6 << 20
_TOKENS = 1024


class MLP(nn.Module):
    """Two dense layers; `names` are those of the published checkpoints."""

    width: int
    activation: Activation
    names: tuple[str, str] = ("fc1", "fc2")
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch C"]) -> Float[Array, "*batch C"]:
        """Expand to `width`, activate, project back."""
        *batch, width = x.shape
        expand = Projection(width, self.width, self.dtype, name=self.names[0]).weights()
        project = Projection(self.width, width, self.dtype, name=self.names[1]).weights()
        layers = partial(_two_layers, self.activation)
        x = x.reshape(-1, width).astype(self.dtype)
        if len(x) * self.width > _HIDDEN:
            layers = _in_blocks(layers)
        return layers(x, expand, project).reshape(*batch, width)


def _two_layers(activation, x, expand, project):
    return activation(x @ expand[0] + expand[1]) @ project[0] + project[1]


def _in_blocks(layers):
    """Layers of many tokens [N, C]; derivatives, which keep what lies between the layers, take all at once."""

    def blocks(x, *weights):
        return _by_rows(lambda x: layers(x, *weights), _TOKENS, x)

    @jax.custom_jvp
    def apply(x, *weights):
        return jax.lax.platform_dependent(x, *weights, cpu=blocks, default=layers)

    apply.defjvp(lambda primals, tangents: jax.jvp(layers, primals, tangents))
    return apply


class PatchEmbed(nn.Module):
    """A convolution with stride = kernel, as one matrix product over flattened patches.

    Pixels beyond the last whole patch are ignored, as the convolution ignores them.
    """

    width: int
    patch_size: int
    use_bias: bool = True
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "B H W 3"]) -> Float[Array, "B h w C"]:
        """Images [B, H, W, 3] to patches [B, H // p, W // p, C]."""
        p = self.patch_size
        batch, height, width, channels = images.shape
        h, w = height // p, width // p
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (p, p, channels, self.width))
        patches = images[:, : h * p, : w * p].reshape(batch, h, p, w, p, channels)
        patches = patches.transpose(0, 1, 3, 2, 4, 5).reshape(batch, h, w, p * p * channels)
        out = jnp.dot(patches.astype(self.dtype), kernel.reshape(-1, self.width).astype(self.dtype))
        if self.use_bias:
            out = out + self.param("bias", nn.initializers.zeros, (self.width,)).astype(self.dtype)
        return out


def interpolate_positions(
    embedding: Float[Array, "N C"], height: int, width: int
) -> Float[Array, "{height}*{width} C"]:
    """Patch position embeddings for another grid: bicubic, sampled with the scale (grid + 0.1) / native.

    The 0.1, which the DINO and CLIP programs add against rounding, shifts the sampling positions
    (METHOD.md, section 4); the ratio of the sizes would give other numbers.
    """
    native = math.isqrt(embedding.shape[0])
    grid = embedding.reshape(native, native, -1)
    rows = resize.bicubic_matrix(native, height, (height + 0.1) / native)
    columns = resize.bicubic_matrix(native, width, (width + 0.1) / native)
    return resize.separable(grid, rows, columns).reshape(height * width, -1)


def run(module: nn.Module, params: Any, *args: Any, **kwargs: Any) -> Any:
    """Apply a Linen module to a bare parameter tree."""
    return module.apply({"params": params}, *args, **kwargs)
