"""Dense features of a whole image, read where windows and regions need them (METHOD.md, section 9).

The backbone sees an image once. Its features, resized to every pixel of the resized image and brought to unit
length there, never exist: a window's similarity grid reads two pixels per cell and axis; a region's sum over pixels
is one over patches, for the length of a mix of four patches follows from their inner products.
Shapes: B images [H0, W0], resized to [H, W]; (fh, fw) patches of an image in an array [Fh, Fw] for all; (h, w)
padded window, (gh, gw) similarity grid, C width, R regions.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from corrclip_jax.config import Config
from corrclip_jax.method.correlation import normalise
from corrclip_jax.method.similarity import dense_features, feature_grid, padded_grid
from corrclip_jax.ops import resize
from corrclip_jax.ops.integers import divide, quotient_up
from corrclip_jax.ops.masks import inside
from corrclip_jax.runtime.memory import device_bytes, images_at_once

# The block of pixels whose regions are summed together.
_ROWS, _COLUMNS = 64, 256


class WholeImages(NamedTuple):
    """Features of whole images; lengths are values, so that images of one size and of several are treated alike.

    Attributes:
      features: not normalised; zero beyond `grids`.
      grids: rows and columns of patches of each image.
      sizes, resized: height and width of each image, as it is and resized.
    """

    features: Float[Array, "*B Fh Fw C"]
    grids: Int[Array, "*B 2"]
    sizes: Int[Array, "*B 2"]
    resized: Int[Array, "*B 2"]

    def image(self, index: Any) -> "WholeImages":
        """One image, or those of an array of indices."""
        return jax.tree.map(lambda x: x[index], self)


def whole_images(
    config: Config,
    params: dict,
    images: UInt8[Array, "B H0 W0 3"],
    sizes: Int[Array, "B 2"] | None,
    resized: Int[Array, "B 2"],
) -> WholeImages:
    """Features of images that fill their arrays, or of images of `sizes` (height, width) padded to them.

    `resized` are the sides of the resized images.
    """
    patches = math.prod(padded_grid(config, images.shape[1:3]))
    at_once = images_at_once(config, patches, device_bytes())
    features = dense_features(config, params, images, sizes, at_once)
    if sizes is None:
        sizes = jnp.broadcast_to(jnp.array(images.shape[1:3], jnp.int32), (len(images), 2))
    grids = jax.vmap(lambda size: jnp.stack(feature_grid(config, size)))(sizes)
    own = jax.vmap(lambda grid: inside(features.shape[1:3], grid))(grids)
    # What lies beyond may be NaN, and 0 times NaN is no 0.
    return WholeImages(jnp.where(own[..., None], features, 0.0), grids, sizes, resized)


class Cells(NamedTuple):
    """Where one window's similarity grid reads an axis of the resized image.

    Attributes:
      pixels: the two pixels of each cell, the first ones of all cells before the second ones.
      weight: of the second pixels.
    """

    pixels: Int[Array, " 2*g"]
    weight: Float[np.ndarray, " g"]


def cells_of_axis(start: Any, window: Any, before: Any, padded: int, grid: int) -> Cells:
    """The `grid` cells of a window along one axis.

    Args:
      start: where the window begins, in pixels of the resized image.
      window: its length without padding.
      before: the padding before it; features are padded by repeating their edge.
      padded: its length with padding.
      grid: the number of cells.
    """
    low, high, weight = resize.linear_taps(np.arange(grid), padded, grid)
    offset = jnp.clip(np.concatenate([low, high]) - before, 0, window - 1)
    return Cells(start + offset, weight)


def window_cells(image: WholeImages, rows: Cells, columns: Cells) -> Float[Array, "gh gw C"]:
    """Unit-length features of the similarity grid of one image's window."""
    taps = (rows, columns)
    matrices = [
        resize.bilinear_rows(one.pixels, image.grids[axis], image.resized[axis], image.features.shape[axis])
        for axis, one in enumerate(taps)
    ]
    # One product per axis with all else as its columns, which on CPUs is several times faster than many small ones.
    fh, fw, width = image.features.shape
    pixels = (matrices[0] @ image.features.reshape(fh, -1)).reshape(-1, fw, width).swapaxes(0, 1)
    pixels = normalise((matrices[1] @ pixels.reshape(fw, -1)).reshape(len(matrices[1]), -1, width))
    for one, axis in zip(taps, (1, 0), strict=True):
        first, second = jnp.split(pixels, 2, axis=axis)
        weight = jnp.expand_dims(one.weight, (1 - axis, 2))
        pixels = first * (1 - weight) + second * weight
    return normalise(pixels).swapaxes(0, 1)


