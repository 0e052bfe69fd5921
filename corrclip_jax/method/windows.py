"""Windows: an image to its windows, and their grids back to the image (METHOD.md, sections 3 and 8).

Shapes: (H0, W0) image, (H, W) resized image, N = rows * columns windows, (h, w) padded window, (gh, gw) grid of a
window.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from corrclip_jax.config import MethodConfig
from corrclip_jax.models.layers import normalise_channels
from corrclip_jax.ops import resize
from corrclip_jax.ops.integers import quotient_up

CLIP_MEAN = np.array([122.771, 116.746, 104.094], np.float32)
CLIP_STD = np.array([68.501, 66.632, 70.323], np.float32)

# The id of the padding's own region: the largest integer, so that it is never the smallest id of a window.
PADDING_REGION = int(np.iinfo(np.int32).max)


@dataclass(frozen=True)
class Axis:
    """The windows along one axis of an image.

    Every window is `window` pixels of the resized image and begins at one of `starts`; `before` and `after` pixels
    of padding bring it to a multiple that the patches of both networks divide.
    """

    length: int
    resized: int
    window: int
    starts: tuple[int, ...]
    before: int
    after: int

    @property
    def padded(self) -> int:
        """Side of a padded window."""
        return self.before + self.window + self.after


@dataclass(frozen=True)
class WindowPlan:
    """Where the windows of an image of one size lie; windows are numbered row by row."""

    y: Axis
    x: Axis


@lru_cache(maxsize=1024)
def plan_windows(height: int, width: int, method: MethodConfig) -> WindowPlan:
    """The windows of an image [H0, W0], in pixels."""
    return WindowPlan(
        *(
            _plan_axis(length, int(resized), method)
            for length, resized in zip((height, width), resized_sides(height, width, method), strict=True)
        )
    )


def resized_sides(height: Any, width: Any, method: MethodConfig) -> tuple[Any, Any]:
    """Sides of the resized image, in the official implementation's double precision; numbers or arrays."""
    shorter, longer = np.minimum(height, width), np.maximum(height, width)
    scale = np.minimum(method.resize_long / longer, method.resize_short / shorter)
    # A strip of thousands to one would round to no pixel at all.
    sides = (np.maximum((side * scale + 0.5).astype(int), 1) for side in (height, width))
    return next(sides), next(sides)


def window_count(resized: Any, method: MethodConfig) -> Any:
    """How many windows lie along an axis; a number or an array of any kind."""
    beyond = resized - method.window
    beyond = (beyond + abs(beyond)) >> 1  # 0 for a negative number
    return quotient_up(beyond, method.stride) + 1


def padding(window: Any, method: MethodConfig) -> Any:
    """How many pixels a window lacks to the next multiple of `method.window_multiple`; numbers or arrays."""
    return quotient_up(window, method.window_multiple) * method.window_multiple - window


def _plan_axis(length: int, resized: int, method: MethodConfig) -> Axis:
    count = window_count(resized, method)
    ends = (min(index * method.stride + method.window, resized) for index in range(count))
    starts = tuple(max(end - method.window, 0) for end in ends)
    window = min(method.window, resized)
    lacking = padding(window, method)
    return Axis(length, resized, window, starts, lacking // 2, lacking - lacking // 2)


def cut_image(image: UInt8[Array, "H0 W0 3"], plan: WindowPlan) -> Float[Array, "N h w 3"]:
    """Resize an image, normalise it for CLIP, cut it into windows; padding is 0 after normalisation."""
    pixels = resize.photo(image, plan.y.resized, plan.x.resized)
    return _cut(normalise_pixels(pixels), plan, 0.0)


def normalise_pixels(pixels: UInt8[Array, "*batch 3"]) -> Float[Array, "*batch 3"]:
    """RGB 0..255 to CLIP's normalisation."""
    return normalise_channels(pixels.astype(jnp.float32), CLIP_MEAN, CLIP_STD)


def cut_regions(regions: Int[Array, "H0 W0"], plan: WindowPlan) -> Int[Array, "N h w"]:
    """The same windows of a region map, resized by nearest; padding is a region of its own."""
    resized = resize.nearest(regions, plan.y.resized, plan.x.resized)
    return _cut(resized[..., None], plan, PADDING_REGION)[..., 0]


def _cut(x: Array, plan: WindowPlan, fill: float | int) -> Array:
    padding = ((plan.y.before, plan.y.after), (plan.x.before, plan.x.after), (0, 0))
    windows = [
        jnp.pad(
            x[top : top + plan.y.window, left : left + plan.x.window],
            padding,
            constant_values=fill,
        )
        for top in plan.y.starts
        for left in plan.x.starts
    ]
    return jnp.stack(windows)


@lru_cache(maxsize=256)
def stitch_matrix(axis: Axis, grid: int) -> Float[np.ndarray, "length cells"]:
    """Matrix from the windows' grid cells, side by side along one axis, to the image's pixels.

    Bilinear up-sampling to the padded window, cutting the padding off, the sum over windows, the division by the
    number of windows over a pixel (a product of one count an axis) and the bilinear resize to the image are all
    linear and separable, so that together they are one matrix an axis.
    """
    up = resize.bilinear_matrix(grid, axis.padded)[axis.before : axis.before + axis.window]
    placed = np.zeros((axis.resized, len(axis.starts), grid), np.float32)
    count = np.zeros(axis.resized, np.float32)
    for index, start in enumerate(axis.starts):
        placed[start : start + axis.window, index] = up
        count[start : start + axis.window] += 1
    average = placed.reshape(axis.resized, -1) / count[:, None]
    return resize.bilinear_matrix(axis.resized, axis.length) @ average
