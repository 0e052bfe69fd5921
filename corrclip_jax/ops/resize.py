"""The four resizes of the method (METHOD.md, section 0), as static index vectors and separable matrices.

torch and OpenCV each have rules of their own, none of which is `jax.image.resize`'s:
  nearest      src = floor(dst * in / out)
  bilinear     half-pixel centres, edges clamped, no antialias (with antialias for SAM's input)
  bicubic      Keys' kernel with a = -0.75, sampling positions from a given scale factor
  photo        OpenCV's INTER_LINEAR on uint8, which is 11-bit fixed-point arithmetic

Every rule is separable, so a resize is one small matrix an axis, made with NumPy at trace time. Where sizes are
traced values (images of different sizes in a padded batch), the functions with an `index` give the taps of each
sample, with the same numbers: what torch and OpenCV compute in wider types is computed in whole numbers here.
"""

from functools import lru_cache
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped, UInt8

from corrclip_jax.ops.integers import divide

_FIXED_POINT_BITS = 11  # OpenCV's INTER_RESIZE_COEF_BITS


# A length of an axis, a static number or a traced one; an array of either kind.
Length = int | Int[Array, ""]
Axis1 = Int[np.ndarray, " n"] | Int[Array, " n"]


@lru_cache(maxsize=256)
def nearest_indices(size: int, out: int) -> Int[np.ndarray, " out"]:
    """Source index of each of `out` samples of an axis of `size`, as torch's mode "nearest" (float32 scale)."""
    return nearest_at(np.arange(out, dtype=np.int32), size, out)


def nearest_at(index: Axis1, size: Length, out: Length, step: Any = None) -> Any:
    """Source index of the samples `index` of an axis of `size` that is resized to `out`; all may be traced.

    `step` is their `ratio`, where it is known.
    """
    xp, step = _module(index, size, out), ratio(size, out) if step is None else step
    return xp.minimum(xp.floor(index.astype(np.float32) * step).astype(np.int32), size - 1)


def nearest(x: Shaped[Array, "H W"], height: int, width: int) -> Shaped[Array, "h w"]:
    """Resize a map by torch's "nearest" rule."""
    return x[nearest_indices(x.shape[0], height)][:, nearest_indices(x.shape[1], width)]


@lru_cache(maxsize=256)
def bilinear_matrix(size: int, out: int) -> Float[np.ndarray, "out size"]:
    """Matrix M with M @ x the bilinear resize of an axis: half-pixel centres, clamped edges, no antialias."""
    return bilinear_rows(np.arange(out), size, out)


def bilinear_rows(index: Axis1, size: Length, out: Length, padded: int | None = None) -> Any:
    """The rows `index` [n, size] of `bilinear_matrix`; all may be traced.

    Where `size` is traced, `padded` is the static number of columns, those beyond `size` being zero.
    """
    low, high, weight = linear_taps(index, size, out)
    cells = np.arange(int(size) if padded is None else padded)[None]
    at_low, at_high = ((tap[:, None] == cells).astype(np.float32) for tap in (low, high))
    return at_low * (1 - weight)[:, None] + at_high * weight[:, None]


def bilinear_twice(index: Axis1, size: int, middle: int, filled: Length, out: Length) -> Any:
    """Rows `index` [n, size] of two bilinear resizes: `size` to `middle`, of which the first `filled` to `out`."""
    low, high, weight = linear_taps(index, filled, out)
    to_middle = bilinear_matrix(size, middle)
    lower, upper = (
        to_middle[i] if isinstance(i, np.ndarray) else jnp.asarray(to_middle)[i] for i in (low, high)
    )
    return lower * (1 - weight)[:, None] + upper * weight[:, None]


@lru_cache(maxsize=64)
def antialias_matrix(size: int, out: int) -> Float[np.ndarray, "out size"]:
    """Matrix of torch's bilinear resize with antialias: a triangle as wide as the shrinking factor."""
    return antialias_columns(size, size, out)