def region_means(
    image: WholeImages, regions: Int[Array, "H0 W0"], cap: int
) -> tuple[Float[Array, "cap C"], Bool[Array, " cap"]]:
    """Mean of the unit-length features of each region's pixels (shorter than 1), and which regions there are.

    Args:
      image: one image's features; the pixels are those of the resized image.
      regions: ids below `cap`, at the image's own size. A region that the nearest resize loses is not there.
      cap: a bound on the ids; others are left out.
    """
    height, width = image.resized
    down, across = quotient_up(height, _ROWS), quotient_up(width, _COLUMNS)
    products = _neighbour_products(image)

    def add(index: Int[Array, ""], sums: tuple[Array, Array]) -> tuple[Array, Array]:
        row, column = divide(index, across)
        rows, columns = row * _ROWS + np.arange(_ROWS), column * _COLUMNS + np.arange(_COLUMNS)
        row_of, column_of = (
            resize.nearest_at(pixels, image.sizes[axis], image.resized[axis])
            for axis, pixels in enumerate((rows, columns))
        )
        ids = regions[row_of][:, column_of]
        ids = jnp.where((rows < height)[:, None] & (columns < width)[None], ids, cap)
        patches, shares = _patch_shares(image, products, rows, columns)
        shares, count = sums[0].at[ids[..., None], patches].add(shares, mode="drop"), sums[1]
        return shares, count.at[ids].add(1, mode="drop")

    patches = image.features.reshape(-1, image.features.shape[-1])
    nothing = jnp.zeros((cap, len(patches)), jnp.float32), jnp.zeros(cap, jnp.int32)
    shares, count = jax.lax.fori_loop(0, down * across, add, nothing)
    return shares @ patches / jnp.maximum(count, 1).astype(jnp.float32)[:, None], count > 0


class _Products(NamedTuple):
    """Inner products of each patch's features with its own and its neighbours', clamped at the edges.

    `crossed` are those of the right neighbour with the lower one.
    """

    own: Float[Array, "Fh Fw"]
    right: Float[Array, "Fh Fw"]
    lower: Float[Array, "Fh Fw"]
    diagonal: Float[Array, "Fh Fw"]
    crossed: Float[Array, "Fh Fw"]


def _neighbour_products(image: WholeImages) -> _Products:
    x = image.features
    below, beside = (jnp.minimum(np.arange(x.shape[axis]) + 1, image.grids[axis] - 1) for axis in (0, 1))
    right, lower = x[:, beside], x[below]
    pairs = ((x, x), (x, right), (x, lower), (x, lower[:, beside]), (right, lower))
    return _Products(*((one * other).sum(axis=-1) for one, other in pairs))


def _patch_shares(
    image: WholeImages, products: _Products, rows: Int[Array, " h"], columns: Int[Array, " w"]
) -> tuple[Int[Array, "h w 4"], Float[Array, "h w 4"]]:
    """The four patches of each pixel, by number, and how much of each its unit-length features are."""
    (top, bottom, lower), (left, right, beyond) = (
        resize.linear_taps(pixels, image.grids[axis], image.resized[axis])
        for axis, pixels in enumerate((rows, columns))
    )
    shares = [down[:, None] * across[None] for down in (1 - lower, lower) for across in (1 - beyond, beyond)]
    a, b, c, d = shares
    own, to_right, to_lower, diagonal, crossed = (lambda i, j, x=x: x[i][:, j] for x in products)
    square = (
        a * a * own(top, left) + b * b * own(top, right) + c * c * own(bottom, left) + d * d * own(bottom, right)
    ) + 2 * (
        a * b * to_right(top, left) + c * d * to_right(bottom, left)
        + a * c * to_lower(top, left) + b * d * to_lower(top, right)
        + a * d * diagonal(top, left) + b * c * crossed(top, left)
    )  # fmt: skip
    length = jnp.maximum(jnp.sqrt(jnp.maximum(square, 0)), 1e-12)
    across = image.features.shape[1]
    patches = [row[:, None] * across + column[None] for row in (top, bottom) for column in (left, right)]
    return jnp.stack(patches, axis=-1), jnp.stack(shares, axis=-1) / length[..., None]
