"""Sliding windows over a batch of images: one interface, for images of one shape and for padded ones.

`windows` has the plan of images that fill their array, known when a program is compiled; `windows_padded` that of
images of different sizes in the top left corners of theirs, where sizes are values.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from corrclip_jax.config import Config, MethodConfig
from corrclip_jax.method import labels, windows, windows_padded
from corrclip_jax.method.similarity import patch_size
from corrclip_jax.ops import masks
from corrclip_jax.ops.loops import map_chunks
from corrclip_jax.runtime.memory import device_bytes, windows_at_once

Step = Callable[[Float[Array, "N h w 3"], Int[Array, "N h w"]], Float[Array, "N L D"]]


class ImageWindows(NamedTuple):
    """The windows of one image.

    Attributes:
      inside: which pixels of the array are the image's; True where all are.
      fits: whether the image has windows at all; False for a size that the array or the cap on windows excludes.
      logits: features of the windows and queries [Q, D] to what `labels.upsample` takes.
      rows, columns: its stitching matrices.
    """

    inside: Bool[Array, "H0 W0"] | bool
    fits: Bool[Array, ""] | bool
    logits: Callable[[Array, Array], Array]
    rows: Array | np.ndarray
    columns: Array | np.ndarray


@runtime_checkable
class SlidingWindows(Protocol):
    """The windows of a batch of B images [H0, W0]."""

    def map(self, step: Step, images: UInt8[Array, "B H0 W0 3"], regions: Int[Array, "B H0 W0"]) -> Array:
        """Features of all windows of all images, [B, ny, nx, gh, gw, D] or [B, n, gh, gw, D]."""
        ...

    def map_images(self, function: Callable[..., Any], *arrays: Array) -> Any:
        """`function(image_windows, *arrays of one image)`, one image after the other; results stacked."""
        ...


def sliding_windows(
    shape: tuple[int, ...], sizes: Int[Array, "B 2"] | None, config: Config
) -> SlidingWindows:
    """The windows of images of a static `shape` (H0, W0), or of images of `sizes` (height, width) padded to it."""
    at_once = windows_at_once(config, device_bytes())
    if sizes is None:
        return _Static(windows.plan_windows(shape[0], shape[1], config.method), patch_size(config), at_once)
    plan = windows_padded.plan_padded(sizes, shape, config.method)
    return _Padded(plan, sizes, shape, config.method, patch_size(config), at_once)


class _Static(NamedTuple):
    plan: windows.WindowPlan
    patch: int
    at_once: int

    def map(self, step: Step, images: UInt8[Array, "B H0 W0 3"], regions: Int[Array, "B H0 W0"]) -> Array:
        plan = self.plan
        pixels = jax.vmap(lambda image: windows.cut_image(image, plan))(images)
        ids = jax.vmap(lambda ids: windows.cut_regions(ids, plan))(regions)
        flat = (pixels.reshape(-1, *pixels.shape[2:]), ids.reshape(-1, *ids.shape[2:]))
        features = map_chunks(lambda batch: step(*batch), flat, self.at_once)
        grid = windows.grid_of(plan, self.patch)
        return features.reshape(len(images), len(plan.y.starts), len(plan.x.starts), *grid, -1)

    def map_images(self, function: Callable[..., Any], *arrays: Array) -> Any:
        gh, gw = windows.grid_of(self.plan, self.patch)
        rows, columns = windows.stitch_matrix(self.plan.y, gh), windows.stitch_matrix(self.plan.x, gw)
        image = ImageWindows(True, True, labels.logit_grid, rows, columns)
        return jax.lax.map(lambda args: function(image, *args), arrays)


class _Padded(NamedTuple):
    plan: windows_padded.PaddedPlan
    sizes: Int[Array, "B 2"]
    shape: tuple[int, ...]
    method: MethodConfig
    patch: int
    at_once: int

    @property
    def _grid(self) -> tuple[int, ...]:
        return tuple(side // self.patch for side in windows_padded.window_shape(self.shape, self.method))

    def map(self, step: Step, images: UInt8[Array, "B H0 W0 3"], regions: Int[Array, "B H0 W0"]) -> Array:
        features = windows_padded.map_windows(step, images, regions, self.plan, self.method, self.at_once)
        return features.reshape(*features.shape[:2], *self._grid, -1)

    def map_images(self, function: Callable[..., Any], *arrays: Array) -> Any:
        def one(args: tuple[Any, ...]) -> Any:
            plan, size, arrays = args
            matrices = windows_padded.stitch_matrices(plan, self.shape, self._grid, self.method)
            inside = masks.inside(self.shape, size)
            return function(ImageWindows(inside, plan.fits, labels.window_logits, *matrices), *arrays)

        return jax.lax.map(one, (self.plan, self.sizes, arrays))
