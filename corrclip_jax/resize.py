"""The four resizes of the method (METHOD.md, section 0), as static index vectors and separable matrices.

torch and OpenCV each have rules of their own, none of which is `jax.image.resize`'s:
  nearest      src = floor(dst * in / out)
  bilinear     half-pixel centres, edges clamped, no antialias (with antialias for SAM's input)
  bicubic      Keys' kernel with a = -0.75, sampling positions from a given scale factor
  photo        OpenCV's INTER_LINEAR on uint8, which is 11-bit fixed-point arithmetic

Every rule is separable, so a resize is one small matrix an axis, made with NumPy at trace time.
"""

from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped, UInt8

_FIXED_POINT_BITS = 11  # OpenCV's INTER_RESIZE_COEF_BITS


@lru_cache(maxsize=256)
def nearest_indices(size: int, out: int) -> Int[np.ndarray, " out"]:
    """Source index of each of `out` samples of an axis of `size`, as torch's mode "nearest" (float32 scale)."""
    scale = np.float32(size) / np.float32(out)
    indices = np.floor(np.arange(out, dtype=np.float32) * scale).astype(np.int32)
    return np.minimum(indices, size - 1)


def nearest(x: Shaped[Array, "H W"], height: int, width: int) -> Shaped[Array, "h w"]:
    """Resize a map by torch's "nearest" rule."""
    return x[nearest_indices(x.shape[0], height)][:, nearest_indices(x.shape[1], width)]


@lru_cache(maxsize=256)
def bilinear_matrix(size: int, out: int) -> Float[np.ndarray, "out size"]:
    """Matrix M with M @ x the bilinear resize of an axis: half-pixel centres, clamped edges, no antialias."""
    low, high, weight = _linear_taps(size, out)
    matrix = np.zeros((out, size), np.float32)
    rows = np.arange(out)
    np.add.at(matrix, (rows, low), (1 - weight).astype(np.float32))
    np.add.at(matrix, (rows, high), weight.astype(np.float32))
    return matrix


@lru_cache(maxsize=64)
def antialias_matrix(size: int, out: int) -> Float[np.ndarray, "out size"]:
    """Matrix of torch's bilinear resize with antialias: a triangle as wide as the shrinking factor."""
    scale = size / out
    support = max(scale, 1.0)
    centres = (np.arange(out) + 0.5) * scale
    distance = np.abs(np.arange(size)[None] + 0.5 - centres[:, None]) / support
    weights = np.maximum(0.0, 1.0 - distance)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


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


def separable(
    x: Float[Array, "*batch H W C"], rows: Float[np.ndarray, "h H"], columns: Float[np.ndarray, "w W"]
) -> Float[Array, "*batch h w C"]:
    """Apply one matrix along the rows and one along the columns of channel-last maps."""
    x = jnp.einsum("hH,...HWc->...hWc", jnp.asarray(rows, x.dtype), x)
    return jnp.einsum("wW,...hWc->...hwc", jnp.asarray(columns, x.dtype), x)


def bilinear(x: Float[Array, "*batch H W C"], height: int, width: int) -> Float[Array, "*batch h w C"]:
    """Bilinear resize of channel-last maps, half-pixel centres, no antialias."""
    return separable(x, bilinear_matrix(x.shape[-3], height), bilinear_matrix(x.shape[-2], width))


def photo(x: UInt8[Array, "*batch H W C"], height: int, width: int) -> UInt8[Array, "*batch h w C"]:
    """OpenCV's INTER_LINEAR on uint8 photos: integer arithmetic with 11-bit weights.

    The horizontal pass keeps all bits; the vertical one drops four of them before it multiplies, as OpenCV's
    does, so the result equals its to the last grey level.
    """
    top, bottom, upper, lower = _fixed_point_taps(x.shape[-3], height)
    first, second, left, right = _fixed_point_taps(x.shape[-2], width)
    pixels = x.astype(jnp.int32)
    rows = (pixels[..., first, :] * left[:, None] + pixels[..., second, :] * right[:, None]) >> 4
    upper, lower = upper[:, None, None], lower[:, None, None]
    mixed = ((rows[..., top, :, :] * upper) >> 16) + ((rows[..., bottom, :, :] * lower) >> 16)
    return ((mixed + 2) >> 2).astype(jnp.uint8)


def _linear_taps(size: int, out: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The two source indices of each sample and the second one's weight.

    Positions are float32, as torch's are: on long axes their rounding shows in the weights.
    """
    scale = np.float32(size) / np.float32(out)
    position = np.maximum(scale * (np.arange(out, dtype=np.float32) + np.float32(0.5)) - np.float32(0.5), 0)
    low = np.minimum(np.floor(position).astype(np.int32), size - 1)
    return low, np.minimum(low + 1, size - 1), position - low


def _fixed_point_taps(size: int, out: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """As `_linear_taps`, positions rounded to float32 first and both weights rounded to 11 bits each.

    Beyond an edge both taps are the edge pixel, with the weights they would have had: each is rounded alone.
    """
    position = ((np.arange(out) + 0.5) * (size / out) - 0.5).astype(np.float32)
    low = np.floor(position).astype(np.int32)
    weight = position - low.astype(np.float32)
    one = np.float32(1 << _FIXED_POINT_BITS)
    left, right = (np.rint(w * one).astype(np.int32) for w in (np.float32(1) - weight, weight))
    return np.clip(low, 0, size - 1), np.clip(low + 1, 0, size - 1), left, right


def _keys(distance: np.ndarray, a: float = -0.75) -> np.ndarray:
    """Keys' cubic convolution kernel at distances of at most 2."""
    near = ((a + 2) * distance - (a + 3)) * distance * distance + 1
    far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0.0))
