"""Multi-scale deformable attention (Deformable DETR): cells attend to a few predicted positions of each map.

The official implementation samples with torch's `grid_sample` (bilinear, zero padding, `align_corners=False`).
Here a sample is four gathers, one for every corner, weighted and added up point by point in a loop: the array of
all samples, by far the largest of the network, never exists.

Shapes: B images, h w sides of a map, L cells of all maps in a row, H heads, D head width, P points, C width.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from corrclip_jax.models.layers import Dense

Sides = Sequence[tuple[int, int]]
"""Height and width of each map."""


def centres(sides: Sides) -> Float[np.ndarray, "L 2"]:
    """The position (x, y) of every cell of all maps, as a share of the maps' width and height."""
    grids = [
        np.stack(np.meshgrid((np.arange(w) + 0.5) / w, (np.arange(h) + 0.5) / h), axis=-1) for h, w in sides
    ]
    return np.concatenate([grid.reshape(-1, 2) for grid in grids]).astype(np.float32)


def sample(
    values: Float[Array, "B h w H D"],
    x: Float[Array, "P B H L"],
    y: Float[Array, "P B H L"],
    weights: Float[Array, "P B H L"],
) -> Float[Array, "B H L D"]:
    """Weighted sum over P of bilinear samples of a map, in float32; beyond its edges the map is zero.

    `x` and `y` are in cells; whole numbers are the cells' centres.
    """
    batch, height, width, heads, _ = values.shape
    cells = jnp.moveaxis(values.reshape(batch, height * width, heads, -1), 2, 1)

    def add(total: Array, point: tuple[Array, Array, Array]) -> tuple[Array, None]:
        x, y, weight = point
        # One cell beyond the edge all is zero: further out is no different, but need not fit whole numbers.
        x, y = jnp.clip(x, -1, width), jnp.clip(y, -1, height)
        left, top = jnp.floor(x), jnp.floor(y)
        for column, row in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            share = jnp.where(inside, weight * (1 - abs(x - column)) * (1 - abs(y - row)), 0)
            index = jnp.where(inside, row * width + column, 0).astype(jnp.int32)
            total += _rows(cells, index).astype(jnp.float32) * share[..., None]
        return total, None

    start = jnp.zeros((*x.shape[1:], values.shape[-1]), jnp.float32)
    return jax.lax.scan(add, start, (x, y, weights))[0]


def _rows(cells: Float[Array, "B H N D"], index: Int[Array, "B H L"]) -> Float[Array, "B H L D"]:
    """The cells at `index`, each head's from its own."""

    def one(own: Array, index: Array) -> Array:
        return own.at[index].get(mode="promise_in_bounds")

    return jax.vmap(jax.vmap(one))(cells, index)


class DeformableAttention(nn.Module):
    """Every cell of all maps attends to `points` positions of each map, predicted as offsets from its own."""

    heads: int
    points: int = 4
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L C"], positions: Float[Array, "L C"], sides: Sides
    ) -> Float[Array, "B L C"]:
        """Cells, the maps of `sides` in a row, to cells; positions are float32 whatever the maps are."""
        batch, length, width = x.shape
        count = len(sides)
        queries = x + positions[None]
        values = Dense(width, dtype=self.dtype, name="value_proj")(x)
        values = values.reshape(batch, length, self.heads, -1)
        shape = (batch, length, self.heads, count * self.points)
        offsets = Dense(2 * shape[2] * shape[3], dtype=self.dtype, name="sampling_offsets")(queries)
        weights = Dense(shape[2] * shape[3], dtype=self.dtype, name="attention_weights")(queries)
        weights = jax.nn.softmax(weights.astype(jnp.float32).reshape(shape))
        # Map by map and point by point, heads before cells.
        weights = weights.reshape(*shape[:3], count, -1).transpose(3, 4, 0, 2, 1)
        offsets = offsets.astype(jnp.float32).reshape(*shape[:3], count, -1, 2).transpose(5, 3, 4, 0, 2, 1)
        own_x, own_y = (axis[None, None, None] for axis in centres(sides).T)
        total, start = jnp.zeros((), jnp.float32), 0
        for level, (height, columns) in enumerate(sides):
            cells = values[:, start : start + height * columns].reshape(
                batch, height, columns, self.heads, -1
            )
            at_x = own_x * columns - 0.5 + offsets[0, level]
            at_y = own_y * height - 0.5 + offsets[1, level]
            total += sample(cells, at_x, at_y, weights[level])
            start += height * columns
        out = jnp.moveaxis(total, 1, 2).reshape(x.shape).astype(self.dtype)
        return Dense(width, dtype=self.dtype, name="output_proj")(out)
