"""Automatic regions: points -> SAM 2's masks -> filter, NMS, paint -> a region map (METHOD.md, section 2).

All of it has static shapes and runs inside jit. Masks at the photo's size are made a few at a time, twice: once to
measure them, once to paint those that are kept.

Shapes: N masks (points), m side of the mask logits, H W the photo. A photo may fill the top left corner of a canvas
[H, W] only: then its own height and width, `sides`, are values, and nothing outside of it belongs to any mask.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from corrclip_jax import resize
from corrclip_jax.chunks import device_bytes, photo_by_photo, points_at_once
from corrclip_jax.config import Config, RegionConfig
from corrclip_jax.models.sam2 import SAM2, preprocess

_PIXELS_PER_CHUNK = 1 << 23  # what exists at once at the photo's size: 32 MB of logits


Sides = Int[Array, "2"] | None


class MaskFacts(NamedTuple):
    """What is known of each mask at the photo's size.

    `boxes` are (x0, y0, x1, y1) in pixel indices, both ends included, zeros for an empty mask. `stability` is
    area(logit > 1) / area(logit > -1), 0 where both are empty. `rank` is the mask's id in the region map, 1 for
    the smallest, or 0 where it was dropped.
    """

    keep: Bool[Array, " N"]
    rank: Int[Array, " N"]
    areas: Int[Array, " N"]
    boxes: Int[Array, "N 4"]
    stability: Float[Array, " N"]


def point_grid(points_per_side: int, size: int) -> Float[np.ndarray, "N 2"]:
    """Centres (x, y) of an n x n grid over a square of `size` pixels, row by row."""
    ticks = (np.arange(points_per_side) + 0.5) / points_per_side * size
    x, y = np.meshgrid(ticks, ticks)
    return np.stack([x.ravel(), y.ravel()], axis=-1).astype(np.float32)


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

    return photo_by_photo(one_photo, images, sizes)


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


def mask_facts(
    logits: Float[Array, "N m m"],
    iou: Float[Array, " N"],
    height: int,
    width: int,
    config: RegionConfig,
    sides: Sides = None,
) -> MaskFacts:
    """Measure all masks of one photo and decide which are kept and in what order they are painted.

    Kept are masks whose predicted IoU exceeds `iou_threshold` and whose stability is at least
    `stability_threshold`, if `suppress` leaves them. They are ordered by area; among equal areas the one with the
    higher predicted IoU comes first, as the published program sorts what its NMS returns.
    """
    measure = partial(_measure, height=height, width=width, config=config, sides=sides)
    areas, boxes, stability = jax.lax.map(measure, logits, batch_size=_chunk(height, width, len(logits)))
    candidates = (iou > config.iou_threshold) & (stability >= config.stability_threshold)
    return decide(jnp.argsort(-iou, stable=True), candidates, areas, boxes, stability, config)


def decide(
    order: Int[Array, " N"],
    candidates: Bool[Array, " N"],
    areas: Int[Array, " N"],
    boxes: Int[Array, "N 4"],
    stability: Float[Array, " N"],
    config: RegionConfig,
    limit: int | None = None,
) -> MaskFacts:
    """Keep what `suppress` leaves of the candidates, `order` the best first, at most `limit`; rank by area."""
    kept_in_order = suppress(boxes[order], candidates[order], config.nms_threshold)
    if limit is not None:
        kept_in_order &= jnp.cumsum(kept_in_order) <= limit
    keep = jnp.zeros_like(candidates).at[order].set(kept_in_order)
    painted = order[jnp.lexsort((areas[order], ~kept_in_order))]
    rank = jnp.zeros_like(areas).at[painted].set(jnp.arange(1, len(areas) + 1))
    return MaskFacts(keep, jnp.where(keep, rank, 0), areas, boxes, stability)


def suppress(boxes: Int[Array, "N 4"], candidates: Bool[Array, " N"], threshold: float) -> Bool[Array, " N"]:
    """Greedy non-maximum suppression of boxes that come best first; False for those that are no candidates.

    A box is dropped if its IoU with a kept one before it exceeds `threshold`. Areas are (x1 - x0) * (y1 - y0), so
    a single row or column of pixels has none, and two boxes without area (IoU 0 / 0) never drop each other.

    Instead of one box after the other, all are decided at once from the last round's survivors, until nothing
    changes: a decision is final once those before it are, so the result is the greedy one, in as many rounds as
    the longest chain of boxes that drop each other.
    """
    boxes = boxes.astype(jnp.float32)
    low, high = boxes[:, :2], boxes[:, 2:]
    area = jnp.prod(high - low, axis=-1)
    sides = jnp.minimum(high[:, None], high) - jnp.maximum(low[:, None], low)
    shared = jnp.prod(jnp.maximum(sides, 0), axis=-1)
    union = area[:, None] + area - shared
    overlap = shared / jnp.where(union > 0, union, 1)
    drops = jnp.triu((overlap > threshold) & candidates[:, None], k=1)

    def decide(state):
        kept, _ = state
        return candidates & ~jnp.any(drops & kept[:, None], axis=0), kept

    start = decide((candidates, candidates))
    return jax.lax.while_loop(lambda state: jnp.any(state[0] != state[1]), decide, start)[0]


def paint(
    logits: Float[Array, "N m m"],
    facts: MaskFacts,
    height: int,
    width: int,
    config: RegionConfig,
    sides: Sides = None,
) -> Int[Array, "{height} {width}"]:
    """The region map: at each pixel the largest rank among the kept masks that cover it, else 0."""
    count = len(logits)
    chunk = _chunk(height, width, count)
    by_rank = (
        jnp.zeros(count + chunk, jnp.int32)
        .at[jnp.where(facts.keep, facts.rank - 1, count)]
        .set(jnp.arange(count))
    )
    kept = facts.keep.sum()
    enlarge = partial(_enlarge, height=height, width=width, sides=sides)

    def paint_chunk(i, canvas):
        indices = jax.lax.dynamic_slice(by_rank, (i * chunk,), (chunk,))
        ranks = i * chunk + 1 + jnp.arange(chunk)
        full = jax.vmap(enlarge)(logits[indices])
        covered = (full > config.mask_threshold) & (ranks <= kept)[:, None, None]
        return jnp.maximum(canvas, jnp.where(covered, ranks[:, None, None], 0).max(axis=0))

    # As many rounds as there are kept masks to paint: a loop whose length depends on the data, not its shapes.
    canvas = jnp.zeros((height, width), jnp.int32)
    return jax.lax.fori_loop(0, -(-kept // chunk), paint_chunk, canvas)


def _chunk(height: int, width: int, count: int) -> int:
    return max(1, min(count, _PIXELS_PER_CHUNK // (height * width)))


def _enlarge(
    logits: Float[Array, "m m"], height: int, width: int, sides: Sides
) -> Float[Array, "{height} {width}"]:
    """Logits at the photo's size; outside of the photo they are minus infinity."""
    # Full precision: a GPU's TF32 would move the outlines.
    with jax.default_matmul_precision("highest"):
        if sides is None:
            rows, columns = (
                resize.bilinear_matrix(*n) for n in zip(logits.shape, (height, width), strict=True)
            )
            return jnp.asarray(rows) @ logits @ jnp.asarray(columns).T
        rows, columns = (
            resize.bilinear_rows(np.arange(canvas), n, side)
            for n, canvas, side in zip(logits.shape, (height, width), sides, strict=True)
        )
        full = rows @ logits @ columns.T
    within = (np.arange(height) < sides[0])[:, None] & (np.arange(width) < sides[1])
    return jnp.where(within, full, -jnp.inf)


