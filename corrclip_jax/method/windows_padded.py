"""Padded windows: where the windows of images of different sizes lie, as values instead of shapes.

The counterpart of `windows` for a padded batch: an image of `sizes` (height, width) fills the top left corner of
its array. Static are the array's shape, the sides of a padded window and the most windows that an image can have;
all else is data, so that one compiled program serves every image that fits into the shape. All numbers are those
of `windows.plan_windows` for the image alone, to the last bit.
Shapes: B images, padded to [Hp, Wp], n the most windows of an image, (h, w) padded window, (gh, gw) its grid.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt8

from corrclip_jax.config import MethodConfig
from corrclip_jax.method import windows
from corrclip_jax.ops import resize
from corrclip_jax.ops.integers import divide, quotient, quotient_up

_TWO_SIZES = 16  # windows of a whole chunk, from which on the rest of a batch goes in smaller ones


class PaddedAxis(NamedTuple):
    """`windows.Axis` with values: one axis of one image, or of each of B images.

    `shrinking` is length / resized, `growing` resized / length, as `resize.ratio` has them.
    """

    length: Int[Array, "*B"]
    resized: Int[Array, "*B"]
    window: Int[Array, "*B"]
    windows: Int[Array, "*B"]
    before: Int[Array, "*B"]
    shrinking: Float[Array, "*B"]
    growing: Float[Array, "*B"]

    def start(self, index: Shaped[Array, "*B"] | np.ndarray, method: MethodConfig) -> Int[Array, "*B"]:
        """Where windows begin, in pixels of the resized image."""
        end = jnp.minimum(index * method.stride + method.window, self.resized)
        return jnp.maximum(end - method.window, 0)


class PaddedPlan(NamedTuple):
    """Where the windows of each image lie; an image's windows are numbered row by row.

    An image that does not fit (see `plan_padded`) has no windows.
    """

    y: PaddedAxis
    x: PaddedAxis
    fits: Bool[Array, "*B"]

    @property
    def windows(self) -> Int[Array, "*B"]:
        """How many windows each image has."""
        return jnp.where(self.fits, self.y.windows * self.x.windows, 0)


def most_windows(method: MethodConfig) -> int:
    """`method.max_windows`, by default as many as any image can have."""
    if method.max_windows is not None:
        return method.max_windows
    return windows.window_count(method.resize_short, method) * windows.window_count(
        method.resize_long, method
    )


def window_shape(shape: tuple[int, ...], method: MethodConfig) -> tuple[int, int]:
    """Sides of the padded window that all images in arrays of this shape share: those of a full one."""
    plan = windows.plan_windows(shape[0], shape[1], method)
    return plan.y.padded, plan.x.padded


def fits_padded(height: int, width: int, shape: tuple[int, ...], method: MethodConfig) -> bool:
    """Whether an image can share a batch of this shape: it is no larger, its padded window is the same, its windows
    are not more than `method.max_windows`."""
    if not (1 <= height <= shape[0] and 1 <= width <= shape[1]):
        return False
    plan = windows.plan_windows(height, width, method)
    count = len(plan.y.starts) * len(plan.x.starts)
    return (plan.y.padded, plan.x.padded) == window_shape(shape, method) and count <= most_windows(method)


def plan_padded(sizes: Int[Array, "B 2"], shape: tuple[int, ...], method: MethodConfig) -> PaddedPlan:
    """The windows of images of traced `sizes` (height, width) padded to a shape; `fits` as `fits_padded` has it."""
    inside = ((sizes > 0) & (sizes <= jnp.array([shape]))).all(axis=-1)
    lengths = jnp.where(inside[:, None], sizes, 1).astype(jnp.int32).T
    resized = jnp.stack(_resized_sides(lengths[0], lengths[1], shape, method))
    axes = _plan_axes(lengths, resized, method)
    y, x = (jax.tree.map(lambda values, axis=axis: values[axis], axes) for axis in (0, 1))
    same_window = jnp.array(True)
    for axis, padded in zip((y, x), window_shape(shape, method), strict=True):
        same_window &= axis.window + windows.padding(axis.window, method) == padded
    return PaddedPlan(y, x, inside & same_window & (y.windows * x.windows <= most_windows(method)))


def _plan_axes(lengths: Int[Array, "2 B"], resized: Int[Array, "2 B"], method: MethodConfig) -> PaddedAxis:
    """Both axes, each value [2, B]."""
    window = jnp.minimum(method.window, resized)
    shrinking, growing = resize.ratio(jnp.stack([lengths, resized]), jnp.stack([resized, lengths]))
    return PaddedAxis(
        lengths,
        resized,
        window,
        windows.window_count(resized, method),
        windows.padding(window, method) >> 1,
        shrinking,
        growing,
    )


def _resized_sides(
    height: Array, width: Array, shape: Sequence[int], method: MethodConfig
) -> tuple[Int[Array, " B"], Int[Array, " B"]]:
    """`windows.resized_sides` in whole numbers, but for the few that double precision rounds otherwise."""
    shorter, longer = jnp.minimum(height, width), jnp.maximum(height, width)
    small, large = _exact_sides(shorter, longer, method)
    known = _rounded_otherwise(min(shape), max(shape), method)
    hit = (shorter[:, None] == known[None, :, 0]) & (longer[:, None] == known[None, :, 1])
    more = (jnp.where(hit, known[None, :, k], 0).sum(axis=1) for k in (2, 3))
    small, large = (side + add for side, add in zip((small, large), more, strict=True))
    return jnp.where(height <= width, small, large), jnp.where(height <= width, large, small)


def _exact_sides(shorter: Any, longer: Any, method: MethodConfig) -> tuple[Any, Any]:
    """Resized shorter and longer side, exact halves rounded up."""
    by_longer = method.resize_long * shorter < method.resize_short * longer
    small = quotient(2 * shorter * method.resize_long + longer, 2 * longer)
    large = quotient(2 * longer * method.resize_short + shorter, 2 * shorter)
    xp = np if isinstance(shorter, np.ndarray | int) else jnp
    small, large = (
        xp.where(by_longer, small, method.resize_short),
        xp.where(by_longer, method.resize_long, large),
    )
    return xp.maximum(small, 1), large


@lru_cache(maxsize=64)
def _rounded_otherwise(shorter: int, longer: int, method: MethodConfig) -> Int[np.ndarray, "K 4"]:
    """Sizes up to (shorter, longer) where double precision misses an exact half: both sides and what to add to the
    resized ones. There is none below 640 x 640 by the published settings, and 178 below 4000 x 4000."""
    found = [np.zeros((0, 4), np.int32)]
    for one in range(1, shorter + 1):
        sides = np.arange(one, longer + 1)
        published = windows.resized_sides(one, sides, method)
        exact = _exact_sides(one, sides, method)
        small, large = (ours - theirs for ours, theirs in zip(published, exact, strict=True))
        rows = np.stack([np.full_like(sides, one), sides, small, large], axis=1)
        found.append(rows[(small != 0) | (large != 0)])
    return np.concatenate(found).astype(np.int32)


def map_windows(
    function: Callable[..., Float[Array, "N ..."]],
    images: UInt8[Array, "B Hp Wp 3"],
    regions: Int[Array, "B Hp Wp"],
    plan: PaddedPlan,
    method: MethodConfig,
    size: int,
) -> Float[Array, "B n ..."]:
    """Apply a function to the windows of all images, up to `size` at a time.

    It is called with the windows' pixels and region ids, and with the number of each window's image, the image's
    plan and the window's number in it.

    How many chunks there are is data: first whole chunks, then smaller ones (see `chunk_sizes`), so that
    no window is computed that no image has, except for the rest of the last chunk. Windows beyond an image's number
    hold zeros, or another image's.
    """
    most = most_windows(method)
    window = window_shape(images.shape[1:3], method)
    ends = jnp.cumsum(plan.windows)
    total, first = ends[-1], ends - plan.windows

    @partial(jax.jit, static_argnums=1)  # traced once a size
    def chunk(start: Any, size: int) -> Array:
        place = jnp.minimum(start + jnp.arange(size), jnp.maximum(total - 1, 0))
        image = jnp.minimum(jnp.searchsorted(ends, place, side="right"), len(images) - 1)
        index = place - first[image]
        one = jax.tree.map(lambda x: x[image], plan)
        cut = jax.vmap(lambda image, ids, one, i: cut_window(image, ids, one, i, window, method))
        return function(*cut(images[image], regions[image], one, index), image, one, index)

    large, small = chunk_sizes(len(images), most, size)
    out = jax.eval_shape(lambda start: chunk(start, small), jax.ShapeDtypeStruct((), jnp.int32))
    # What a last chunk has beyond the windows there are must not push it back over others.
    buffer = jnp.zeros((len(images) * most + large, *out.shape[1:]), out.dtype)

    def fill(buffer: Array, start: Any, end: Array, size: int) -> Array:
        def step(i: Any, buffer: Array) -> Array:
            place = jax.lax.convert_element_type(start + i * size, jnp.int32)  # not weakly typed, as above
            return jax.lax.dynamic_update_slice_in_dim(buffer, chunk(place, size), place, axis=0)

        return jax.lax.fori_loop(0, quotient_up(end - start, size), step, buffer)

    whole = total // large * large
    if large != small:
        buffer = fill(buffer, 0, whole, large)
    buffer = fill(buffer, whole if large != small else 0, total, small)
    return jax.vmap(lambda start: jax.lax.dynamic_slice_in_dim(buffer, start, most))(first)


def chunk_sizes(images: int, most: int, size: int) -> tuple[int, int]:
    """Windows of a whole chunk, and of the smaller ones for the rest of a batch of `images`.

    The smaller is an eighth, and at most half the number of images, each of which has one window or more: it bounds
    the windows that are computed for nothing. Where no batch fills a whole chunk there are small ones only; where a
    whole chunk is small, as on CPUs, there is one size, of one window more than half the images at most: each size
    makes the program longer by all networks.
    """
    if size < _TWO_SIZES:
        only = min(size, 1 + images // 2)
        return only, only
    small = max(1, min(size // 8, images // 2))
    return (size, small) if size <= images * most else (small, small)


def cut_window(
    image: UInt8[Array, "Hp Wp 3"],
    regions: Int[Array, "Hp Wp"],
    plan: PaddedPlan,
    index: Int[Array, ""],
    window: tuple[int, ...],
    method: MethodConfig,
) -> tuple[Float[Array, "h w 3"], Int[Array, "h w"]]:
    """Pixels and regions of one image's window `index`, as `windows.cut_image` and `cut_regions` have them."""
    placed, taps, nearest = [], [], []
    numbers = divide(index, plan.x.windows)
    for axis, number, padded in zip((plan.y, plan.x), numbers, window, strict=True):
        offset = np.arange(padded) - axis.before
        placed.append((offset >= 0) & (offset < axis.window))
        pixel = axis.start(number, method) + jnp.clip(offset, 0, axis.window - 1)
        taps.append(resize.photo_taps(pixel, axis.length, axis.resized))
        nearest.append(resize.nearest_at(pixel, axis.length, axis.resized, axis.shrinking))
    within = placed[0][:, None] & placed[1][None]
    pixels = windows.normalise_pixels(resize.photo_at(image, *taps))
    ids = regions[nearest[0]][:, nearest[1]]
    return jnp.where(within[..., None], pixels, 0.0), jnp.where(within, ids, windows.PADDING_REGION)


