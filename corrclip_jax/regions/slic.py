"""SLIC superpixels on the device, without weights: k-means of colour and position, then one component per cluster.

After Achanta et al., "SLIC Superpixels Compared to State-of-the-art Superpixel Methods" (2012): clusters start as
the cells of a grid, a pixel is assigned to the nearest of the nine clusters around its cell, and compactness m
weighs position against CIELAB colour, `|colour|^2 + (m / S)^2 |position|^2` with S the side of a cell. Unlike
there, a cluster starts from the mean of its cell; islands and tiny clusters are merged pixel by pixel into the
neighbouring superpixel that is nearest in colour, so that every superpixel is connected and there are at most as
many as requested.

Everything is a matrix product, a stencil or a minimum, so that results do not depend on the order of threads.
Shapes: H W the image (in a padded batch with its padding), K superpixels, P the most pixels of a cell.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from corrclip_jax.config import SLICConfig
from corrclip_jax.ops.masks import inside
from corrclip_jax.regions.components import components, shifted

# A cell's neighbours, itself first: pixels as near to two centres stay where they are.
_AROUND = np.array(sorted(np.ndindex(3, 3), key=lambda at: (abs(at[0] - 1) + abs(at[1] - 1), at))) - 1
_SMALL = 1 / 16  # of a cell: smaller components are merged
_COLOURS = 3
_FAR = 1e30  # the squared distance of a centre that does not exist


class _Grid(NamedTuple):
    """The cells of an image: `ny` x `nx` of `sy` x `sx` pixels, the last ones smaller."""

    height: Int[Array, ""]
    width: Int[Array, ""]
    ny: Int[Array, ""]
    nx: Int[Array, ""]
    sy: Int[Array, ""]
    sx: Int[Array, ""]


def superpixels(
    config: SLICConfig, images: UInt8[Array, "B H W 3"], sizes: Int[Array, "B 2"] | None = None
) -> Int[Array, "B H W"]:
    """Superpixels 1, 2 ... (at most `config.segments`) of each image, every one connected; 0 outside of `sizes`.

    Args:
      config: the number of superpixels, their compactness, the iterations of k-means.
      images: RGB, 0..255.
      sizes: true heights and widths of a padded batch; results are those of the images without padding.
    """
    batch, height, width = images.shape[:3]
    if sizes is None:
        sizes = jnp.broadcast_to(jnp.array([height, width], jnp.int32), (batch, 2))
    # Images of size 0 fill up a batch: they must not divide by zero.
    sizes = jnp.maximum(sizes.astype(jnp.int32), 1)
    one = partial(_one_image, config)
    with jax.default_matmul_precision("highest"):
        # One image keeps a CPU busy and fits in its caches.
        return jax.lax.platform_dependent(
            (images, sizes), cpu=partial(jax.lax.map, one), default=jax.vmap(one)
        )


@partial(jax.jit, static_argnums=0)  # traced once for both ways to go through a batch
def _one_image(config: SLICConfig, args: tuple[UInt8[Array, "H W 3"], Int[Array, "2"]]) -> Int[Array, "H W"]:
    image, size = args
    height, width = image.shape[:2]
    grid = _plan(size, (height, width), config.segments, config.side)
    lab = cielab(image)
    most = max(_side(height, width, config.segments), config.side or 1) ** 2
    found = _cluster(config, lab, grid, most)
    within = inside((height, width), (grid.height, grid.width))
    return _connect(jnp.where(within, found, 0), lab, grid, config.segments)


def cielab(image: UInt8[Array, "*batch H W 3"]) -> Float[Array, "*batch H W 3"]:
    """sRGB 0..255 to CIELAB (white point D65), L 0..100."""
    levels = np.arange(256) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]]
    )
    white = np.array([0.95047, 1.0, 1.08883])
    rgb = jnp.asarray(linear, jnp.float32)[image.astype(jnp.int32)]
    xyz = jnp.einsum("...c,xc->...x", rgb, jnp.asarray(to_xyz / white[:, None], jnp.float32))
    f = jnp.where(xyz > 0.008856, jnp.exp(jnp.log(jnp.maximum(xyz, 1e-3)) / 3), 7.787 * xyz + 16 / 116)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return jnp.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def _side(height: int, width: int, segments: int) -> int:
    """The smallest side of square cells of which at most `segments` cover height x width."""
    low = int(np.sqrt(height * width / segments))
    sides = range(max(low, 1), max(height, width) + 1)
    return next(side for side in sides if -(-height // side) * -(-width // side) <= segments)


def _plan(size: Int[Array, "2"], shape: tuple[int, int], segments: int, least: int | None) -> _Grid:
    """The grid of an image of a traced size in an array of `shape`.

    Its cells are as in `_side` and evened out by axis; or squares with a side of at least `least`.
    """
    height, width = size
    sides = jnp.arange(least or 1, max(_side(*shape, segments), least or 1) + 1)
    fits = (-(-height // sides)) * (-(-width // sides)) <= segments  # a smaller image has smaller cells
    side = sides[jnp.argmax(fits)]
    ny, nx = -(-height // side), -(-width // side)
    sy, sx = (side, side) if least else (-(-height // ny), -(-width // nx))
    return _Grid(height, width, -(-height // sy), -(-width // sx), sy, sx)


def _cluster(config: SLICConfig, lab: Float[Array, "H W 3"], grid: _Grid, most: int) -> Int[Array, "H W"]:
    """The superpixel, 1 .. K, that each pixel is nearest to."""
    cells, pixels = jnp.arange(config.segments), jnp.arange(most)
    row, column = (cells // grid.nx)[:, None], (cells % grid.nx)[:, None]
    dy, dx = (pixels // grid.sx)[None], (pixels % grid.sx)[None]
    y, x = row * grid.sy + dy, column * grid.sx + dx
    real = (dy < grid.sy) & (y < grid.height) & (x < grid.width)
    flat = jnp.where(real, y * lab.shape[1] + x, 0)
    weight = config.compactness * jnp.sqrt(grid.ny * grid.nx / (grid.height * grid.width))
    if config.side:  # that of whole cells, however much of the last ones lies in the image
        weight = config.compactness / grid.sy.astype(jnp.float32)

    # Features of every cell's pixels [K, 6, P]: colour, position within the cell, one.
    colour = jnp.moveaxis(lab, -1, 0).reshape(_COLOURS, -1)[:, flat]
    position = jnp.broadcast_to(weight * jnp.stack([dy, dx]).astype(jnp.float32), (2, *flat.shape))
    features = jnp.concatenate([colour, position, jnp.ones((1, *flat.shape))])
    features = features * real.astype(jnp.float32)[None]
    features = jnp.swapaxes(features, 0, 1)

    near_row, near_column = row + _AROUND[None, :, 0], column + _AROUND[None, :, 1]
    there = (near_row >= 0) & (near_row < grid.ny) & (near_column >= 0) & (near_column < grid.nx)
    near = jnp.where(there, near_row * grid.nx + near_column, config.segments)
    # From the corner of each neighbouring cell to the cell's own.
    extent = jnp.stack([grid.sy, grid.sx]).astype(jnp.float32)
    shift = weight * _AROUND[None].astype(np.float32) * extent[None, None]

    def distances(centres: Float[Array, "K1 5"]) -> Float[Array, "K 9 P"]:
        """Squared distances from the centres around, without the term that all of them share."""
        around = centres[near].at[..., _COLOURS:].add(shift)
        weights = jnp.concatenate([-2 * around, jnp.sum(around**2, axis=-1, keepdims=True)], axis=-1)
        weights = jnp.where(there[..., None], weights, jnp.array([[[0, 0, 0, 0, 0, _FAR]]]))
        return jnp.einsum("kcf,kfp->kcp", weights, features)

    def move(sums: Float[Array, "K 9 6"], centres: Float[Array, "K1 5"]) -> Float[Array, "K1 5"]:
        """The means of the pixels assigned to each centre; a centre without pixels stays."""
        sums = sums.at[..., _COLOURS:5].add(-shift * sums[..., 5:])
        total = jnp.zeros((config.segments + 1, 6))
        for around in range(len(_AROUND)):
            total = total.at[near[:, around]].add(sums[:, around])
        return jnp.where(total[:, 5:] > 0, total[:, :5] / jnp.maximum(total[:, 5:], 1), centres)

    def step(_: Any, centres: Float[Array, "K1 5"]) -> Float[Array, "K1 5"]:
        d = distances(centres)
        nearest = (d <= d.min(axis=1, keepdims=True)).astype(jnp.float32)
        return move(jnp.einsum("kcp,kfp->kcf", nearest, features), centres)

    start = jnp.zeros((config.segments, len(_AROUND), 6)).at[:, 0].set(features.sum(axis=-1))
    centres = move(start, jnp.zeros((config.segments + 1, 5)))
    centres = jax.lax.fori_loop(0, config.iterations, step, centres)
    nearest = jnp.take_along_axis(near, distances(centres).argmin(axis=1), axis=1) + 1
    rows, columns = jnp.arange(lab.shape[0])[:, None], jnp.arange(lab.shape[1])[None]
    cell = jnp.minimum(rows // grid.sy * grid.nx + columns // grid.sx, config.segments - 1)
    within = jnp.minimum(rows % grid.sy * grid.sx + columns % grid.sx, most - 1)
    return nearest[cell, within]


def _connect(
    labels: Int[Array, "H W"], lab: Float[Array, "H W 3"], grid: _Grid, segments: int
) -> Int[Array, "H W"]:
    """One connected component per cluster, its largest, unless it is small; ids 1 .. n without a gap.

    The other pixels are merged into their neighbours from the outside in, each into the one nearest in colour.
    """
    pieces = components(labels, 4).ravel()
    area = jnp.zeros(labels.size + 1, jnp.int32).at[pieces].add(1)[pieces]
    cluster = labels.ravel()
    largest = jnp.zeros(segments + 1, jnp.int32).at[cluster].max(area)
    first = jnp.where(area == largest[cluster], pieces, labels.size)
    main = jnp.full(segments + 1, labels.size, jnp.int32).at[cluster].min(first)
    small = area.astype(jnp.float32) < _SMALL * (grid.sy * grid.sx).astype(jnp.float32)
    overall = jnp.max(largest.at[0].set(0))
    keep = (pieces == main[cluster]) & (~small | (area == overall)) & (cluster > 0)
    present = jnp.zeros(segments + 1, jnp.int32).at[jnp.where(keep, cluster, 0)].set(1).at[0].set(0)
    ids = jnp.cumsum(present) * present
    kept = jnp.where(keep, ids[cluster], 0).reshape(labels.shape)
    return _fill(kept, labels > 0, lab)


def _fill(
    ids: Int[Array, "H W"], within: Bool[Array, "H W"], lab: Float[Array, "H W 3"]
) -> Int[Array, "H W"]:
    """Give pixels inside the image without an id that of the neighbour nearest in colour, until all have one."""
    steps = [jnp.sum((near - lab) ** 2, axis=-1) for near in shifted(lab, 4, 0)]

    def grow(ids: Int[Array, "H W"]) -> Int[Array, "H W"]:
        chosen, least = ids, jnp.full(ids.shape, jnp.inf)
        for step, near in zip(steps, shifted(ids, 4, 0), strict=True):
            nearer = (near > 0) & (step < least)
            chosen, least = jnp.where(nearer, near, chosen), jnp.where(nearer, step, least)
        return jnp.where(within & (ids == 0), chosen, ids)

    return jax.lax.while_loop(lambda ids: jnp.any(within & (ids == 0)), grow, ids)
