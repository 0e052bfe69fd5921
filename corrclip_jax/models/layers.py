"""Layers that the networks share: attention, layer norm, MLP, patch embedding, interpolated position embedding.

Shapes: B batch, T tokens, H heads, D head width (V that of the values), C width.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from corrclip_jax.ops import resize
from corrclip_jax.ops.loops import map_rows

Activation = Callable[[jax.Array], jax.Array]


lecun_normal = nn.initializers.lecun_normal()
normal = nn.initializers.normal


class Module(nn.Module):
    """A Linen module that checks the parameters that it is given by their shapes alone.

    Flax traces the initialiser of each of them whenever a module is applied, to learn the shape that it would give,
    in a fifth of the time that the whole network takes.
    """

    @nn.nowrap
    def param(self, name: str, init_fn: Callable[..., Any], *init_args: Any, **options: Any) -> Any:
        """As `flax.linen.Module.param`, for initialisers whose first argument is the shape."""
        if init_args and self.has_variable("params", name):
            value: Any = self.get_variable("params", name)
            if np.shape(value) == tuple(init_args[0]):
                return value
        return super().param(name, init_fn, *init_args, **options)


class Dense(Module, nn.Dense):
    """Flax's dense layer."""

    promote_dtype: Any = promote_dtype


class DenseGeneral(Module, nn.DenseGeneral):
    """Flax's dense layer along several axes."""

    promote_dtype: Any = promote_dtype


class Conv(Module, nn.Conv):
    """Flax's convolution."""

    promote_dtype: Any = promote_dtype


# Of ImageNet's RGB pixels 0..1, as torchvision has them.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


# erf(x / sqrt(2)) as tanh(x p(x ** 2)): coefficients of p, fitted so that GELU's error is at most 3e-5, and a bound
# of x ** 2, since p falls again; tanh is 1 in float32 there.
_ERF, _ERF_ENDS = (0.797503685, 0.0370094672, -0.000352137446), 50.0


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The exact GELU; in bfloat16 with an error of at most 3e-5 before rounding.

    There erf is approximated by tanh in float32: the product before it compiles for TPUs in half the time.
    """
    if x.dtype != jnp.bfloat16:
        return jax.nn.gelu(x, approximate=False)
    wide = x.astype(jnp.float32)
    square = jnp.minimum(wide * wide, _ERF_ENDS)
    slope = _ERF[0] + square * (_ERF[1] + square * _ERF[2])
    return (0.5 * wide * (1 + jnp.tanh(wide * slope))).astype(x.dtype)


def quick_gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """x * sigmoid(1.702 x), the activation of OpenAI's CLIP weights."""
    return x * jax.nn.sigmoid(1.702 * x)


def add_bias(
    x: Float[Array, "*batch C"], bias: Float[Array, " C"] | Float[np.ndarray, " C"]
) -> Float[Array, "*batch C"]:
    """x + bias along the last axis, also where JAX refuses implicit rank promotion."""
    return x + jax.lax.broadcast_to_rank(jnp.asarray(bias), x.ndim)


def rows_of(values: Float[Array, " C"], rank: int) -> Float[Array, "C ..."]:
    """`values` along the first axis of arrays of `rank` axes."""
    return values.reshape(-1, *[1] * (rank - 1))


def normalise_channels(
    x: Float[Array, "*batch C"], mean: Sequence[float] | np.ndarray, std: Sequence[float] | np.ndarray
) -> Float[Array, "*batch C"]:
    """(x - mean) / std, channel by channel."""
    mean_of, std_of = (jax.lax.broadcast_to_rank(jnp.array(value), x.ndim) for value in (mean, std))
    return (x - mean_of) / std_of


class LayerNorm(Module, nn.LayerNorm):
    """Flax's layer norm in float32 whatever the compute type: the mean, then the mean square of what is left.

    The variance in one pass loses digits on large activations; bfloat16 has none to lose there, and saves the pass.
    """

    use_fast_variance: bool = False

    def __post_init__(self) -> None:
        """Choose by the compute type."""
        self.use_fast_variance = self.dtype == jnp.bfloat16
        super().__post_init__()

    def __call__(self, x: Float[Array, "*batch C"]) -> Float[Array, "*batch C"]:  # type: ignore[override]
        """The normalised last axis, scaled and shifted."""
        with jax.numpy_dtype_promotion("standard"):  # Flax leaves bfloat16 times float32 to promotion
            return super().__call__(x)