def antialias_columns(padded: int, size: Length, out: Length, rows: int | None = None) -> Any:
    """`antialias_matrix` [out, padded] of an axis of `size`, which may be traced, padded to `padded` samples.

    Where `out` is traced `rows` is the static number of rows; those beyond `out` have no meaning.
    """
    xp = _module(size, out)
    source, target = np.arange(padded)[None], np.arange(int(out) if rows is None else rows)[:, None]
    # In units of half a source sample by `out`, distances and support are whole numbers.
    support = 2 * xp.maximum(size, out)
    weights = xp.maximum(support - abs((2 * source + 1) * out - (2 * target + 1) * size), 0)
    weights = xp.where(source < size, weights, 0)
    total = xp.maximum(weights.sum(axis=1, keepdims=True), 1)
    return weights.astype(np.float32) / total.astype(np.float32)


@lru_cache(maxsize=64)
def bicubic_matrix(size: int, out: int, scale: float) -> Float[np.ndarray, "out size"]:
    """Matrix of torch's bicubic resize (a = -0.75, clamped edges), sampling at (dst + 0.5) / scale - 0.5."""
    step = np.float32(1 / scale)
    position = step * (np.arange(out, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5)
    first = np.floor(position).astype(int) - 1
    matrix = np.zeros((out, size))
    for tap in range(4):
        weight = _keys(np.abs(position - (first + tap)))
        np.add.at(matrix, (np.arange(out), np.clip(first + tap, 0, size - 1)), weight)
    return matrix.astype(np.float32)


def bicubic_rows(rows: int, size: int, out: Length, more: float = 0.0) -> Any:
    """Rows [rows, size] of torch's bicubic resize (a = -0.75, clamped edges) by the sizes; `out` may be traced.

    With `more` the scale factor is (out + more) / size, as some programs have it.
    """
    xp = _module(out)
    half = np.float32(0.5)
    step = np.float32(size) / (xp.asarray(out, np.float32) + np.float32(more)) if more else ratio(size, out)
    position = step * (np.arange(rows, dtype=np.float32) + half) - half
    taps = xp.floor(position).astype(np.int32)[:, None] + np.arange(-1, 3, dtype=np.int32)[None]
    weights = _keys(abs(position[:, None] - taps.astype(np.float32)), xp=xp)
    return _gather_taps(xp.clip(taps, 0, size - 1), weights, size)


def bicubic_antialias_rows(rows: int, size: int, out: Length) -> Any:
    """Rows [rows, size] of torch's bicubic resize with antialias (a = -0.5); `out` may be traced.

    A source pixel weighs by the distance of the centres in steps of the coarser grid; weights sum to one. Rows
    beyond `out`, where no source pixel would have weight, repeat the last.
    """
    xp = _module(out)
    index = xp.minimum(np.arange(rows), out - 1).astype(np.float32)
    centre = (index + np.float32(0.5)) * ratio(size, out)
    distance = abs(centre[:, None] - np.arange(size, dtype=np.float32)[None] - np.float32(0.5))
    weights = _keys(distance / xp.maximum(ratio(size, out), np.float32(1)), np.float32(-0.5), xp)
    return weights / weights.sum(axis=1, keepdims=True)


def _gather_taps(taps: Any, weights: Any, size: int) -> Any:
    """The matrix [n, size] with each row's `weights` [n, k] at its columns `taps` [n, k], summed where equal."""
    return ((taps[..., None] == np.arange(size)[None, None]).astype(np.float32) * weights[..., None]).sum(
        axis=1
    )


def separable(
    x: Float[Array, "*batch H W C"],
    rows: Float[np.ndarray, "h H"] | Float[Array, "h H"],
    columns: Float[np.ndarray, "w W"] | Float[Array, "w W"],
) -> Float[Array, "*batch h w C"]:
    """Apply one matrix along the rows and one along the columns of channel-last maps."""
    x = jnp.einsum("hH,...HWc->...hWc", jnp.asarray(rows, x.dtype), x)
    return jnp.einsum("wW,...hWc->...hwc", jnp.asarray(columns, x.dtype), x)


def bilinear(x: Float[Array, "*batch H W C"], height: int, width: int) -> Float[Array, "*batch h w C"]:
    """Bilinear resize of channel-last maps, half-pixel centres, no antialias."""
    return separable(x, bilinear_matrix(x.shape[-3], height), bilinear_matrix(x.shape[-2], width))


def bilinear_at(x: Float[Array, "H W C"], rows: tuple, columns: tuple) -> Float[Array, "h w C"]:
    """The samples of `bilinear` at the given rows and columns, which are results of `linear_taps`."""
    (top, bottom, lower), (first, second, right) = rows, columns
    x = x[:, first] * (1 - right)[None, :, None] + x[:, second] * right[None, :, None]
    return x[top] * (1 - lower)[:, None, None] + x[bottom] * lower[:, None, None]


def photo(x: UInt8[Array, "*batch H W C"], height: int, width: int) -> UInt8[Array, "*batch h w C"]:
    """OpenCV's INTER_LINEAR on uint8 images: integer arithmetic with 11-bit weights.

    The horizontal pass keeps all bits; the vertical one drops four of them before it multiplies, as OpenCV's
    does, so the result equals its to the last grey level.
    """
    return photo_at(
        x,
        photo_taps(np.arange(height), x.shape[-3], height),
        photo_taps(np.arange(width), x.shape[-2], width),
    )


def photo_at(x: UInt8[Array, "*batch H W C"], rows: tuple, columns: tuple) -> UInt8[Array, "*batch h w C"]:
    """The samples of `photo` at the given rows and columns, which are results of `photo_taps`."""
    top, bottom, *vertical = rows
    first, second, *horizontal = columns
    upper, lower = (weight.reshape(*(1,) * (x.ndim - 3), -1, 1, 1) for weight in vertical)
    left, right = (weight.reshape(*(1,) * (x.ndim - 2), -1, 1) for weight in horizontal)

    def across(index: Any) -> Array:
        pixels = x[..., index, :, :].astype(jnp.int32)
        return (pixels[..., first, :] * left + pixels[..., second, :] * right) >> 4

    mixed = ((across(top) * upper) >> 16) + ((across(bottom) * lower) >> 16)
    return ((mixed + 2) >> 2).astype(jnp.uint8)


def pillow(
    x: UInt8[Array, "*batch H W C"], size: tuple[Length, Length], out: tuple[Length, Length], room: int
) -> Float[Array, "*batch {room} {room} C"]:
    """Pillow's bilinear resize of the top left `size` (height, width) of images to `out`, in a square of `room`.

    Both may be traced; values beyond `out` have no meaning. With antialias, columns first, rounded to grey levels
    after each of the two passes. Pillow works in 22-bit fixed point, which may differ by one grey level where a
    value lies between two; since version 13 it goes down the rows first where they shrink much more than the
    columns, which may differ by one as well. Models were trained and published with columns first.
    """
    rows, columns = (
        antialias_columns(padded, length, wanted, room)
        for padded, length, wanted in zip(x.shape[-3:-1], size, out, strict=True)
    )
    # Values half way between two levels are rounded up in whatever order their parts were added.
    half = 0.5 + 2**-13
    with jax.default_matmul_precision("highest"):
        pixels = jnp.floor(jnp.einsum("wW,...HWc->...Hwc", columns, x.astype(jnp.float32)) + half)
        return jnp.floor(jnp.einsum("hH,...Hwc->...hwc", rows, pixels) + half)


def linear_taps(index: Axis1, size: Length, out: Length, step: Any = None) -> tuple[Any, Any, Any]:
    """The two source indices of each sample and the second one's weight; all arguments may be traced.

    Positions are float32, as torch's are: on long axes their rounding shows in the weights. `step` is the `ratio`
    of the sizes, where it is known.
    """
    xp, step = _module(index, size, out), ratio(size, out) if step is None else step
    half = np.float32(0.5)
    # The bound, which nothing reaches, keeps compilers from fusing product and difference into one rounding.
    position = xp.minimum(step * (index.astype(np.float32) + half), np.float32(1 << 24))
    position = xp.maximum(position - half, np.float32(0))
    low = xp.minimum(xp.floor(position).astype(np.int32), size - 1)
    return low, xp.minimum(low + 1, size - 1), position - low.astype(np.float32)


def photo_taps(index: Axis1, size: Length, out: Length) -> tuple[Any, Any, Any, Any]:
    """The two source indices of each sample of `photo` and their weights in 11 bits; all may be traced.

    OpenCV takes a position (index + 0.5) * size / out - 0.5 in double precision, rounds it to float32, and rounds
    each weight alone. Here the same comes of whole numbers, for `out` below 4096. Beyond an edge both taps are
    the edge pixel.
    """
    xp = _module(index, size, out)
    whole = 2 * out
    above, rest = divide((2 * index + 1) * size + out, whole)
    low = above - 1
    high, rest = divide(rest << 12, whole)
    last, rest = divide(rest << 12, whole)
    # In units of 2 ** -25; the last bit stands for all that follows.
    fraction = (high << 13) + (last << 1) + (rest > 0).astype(np.int32)
    exponent = _exponent(xp.maximum(low, 1))
    fraction = _round_half_even(fraction, exponent + 2) << exponent  # of 2 ** 23, float32's precision
    left, right = (
        _round_half_even(part, 23 - _FIXED_POINT_BITS) for part in ((1 << 23) - fraction, fraction)
    )
    return xp.clip(low, 0, size - 1), xp.clip(low + 1, 0, size - 1), left, right


def _round_half_even(x: Any, bits: Any) -> Any:
    """x / 2 ** bits, rounded."""
    return (x + (1 << (bits - 1)) - 1 + ((x >> bits) & 1)) >> bits


def ratio(size: int | Int[Array, "*n"], out: int | Int[Array, "*n"]) -> Any:
    """size / out, correctly rounded to float32.

    Traced values (below 2 ** 22) go through long division: a GPU's quotient may be off by a last bit, and "nearest"
    shows it.
    """
    if _module(size, out) is np:
        return np.float32(size) / np.float32(out)
    size, out = jnp.int32(size), jnp.int32(out)
    exponent = _exponent(size) - _exponent(out)
    above, below = size << jnp.maximum(-exponent, 0), out << jnp.maximum(exponent, 0)
    small = above < below
    above, exponent = jnp.where(small, above << 1, above), exponent - small.astype(jnp.int32)
    digits, rest = jnp.int32(1), above - below
    for _ in range(3):
        digit, rest = divide(rest << 8, below)
        digits = (digits << 8) + digit
    half, digits = digits & 1, digits >> 1
    digits += half & ((rest > 0).astype(jnp.int32) | (digits & 1))
    power = jax.lax.bitcast_convert_type((exponent + (127 - 23)) << 23, jnp.float32)
    return digits.astype(jnp.float32) * power


def _exponent(x: Any) -> Any:
    """The largest e with 2 ** e <= x, for x from 1 to 2 ** 24 - 1."""
    return 31 - jax.lax.clz(x) if isinstance(x, jax.Array) else np.frexp(np.float32(x))[1] - 1


def _module(*values: Any) -> ModuleType:
    """`jax.numpy` where a value is traced, else NumPy, whose results are constants of the program."""
    return jnp if any(isinstance(value, jax.Array) for value in values) else np


def _keys(distance: Any, a: float | np.float32 = -0.75, xp: ModuleType = np) -> Any:
    """Keys' cubic convolution kernel."""
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return xp.where(distance <= 1, near, xp.where(distance < 2, far, np.float32(0)))
