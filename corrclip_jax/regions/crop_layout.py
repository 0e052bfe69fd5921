"""The crops that SAM's automatic mask program looks at, and what lies where in them.

Layer 0 is the photo itself, layer i has 2 ** i by 2 ** i overlapping crops. How many crops and points there are is
the same for all photos; where the crops of a photo on a canvas lie is a value.

Shapes: C crops of a layer, N points a crop, T masks.
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
from corrclip_jax.regions.masks import Sides, point_grid

EDGE = 20
"""A mask whose box comes as near as this to a crop's edge, in pixels, is probably cut: it is dropped."""


@dataclass(frozen=True)
class CropLayer:
    """Crops of about one size: `boxes` are (x0, y0, x1, y1) in the photo, ends excluded; `points` a side.

    `canvas` is a height and a width that every crop fits in. Without `sizes` it is that of all but the last crops,
    which are smaller by some pixels.
    """

    boxes: Int[np.ndarray, "C 4"] | Int[Array, "C 4"]
    canvas: tuple[int, int]
    points_per_side: int

    def map(self, function: Callable[[Length, Length, Length, Length], Any]) -> Any:
        """What `function` gives of each crop's (x0, y0, x1, y1), stacked; traced where boxes are values."""
        if isinstance(self.boxes, jax.Array):
            return jax.lax.map(lambda box: function(*box), self.boxes)
        each = [function(*map(int, box)) for box in self.boxes]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)

    def cut(
        self, image: UInt8[Array, "H W 3"], x0: Length, y0: Length, x1: Length, y1: Length
    ) -> tuple[UInt8[Array, "h w 3"], Sides]:
        """A crop of a photo; where its box is a value, on the layer's canvas, and its own height and width."""
        if isinstance(x0, int):
            return image[y0:y1, x0:x1], None
        height, width = self.canvas
        room = jnp.pad(image, ((0, height), (0, width), (0, 0)))  # the canvas may reach beyond the photo's
        return jax.lax.dynamic_slice(room, (y0, x0, 0), (height, width, 3)), jnp.stack([y1 - y0, x1 - x0])


def crop_layers(height: int, width: int, config: RegionConfig, sides: Sides = None) -> list[CropLayer]:
    """The layers of a photo, crops in columns from the left, each from the top.

    `sides` are the height and width of a photo that fills the top left corner of a canvas `height` x `width` only.
    Where it has less pixels a side than crops, some crops have none.

    Raises:
      ValueError: where a layer would have no point, or crops of a photo that fills the canvas no pixel.
    """
    layers = []
    for layer in range(config.crop_layers + 1):
        side = 2**layer
        points = int(config.points_per_side / config.crop_points_downscale**layer)
        if points < 1 or side > min(height, width):
            raise ValueError(
                f"crop layer {layer} of a photo of {height} x {width} has nothing to look at: "
                f"{side} x {side} crops with {points} points a side. config.regions.crop_layers is "
                f"{config.crop_layers}: lower it, or crop_points_downscale, {config.crop_points_downscale}."
            )
        # A table for all sizes, as the published product is one of doubles.
        shares = [config.crop_overlap * n * (2 / side) if layer else 0 for n in range(min(height, width) + 1)]
        overlaps = np.array(shares, np.int32)
        boxes = _boxes(height, width, side, overlaps[min(height, width)])
        # Crops grow with the photo: those of smaller ones fit.
        widths, heights = (boxes[:, 2:] - boxes[:, :2]).max(axis=0)
        if sides is not None:
            boxes = _boxes(sides[0], sides[1], side, jnp.asarray(overlaps)[sides.min()])
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
    """How many masks the program decodes for a photo, all crops together."""
    points = (
        int(config.points_per_side / config.crop_points_downscale**i) for i in range(config.crop_layers + 1)
    )
    return (3 if config.multimask else 1) * sum(4**layer * n**2 for layer, n in enumerate(points))


def layer_points(
    layer: CropLayer, fill: Callable[[Length, Length], tuple[Length, Length]]
) -> Float[Array, "C N 2"]:
    """The points (x, y) in a network's input, of which a crop (height, width) fills `fill` of it."""

    def points(x0: Length, y0: Length, x1: Length, y1: Length) -> Float[Array, "N 2"]:
        height, width = fill(y1 - y0, x1 - x0)
        return jnp.stack([width, height]).astype(jnp.float32) * point_grid(layer.points_per_side, 1)

    return layer.map(points)


def cut_at_edge(
    boxes: Int[Array, "T 4"],
    crops: Int[Array, "T 4"],
    photo: Int[np.ndarray, "4"] | Int[Array, "4"],
) -> Bool[Array, " T"]:
    """Whether boxes (in the photo) come near their crop's edge where that is no edge of the photo, a box too."""
    at_crop = abs(boxes - crops) <= EDGE
    at_photo = abs(boxes - photo) <= EDGE
    return (at_crop & ~at_photo).any(axis=-1)
