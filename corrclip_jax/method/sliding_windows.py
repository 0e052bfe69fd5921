"""Sliding windows over a batch of images: one interface, for images of one shape and for padded ones.

`windows` has the plan of images that fill their array, known when a program is compiled; `windows_padded` that of
images of different sizes in the top left corners of theirs, where sizes are values.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from corrclip_jax.config import Config, MethodConfig
from corrclip_jax.method import labels, windows, windows_padded
from corrclip_jax.method.similarity import similarity_grid
from corrclip_jax.method.whole_image import WholeImages, cells_of_axis, window_cells
from corrclip_jax.ops import masks
from corrclip_jax.ops.integers import divide
from corrclip_jax.ops.loops import map_chunks
from corrclip_jax.runtime.memory import device_bytes, windows_at_once

# Pixels, region ids and, where they are those of whole images, features on the similarity grid.
Step = Callable[[Float[Array, "N h w 3"], Int[Array, "N h w"], Array | None], Float[Array, "N L D"]]


class ImageWindows(NamedTuple):
    """The windows of one image.

    Attributes:
      inside: which pixels of the array are the image's; True where all are.
      fits: whether the image has windows at all; False for a size that the array or the cap on windows excludes.
      size, resized: height and width of the image, as it is and resized.
      logits: features of the windows and queries [Q, D] to what `labels.upsample` takes.
      rows, columns: its stitching matrices.
    """

    inside: Bool[Array, "H0 W0"] | bool
    fits: Bool[Array, ""] | bool
    size: Int[Array, "2"]
    resized: Int[Array, "2"]
    logits: Callable[[Array, Array], Array]
    rows: Array | np.ndarray
    columns: Array | np.ndarray


@runtime_checkable
class SlidingWindows(Protocol):
    """The windows of a batch of B images [H0, W0]."""

    def resized(self, count: int) -> Int[Array, "{count} 2"]:
        """Height and width of each of the `count` images, resized."""
        ...

    def fill_outside(self, regions: Int[Array, "B H0 W0"]) -> Int[Array, "B H0 W0"]:
        """Region maps whose pixels outside of the images have an id that is there anyway."""
        ...

    def map(
        self,
        step: Step,
        images: UInt8[Array, "B H0 W0 3"],
        regions: Int[Array, "B H0 W0"],
        whole: WholeImages | None,
    ) -> Array:
        """Features of all windows of all images, [B, ny, nx, gh, gw, D] or [B, n, gh, gw, D]."""
        ...

    def map_images(self, function: Callable[..., Any], *arrays: Any) -> Any:
        """`function(image_windows, *arrays of one image)`, one image after the other; results stacked."""
        ...


def sliding_windows(
    shape: tuple[int, ...], sizes: Int[Array, "B 2"] | None, config: Config
) -> SlidingWindows:
    """The windows of images of a static `shape` (H0, W0), or of images of `sizes` (height, width) padded to it."""
    at_once = windows_at_once(config, device_bytes())
    if sizes is None:
        one = windows.plan_windows(shape[0], shape[1], config.method)
        return _Static(one, similarity_grid(config, (one.y.padded, one.x.padded)), at_once)
    grid = similarity_grid(config, windows_padded.window_shape(shape, config.method))
    plan = windows_padded.plan_padded(sizes, shape, config.method)
    return _Padded(plan, sizes, shape, config.method, grid, at_once)


class _Static(NamedTuple):
    plan: windows.WindowPlan
    grid: tuple[int, int]
    at_once: int

    def resized(self, count: int) -> Int[Array, "{count} 2"]:
        return jnp.broadcast_to(jnp.array([self.plan.y.resized, self.plan.x.resized], jnp.int32), (count, 2))

    def fill_outside(self, regions: Int[Array, "B H0 W0"]) -> Int[Array, "B H0 W0"]:
        return regions

    def map(
        self,
        step: Step,
        images: UInt8[Array, "B H0 W0 3"],
        regions: Int[Array, "B H0 W0"],
        whole: WholeImages | None,
    ) -> Array:
        plan = self.plan
        pixels = jax.vmap(lambda image: windows.cut_image(image, plan))(images)
        ids = jax.vmap(lambda ids: windows.cut_regions(ids, plan))(regions)
        flat = (pixels.reshape(-1, *pixels.shape[2:]), ids.reshape(-1, *ids.shape[2:]))
        numbers = np.divmod(np.arange(len(flat[0])), pixels.shape[1])

        def chunk(batch: tuple[Array, ...]) -> Array:
            similar = None if whole is None else self.cells(whole, *batch[2:])
            return step(batch[0], batch[1], similar)

        features = map_chunks(chunk, (*flat, *map(jnp.asarray, numbers)), self.at_once)
        return features.reshape(len(images), len(plan.y.starts), len(plan.x.starts), *self.grid, -1)

    def cells(self, whole: WholeImages, images: Int[Array, " N"], numbers: Int[Array, " N"]) -> Array:
        """Features [N, gh, gw, C] of windows, by the images' and the windows' numbers."""

        def one(image: Array, number: Array) -> Array:
            places = divide(number, len(self.plan.x.starts))
            rows, columns = (
                cells_of_axis(jnp.array(axis.starts)[place], axis.window, axis.before, axis.padded, cells)
                for axis, place, cells in zip((self.plan.y, self.plan.x), places, self.grid, strict=True)
            )
            return window_cells(whole.image(image), rows, columns)

        return jax.vmap(one)(images, numbers)

    def map_images(self, function: Callable[..., Any], *arrays: Any) -> Any:
        gh, gw = self.grid
        rows, columns = windows.stitch_matrix(self.plan.y, gh), windows.stitch_matrix(self.plan.x, gw)
        axes = (self.plan.y, self.plan.x)
        size, resized = jnp.array([[axis.length for axis in axes], [axis.resized for axis in axes]])
        image = ImageWindows(True, True, size, resized, labels.logit_grid, rows, columns)
        return jax.lax.map(lambda args: function(image, *args), arrays)


class _Padded(NamedTuple):
    plan: windows_padded.PaddedPlan
    sizes: Int[Array, "B 2"]
    shape: tuple[int, ...]
    method: MethodConfig
    grid: tuple[int, int]
    at_once: int

    def resized(self, count: int) -> Int[Array, "{count} 2"]:
        return jnp.stack([self.plan.y.resized, self.plan.x.resized], axis=1)

    def fill_outside(self, regions: Int[Array, "B H0 W0"]) -> Int[Array, "B H0 W0"]:
        inside = jax.vmap(lambda size: masks.inside(self.shape, size))(self.sizes)
        return jnp.where(inside, regions, regions[:, :1, :1])

    def map(
        self,
        step: Step,
        images: UInt8[Array, "B H0 W0 3"],
        regions: Int[Array, "B H0 W0"],
        whole: WholeImages | None,
    ) -> Array:
        def chunk(
            pixels: Array, ids: Array, image: Array, plan: windows_padded.PaddedPlan, index: Array
        ) -> Array:
            similar = None if whole is None else jax.vmap(self._cells)(whole.image(image), plan, index)
            return step(pixels, ids, similar)

        features = windows_padded.map_windows(chunk, images, regions, self.plan, self.method, self.at_once)
        return features.reshape(*features.shape[:2], *self.grid, -1)

    def _cells(self, image: WholeImages, plan: windows_padded.PaddedPlan, index: Int[Array, ""]) -> Array:
        numbers = divide(index, plan.x.windows)
        padded = windows_padded.window_shape(self.shape, self.method)
        rows, columns = (
            cells_of_axis(axis.start(number, self.method), axis.window, axis.before, *sides)
            for axis, number, *sides in zip((plan.y, plan.x), numbers, padded, self.grid, strict=True)
        )
        return window_cells(image, rows, columns)

    def map_images(self, function: Callable[..., Any], *arrays: Any) -> Any:
        def one(args: tuple[Any, ...]) -> Any:
            plan, size, resized, arrays = args
            matrices = windows_padded.stitch_matrices(plan, self.shape, self.grid, self.method)
            inside = masks.inside(self.shape, size)
            image = ImageWindows(inside, plan.fits, size, resized, labels.window_logits, *matrices)
            return function(image, *arrays)

        return jax.lax.map(one, (self.plan, self.sizes, self.resized(len(self.sizes)), arrays))
