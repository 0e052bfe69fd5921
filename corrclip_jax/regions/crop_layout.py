"""Crops of an image for SAM's automatic mask generator: which there are, where they lie, which points they get.

After `generate_crop_boxes` of `facebookresearch/segment-anything`. Layer 0 is the image itself, layer i has 2 ** i
by 2 ** i overlapping crops. The number of crops and points is the same for all images; where the crops lie is a
traced value for an image in a padded batch.

Shapes: C crops of a layer, N points of a crop, T masks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from corrclip_jax.config import RegionConfig
from corrclip_jax.ops.resize import Length
from corrclip_jax.regions.masks import Size, point_grid

EDGE = 20
"""A mask whose box is within so many pixels of a crop's edge is probably cut off by it and is dropped."""


@dataclass(frozen=True)
class CropLayer:
    """Crops of about one size.

    Attributes:
      boxes: (x0, y0, x1, y1) in the image, ends excluded.
      shape: a static height and width that no crop exceeds. Where boxes are static it is that of all but the last
        crops, which are some pixels smaller.
      points_per_side: points of a crop along one axis.
    """

    boxes: Int[np.ndarray, "C 4"] | Int[Array, "C 4"]
    shape: tuple[int, int]
    points_per_side: int

    def map(self, function: Callable[[Length, Length, Length, Length], Any]) -> Any:
        """Apply `function` to each crop's (x0, y0, x1, y1) and stack the results; traced where boxes are."""
        if isinstance(self.boxes, jax.Array):
            return jax.lax.map(lambda box: function(*box), self.boxes)
        each = [function(*map(int, box)) for box in self.boxes]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)

    def cut(
        self, image: UInt8[Array, "H W 3"], x0: Length, y0: Length, x1: Length, y1: Length
    ) -> tuple[UInt8[Array, "h w 3"], Size]:
        """A crop of an image. A traced box gives an array of `shape` and the crop's true height and width."""
        if isinstance(x0, int):
            return image[y0:y1, x0:x1], None
        height, width = self.shape
        padded = jnp.pad(image, ((0, height), (0, width), (0, 0)))  # the slice may reach beyond the image
        crop = jax.lax.dynamic_slice(padded, (y0, x0, 0), (height, width, 3))
        return crop, jnp.stack([y1 - y0, x1 - x0])


def crop_layers(height: int, width: int, config: RegionConfig, size: Size = None) -> list[CropLayer]:
    """The layers of an image, crops in columns from the left, each from the top.

    Args:
      height: of the array that holds the image.
      width: of the same array.
      config: the number of layers, their overlap and points.
      size: the true height and width of an image in a padded batch, traced. Where it has fewer pixels along an axis
        than crops, some crops are empty.

    Raises:
      ValueError: where a layer would have no point, or a crop of an image that fills the array no pixel.
    """
    layers = []
    for layer in range(config.crop_layers + 1):
        side = 2**layer
        points = int(config.points_per_side / config.crop_points_downscale**layer)
        if points < 1 or side > min(height, width):
            raise ValueError(
                f"crop layer {layer} of a photo of {height} x {width} is empty: "
                f"{side} x {side} crops with {points} points a side. config.regions.crop_layers is "
                f"{config.crop_layers}: lower it, or crop_points_downscale, {config.crop_points_downscale}."
            )
        # A table for all lengths, because the official implementation multiplies in double precision.
        shares = [config.crop_overlap * n * (2 / side) if layer else 0 for n in range(min(height, width) + 1)]
        overlaps = np.array(shares, np.int32)
        boxes = _boxes(height, width, side, overlaps[min(height, width)])
        # Crops grow with the image: those of smaller ones fit.
        widths, heights = (boxes[:, 2:] - boxes[:, :2]).max(axis=0)
        if size is not None:
            boxes = _boxes(size[0], size[1], side, jnp.asarray(overlaps)[size.min()])
        layers.append(CropLayer(boxes, (int(heights), int(widths)), points))
    return layers


def _boxes(height: Length, width: Length, side: int, overlap: Any) -> Any:
    """Boxes [C, 4] of `side` x `side` crops; height, width and overlap may be traced."""
    xp = jnp if isinstance(overlap, jax.Array) else np
    columns, rows = np.divmod(np.arange(side**2, dtype=np.int32), side)
    crop_width, crop_height = (-(-(overlap * (side - 1) + n) // side) for n in (width, height))
    x, y = (crop_width - overlap) * columns, (crop_height - overlap) * rows
    ends = xp.minimum(x + crop_width, width), xp.minimum(y + crop_height, height)
    return xp.stack([x, y, *ends], axis=-1)


def count_masks(config: RegionConfig) -> int:
    """How many masks are decoded for an image, all crops together."""
    points = (
        int(config.points_per_side / config.crop_points_downscale**i) for i in range(config.crop_layers + 1)
    )
    return (3 if config.multimask else 1) * sum(4**layer * n**2 for layer, n in enumerate(points))


def layer_points(
    layer: CropLayer, resized_extent: Callable[[Length, Length], tuple[Length, Length]]
) -> Float[Array, "C N 2"]:
    """The points (x, y) in a network's input, of which a crop covers `resized_extent(height, width)`."""

    def points(x0: Length, y0: Length, x1: Length, y1: Length) -> Float[Array, "N 2"]:
        height, width = resized_extent(y1 - y0, x1 - x0)
        return jnp.stack([width, height]).astype(jnp.float32)[None] * point_grid(layer.points_per_side, 1)

    return layer.map(points)


def cut_at_edge(
    boxes: Int[Array, "T 4"],
    crops: Int[Array, "T 4"],
    image: Int[np.ndarray, "4"] | Int[Array, "4"],
) -> Bool[Array, " T"]:
    """Whether masks are cut off by their crop: near its edge where that is not the image's edge.

    All are boxes (x0, y0, x1, y1) in the image: the masks', their crops' and the image's own.
    """
    at_crop = abs(boxes - crops) <= EDGE
    at_image = abs(boxes - image[None]) <= EDGE
    return (at_crop & ~at_image).any(axis=-1)