def stitch_matrices(
    plan: PaddedPlan, shape: tuple[int, ...], grid: tuple[int, ...], method: MethodConfig
) -> tuple[Float[Array, "Hp n gh"], Float[Array, "Wp n gw"]]:
    """One image's `windows.stitch_matrix` of rows and of columns, the part of each window by itself.

    A window's logits [gh, gw] enter the image's as rows @ logits @ columns.T; windows beyond its number are 0.
    """
    most = most_windows(method)
    window = window_shape(shape, method)
    index = jnp.arange(most)
    rows, columns = (
        _stitch_axis(*sides, most, method)
        for sides in zip((plan.y, plan.x), shape, window, grid, strict=True)
    )
    row, column = divide(index, plan.x.windows)
    rows = jnp.where((index < plan.windows)[:, None], rows[:, row], 0.0)
    return rows, columns[:, column]


def _stitch_axis(
    axis: PaddedAxis, extent: int, padded: int, grid: int, most: int, method: MethodConfig
) -> Float[Array, "extent n grid"]:
    up = jnp.asarray(resize.bilinear_matrix(grid, padded))
    index = np.arange(most)
    starts = axis.start(index, method)

    low, high, weight = resize.linear_taps(np.arange(extent), axis.resized, axis.length, axis.growing)
    offset = jnp.stack([low, high])[..., None] - starts[None, None]
    covers = (offset >= 0) & (offset < axis.window) & (index < axis.windows)[None, None]
    covers = covers.astype(jnp.float32)
    share = covers / jnp.maximum(covers.sum(axis=-1, keepdims=True), 1)
    at_low, at_high = up[jnp.clip(offset + axis.before, 0, padded - 1)] * share[..., None]
    weight = weight[:, None, None]
    return at_low * (1 - weight) + at_high * weight
