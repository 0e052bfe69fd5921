"""Automatic regions: points -> SAM 2's masks -> filter, NMS, paint -> a region map (METHOD.md, section 2).

All of it has static shapes and runs inside jit. Masks at the photo's size are made a few at a time, twice: once to
measure them, once to paint those that are kept.

Shapes: N masks (points), m side of the mask logits, H W the photo. A photo may fill the top left corner of a canvas
[H, W] only: then its own height and width, `sides`, are values, and nothing outside of it belongs to any mask.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from corrclip_jax.config import Config, RegionConfig
from corrclip_jax.models.sam.sam2 import SAM2, preprocess
from corrclip_jax.ops.loops import map_images
from corrclip_jax.regions.masks import Sides, mask_facts, paint, point_grid
from corrclip_jax.runtime.memory import device_bytes, points_at_once


def automatic_regions(
    config: Config,
    sam2_params: dict,
    images: UInt8[Array, "B H W 3"],
    sizes: Int[Array, "B 2"] | None = None,
) -> Int[Array, "B H W"]:
    """Region maps of photos: 0 where nothing was segmented, else 1 to at most `points_per_side ** 2`.

    As `scored_regions`, without the scores.
    """
    return scored_regions(config, sam2_params, images, sizes)[0]


def scored_regions(
    config: Config,
    sam2_params: dict,
    images: UInt8[Array, "B H W 3"],
    sizes: Int[Array, "B 2"] | None = None,
) -> tuple[Int[Array, "B H W"], Float[Array, "B ids"], Float[Array, "B ids"]]:
    """Region maps of photos, and by their ids the masks' predicted IoU and stability (id 0 and others: 0).

    `sizes` are the height and width of photos on one canvas; outside of a photo its map is 0.

    Photos are worked through one after the other, their points `points_per_chunk` at a time (on CPU one by one);
    neither changes the result.

    Raises:
      ValueError: where the configuration has no SAM 2.
    """
    if config.sam2 is None:
        raise ValueError("Automatic regions want a SAM 2. config.sam2 is None: give region maps, or set it.")
    size, settings = config.sam2.image_size, config.regions
    apply: Callable[..., Any] = partial(
        SAM2(config.sam2, jnp.dtype(config.dtype)).apply, {"params": sam2_params}
    )
    points = jnp.asarray(point_grid(settings.points_per_side, size))

    def one_photo(args: tuple[UInt8[Array, "H W 3"], Sides]) -> tuple[Array, Array, Array]:
        image, sides = args
        features = apply(preprocess(image[None], size, sides), method="encode")
        context = apply(jax.tree.map(lambda x: x[0], features), method="prepare")

        def one_point(point: Float[Array, "2"]) -> tuple[Float[Array, "m m"], Float[Array, ""]]:
            logits, iou = apply(context, point[None, None], jnp.ones((1, 1), jnp.int32), method="decode")
            return logits[0, 0], iou[0, 0]

        # A CPU's caches hold what the decoder makes of one point, 4 MB a map.
        logits, iou = jax.lax.platform_dependent(
            points,
            cpu=partial(jax.lax.map, one_point),
            default=partial(jax.lax.map, one_point, batch_size=points_at_once(config, device_bytes())),
        )
        height, width = image.shape[:2]
        facts = mask_facts(logits, iou, height, width, settings, sides)
        by_id = jnp.where(facts.keep, facts.rank, len(iou) + 1)
        quality, stability = (
            jnp.zeros(len(iou) + 1).at[by_id].set(x, mode="drop") for x in (iou, facts.stability)
        )
        return paint(logits, facts, height, width, settings, sides), quality, stability

    return map_images(one_photo, images, sizes)


def regions_from_logits(
    logits: Float[Array, "N m m"],
    iou: Float[Array, " N"],
    height: int,
    width: int,
    config: RegionConfig,
    sides: Sides = None,
) -> Int[Array, "{height} {width}"]:
    """Filter masks, drop duplicates and paint the rest, the largest last: one photo's region map."""
    facts = mask_facts(logits, iou, height, width, config, sides)
    return paint(logits, facts, height, width, config, sides)
