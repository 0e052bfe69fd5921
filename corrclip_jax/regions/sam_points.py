"""Regions of point prompts: points -> SAM 2's masks -> filter, NMS, paint -> a region map (METHOD.md, section 2).

CorrCLIP's own mask generation: one mask per point, no crops; `sam_crops.py` has both. All of it has static shapes
and runs inside jit. Masks exist at the image's size a few at a time, twice: once to measure them, once to paint
those that are kept.

Shapes: N masks (points), m side of the mask logits, H W the image. In a padded batch the image fills the top left
corner of [H, W]: then `size` is its true height and width, a traced value, and no mask reaches beyond it.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from corrclip_jax.config import Config, RegionConfig, with_fields
from corrclip_jax.ops.loops import map_images
from corrclip_jax.regions.masks import Size, mask_facts, paint, point_grid
from corrclip_jax.regions.sam_adapter import decode_points, sam_adapter
from corrclip_jax.runtime.memory import device_bytes, points_at_once


def automatic_regions(
    config: Config,
    sam2_params: Mapping[str, Any],
    images: UInt8[Array, "B H W 3"],
    sizes: Int[Array, "B 2"] | None = None,
) -> Int[Array, "B H W"]:
    """Region maps of images: 0 where nothing was segmented, else 1 to at most `points_per_side ** 2`.

    As `scored_regions`, without the scores.
    """
    return scored_regions(config, sam2_params, images, sizes)[0]


def scored_regions(
    config: Config,
    sam2_params: Mapping[str, Any],
    images: UInt8[Array, "B H W 3"],
    sizes: Int[Array, "B 2"] | None = None,
) -> tuple[Int[Array, "B H W"], Float[Array, "B ids"], Float[Array, "B ids"]]:
    """Region maps of images, and by their ids the masks' predicted IoU and stability (0 for ids without a mask).

    Images are processed one after the other, their points `points_per_chunk` at a time (on CPU one by one); neither
    changes the result.

    Args:
      config: `config.sam2` is the network, `config.regions` has the settings.
      sam2_params: the network's own tree.
      images: RGB, 0..255.
      sizes: true heights and widths of a padded batch; outside of an image its map is 0.

    Raises:
      ValueError: where the configuration has no SAM 2.
    """
    if config.sam2 is None:
        raise ValueError(
            "Automatic regions need a SAM 2. config.sam2 is None: give region maps, or set config.sam2."
        )
    settings = config.regions
    sam = sam_adapter(with_fields(config, regions={"source": "sam2", "multimask": False}), sam2_params)
    points = jnp.asarray(point_grid(settings.points_per_side, config.sam2.image_size))

    def one_image(args: tuple[UInt8[Array, "H W 3"], Size]) -> tuple[Array, Array, Array]:
        image, size = args
        features = sam.encode(sam.preprocess(image[None], size=size))
        context = sam.prepare(jax.tree.map(lambda x: x[0], features))
        logits, iou = decode_points(sam, context, points, points_at_once(config, device_bytes()))
        logits, iou = logits[:, 0], iou[:, 0]
        height, width = image.shape[:2]
        facts = mask_facts(logits, iou, height, width, settings, size)
        by_id = jnp.where(facts.keep, facts.rank, len(iou) + 1)
        quality, stability = (
            jnp.zeros(len(iou) + 1).at[by_id].set(x, mode="drop") for x in (iou, facts.stability)
        )
        return paint(logits, facts, height, width, settings, size), quality, stability

    return map_images(one_image, images, sizes)


def regions_from_logits(
    logits: Float[Array, "N m m"],
    iou: Float[Array, " N"],
    height: int,
    width: int,
    config: RegionConfig,
    size: Size = None,
) -> Int[Array, "{height} {width}"]:
    """Filter masks, drop duplicates and paint the others, the largest last: one image's region map."""
    facts = mask_facts(logits, iou, height, width, config, size)
    return paint(logits, facts, height, width, config, size)