def _measure(
    logits: Float[Array, "m m"], height: int, width: int, config: RegionConfig, sides: Sides
) -> tuple[Int[Array, ""], Int[Array, "4"], Float[Array, ""]]:
    return measure(_enlarge(logits, height, width, sides), config)


def measure(
    full: Float[Array, "H W"], config: RegionConfig
) -> tuple[Int[Array, ""], Int[Array, "4"], Float[Array, ""]]:
    """Area, box and stability of one mask from its logits at the photo's size."""
    mask = full > config.mask_threshold
    inner = jnp.sum(full > config.mask_threshold + config.stability_offset)
    outer = jnp.sum(full > config.mask_threshold - config.stability_offset)
    stability = inner / jnp.maximum(outer, 1)
    return jnp.sum(mask), box_of(mask), stability.astype(jnp.float32)


def box_of(mask: Bool[Array, "H W"]) -> Int[Array, "4"]:
    """The tight box (x0, y0, x1, y1) of a mask, both ends included; zeros for an empty mask."""
    x0, x1 = _extent(mask.any(axis=0))
    y0, y1 = _extent(mask.any(axis=1))
    return jnp.stack([x0, y0, x1, y1])


def _extent(hits: Bool[Array, " n"]) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """First and last index that is True; zeros where none is."""
    return jnp.argmax(hits), jnp.where(hits.any(), len(hits) - 1 - jnp.argmax(hits[::-1]), 0)