class Projection(Module):
    """A dense layer whose weights may be read, so that they can be merged into a neighbouring product."""

    inputs: int
    outputs: int
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """The parameters of `nn.Dense`."""
        self.kernel = self.param("kernel", lecun_normal, (self.inputs, self.outputs))
        self.bias = self.param("bias", nn.initializers.zeros, (self.outputs,))

    def weights(self) -> tuple[Float[Array, "inputs outputs"], Float[Array, " outputs"]]:
        """Kernel and bias in the compute type."""
        return jnp.asarray(self.kernel, self.dtype), jnp.asarray(self.bias, self.dtype)

    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
        """The layer itself."""
        kernel, bias = self.weights()
        return add_bias(x.astype(self.dtype) @ kernel, bias)


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
        layers: Callable[..., Array] = partial(_two_layers, self.activation)
        x = x.reshape(-1, width).astype(self.dtype)
        if len(x) * self.width > _HIDDEN:
            layers = _in_blocks(layers)
        return layers(x, expand, project).reshape(*batch, width)


def _two_layers(
    activation: Activation, x: Array, expand: tuple[Array, Array], project: tuple[Array, Array]
) -> Array:
    hidden = activation(add_bias(x @ expand[0], expand[1]))
    return add_bias(hidden @ project[0], project[1])


def _in_blocks(layers: Callable[..., Array]) -> Callable[..., Array]:
    """Layers of many tokens [N, C]; derivatives, which keep what lies between the layers, take all at once."""

    def blocks(x: Array, *weights: Any) -> Array:
        return map_rows(lambda x: layers(x, *weights), _TOKENS, x)

    @jax.custom_jvp
    def apply(x: Array, *weights: Any) -> Array:
        return jax.lax.platform_dependent(x, *weights, cpu=blocks, default=layers)

    apply.defjvp(lambda primals, tangents: jax.jvp(layers, primals, tangents))
    return apply


class PatchEmbed(Module):
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
        kernel = self.param("kernel", lecun_normal, (p, p, channels, self.width))
        patches = images[:, : h * p, : w * p].reshape(batch, h, p, w, p, channels)
        patches = patches.transpose(0, 1, 3, 2, 4, 5).reshape(batch, h, w, p * p * channels)
        out = jnp.dot(patches.astype(self.dtype), kernel.reshape(-1, self.width).astype(self.dtype))
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.width,))
            out = add_bias(out, bias.astype(self.dtype))
        return out


ROUNDING_GUARD = 0.1
"""What the DINO and CLIP programs add to a grid before they divide it by the native one."""


def interpolate_positions(
    embedding: Float[Array, "N C"], height: int, width: int
) -> Float[Array, "{height}*{width} C"]:
    """Patch position embeddings for another grid: bicubic, sampled with the scale (grid + 0.1) / native.

    The 0.1, which the DINO and CLIP programs add against rounding, shifts the sampling positions
    (METHOD.md, section 4); the ratio of the sizes would give other numbers.
    """
    native = math.isqrt(embedding.shape[0])
    grid = embedding.reshape(native, native, -1)
    rows = resize.bicubic_matrix(native, height, (height + ROUNDING_GUARD) / native)
    columns = resize.bicubic_matrix(native, width, (width + ROUNDING_GUARD) / native)
    return resize.separable(grid, rows, columns).reshape(height * width, -1)


def in_compute_type(params: Mapping[str, Any], dtype: DTypeLike) -> dict[str, Any]:
    """A model's parameters with the kernels of layers in the compute type, in which they take half the memory.

    The layers convert them themselves else, in every call, to the same numbers. DINO's last block adds two kernels
    before it converts their sum, so its kernels stay.

    Args:
      params: the tree of `load`, by network.
      dtype: `config.dtype`; float32 changes nothing.
    """

    def convert(path: tuple[Any, ...], x: Any) -> Any:
        return x.astype(dtype) if path[-1].key == "kernel" else x

    if jnp.dtype(dtype) == jnp.float32:
        return dict(params)
    return {
        name: network if name == "dino" else jax.tree_util.tree_map_with_path(convert, network)
        for name, network in params.items()
    }


