"""The crops that SAM's automatic mask program looks at, as static plans, and what lies where in them.

Layer 0 is the photo itself, layer i has 2 ** i by 2 ** i overlapping crops.

Shapes: C crops of a layer, N points a crop, T masks.
"""

import math
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from corrclip_jax.config import RegionConfig
from corrclip_jax.regions import point_grid
from corrclip_jax.resize import Length

EDGE = 20
"""A mask whose box comes as near as this to a crop's edge, in pixels, is probably cut: it is dropped."""


@dataclass(frozen=True)
class CropLayer:
    """Crops of about one size: `boxes` are (x0, y0, x1, y1) in the photo, ends excluded; `points` a side."""

    boxes: Int[np.ndarray, "C 4"]
    points_per_side: int

    @property
    def canvas(self) -> tuple[int, int]:
        """Height and width that every crop of the layer fits in; only the last ones are smaller, by some pixels."""
        widths, heights = (self.boxes[:, 2:] - self.boxes[:, :2]).max(axis=0)
        return int(heights), int(widths)


def crop_layers(height: int, width: int, config: RegionConfig) -> list[CropLayer]:
    """The layers of a photo, crops in columns from the left, each from the top.

    Raises:
      ValueError: where a layer would have no point, or crops without a pixel.
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
        overlap = int(config.crop_overlap * min(height, width) * (2 / side)) if layer else 0
        crop_width, crop_height = (math.ceil((overlap * (side - 1) + n) / side) for n in (width, height))
        corners = [
            ((crop_width - overlap) * i, (crop_height - overlap) * j)
            for i in range(side)
            for j in range(side)
        ]
        boxes = [(x, y, min(x + crop_width, width), min(y + crop_height, height)) for x, y in corners]
        layers.append(CropLayer(np.array(boxes, np.int32), points))
    return layers


def count_masks(config: RegionConfig) -> int:
    """How many masks the program decodes for a photo, all crops together."""
    points = (
        int(config.points_per_side / config.crop_points_downscale**i) for i in range(config.crop_layers + 1)
    )
    return (3 if config.multimask else 1) * sum(4**layer * n**2 for layer, n in enumerate(points))


def layer_points(layer: CropLayer, fills: list[tuple[Length, Length]]) -> Float[Array, "C N 2"]:
    """The points (x, y) in a network's input; `fills` are the height and width of it that each crop fills."""
    unit = point_grid(layer.points_per_side, 1)
    return jnp.stack([unit * jnp.stack([width, height]).astype(jnp.float32) for height, width in fills])


def cut_at_edge(
    boxes: Int[Array, "T 4"], crops: Int[Array, "T 4"], height: int, width: int
) -> Bool[Array, " T"]:
    """Whether boxes (in the photo) come near their crop's edge where that is no edge of the photo."""
    at_crop = abs(boxes - crops) <= EDGE
    at_photo = abs(boxes - np.array([0, 0, width, height], np.int32)) <= EDGE
    return (at_crop & ~at_photo).any(axis=-1)