def run(module: nn.Module, params: Any, *args: Any, **static: Any) -> Any:
    """Apply a Linen module to a bare parameter tree.

    A program that applies a module several times to arrays of the same shapes traces it once.

    Args:
      module: the module.
      params: its parameters, without the collection's name.
      args: arrays.
      static: hashable options, `method` among them.
    """
    return _jitted(module, tuple(sorted(static.items())))(params, *args)


@lru_cache(maxsize=64)
def _jitted(module: nn.Module, static: tuple[tuple[str, Any], ...]) -> Callable[..., Any]:
    def apply(params: Any, *args: Any) -> Any:
        return module.apply({"params": params}, *args, **dict(static))

    return jax.jit(apply)


def window_partition(x: Float[Array, "B H W C"], window: int) -> Float[Array, "N {window} {window} C"]:
    """Cut maps into windows, image by image, row by row; beyond the lower and right edge the map is zero."""
    batch, height, width, channels = x.shape
    x = jnp.pad(x, ((0, 0), (0, -height % window), (0, -width % window), (0, 0)))
    x = x.reshape(batch, x.shape[1] // window, window, x.shape[2] // window, window, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(-1, window, window, channels)


def window_merge(
    windows: Float[Array, "N w w C"], height: int, width: int
) -> Float[Array, "B {height} {width} C"]:
    """The inverse of `window_partition`: lay the windows side by side and cut the padding off."""
    window, channels = windows.shape[2:]
    rows, columns = -(-height // window), -(-width // window)
    x = windows.reshape(-1, rows, columns, window, window, channels).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(-1, rows * window, columns * window, channels)[:, :height, :width]


class ReluMLP(nn.Module):
    """Three dense layers with ReLU between."""

    hidden: int
    outputs: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch C"]) -> Float[Array, "*batch outputs"]:
        """Every token to `outputs` numbers."""
        for i, width in enumerate((self.hidden, self.hidden, self.outputs)):
            x = Dense(width, dtype=self.dtype, name=f"layers_{i}")(x if i == 0 else jax.nn.relu(x))
        return x


class Upscale(Module):
    """A transposed convolution of kernel and stride 2: a cell becomes its four quarters."""

    inputs: int
    outputs: int
    dtype: DTypeLike = jnp.float32

    def setup(self) -> None:
        """The parameters of `nn.ConvTranspose(transpose_kernel=True)`."""
        init = nn.initializers.lecun_normal(in_axis=-1, out_axis=-2)
        self.kernel = self.param("kernel", init, (2, 2, self.outputs, self.inputs))
        self.bias = self.param("bias", nn.initializers.zeros, (self.outputs,))

    def __call__(self, x: Float[Array, "cells inputs"]) -> Float[Array, "cells 4*{self.outputs}"]:
        """Cells to quarters, each row of the result a cell's quarters one after the other."""
        kernel, bias = self._weights()
        return add_bias(x @ kernel.reshape(-1, self.inputs).T, jnp.tile(bias, 4))

    def channels_first(
        self, x: Float[Array, "inputs *quarters cells"]
    ) -> Float[Array, "{self.outputs} 4 *quarters cells"]:
        """The same of columns: the first quarters of all cells, then the second ones, and so on."""
        kernel, bias = self._weights()
        quarters = jnp.einsum("oki,i...l->ok...l", kernel.swapaxes(0, 1), x)
        return quarters + rows_of(bias, quarters.ndim)

    def _weights(self) -> tuple[Float[Array, "4 outputs inputs"], Float[Array, " outputs"]]:
        kernel = jnp.asarray(self.kernel, self.dtype).reshape(4, self.outputs, self.inputs)
        return kernel, jnp.asarray(self.bias, self.dtype)
