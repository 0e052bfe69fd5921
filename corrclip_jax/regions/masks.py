"""Mask logits to a region map: filter, non-maximum suppression, painting (METHOD.md, section 2)."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from corrclip_jax.config import RegionConfig
from corrclip_jax.ops import resize
from corrclip_jax.ops.integers import quotient_up
from corrclip_jax.ops.masks import inside
from corrclip_jax.runtime.memory import even_part

PIXELS_PER_CHUNK = 1 << 23  # what exists at once at the image's size: 32 MB of logits


Size = Int[Array, "2"] | None


class MaskFacts(NamedTuple):
    """Measures of each mask at the image's size.

    `boxes` are (x0, y0, x1, y1) in pixel indices, both ends included, zeros for an empty mask. `stability` is
    area(logit > 1) / area(logit > -1), 0 where both are empty. `rank` is the mask's id in the region map, 1 for
    the smallest, or 0 where it was dropped.
    """

    keep: Bool[Array, " N"]
    rank: Int[Array, " N"]
    areas: Int[Array, " N"]
    boxes: Int[Array, "N 4"]
    stability: Float[Array, " N"]


def point_grid(points_per_side: int, length: int) -> Float[np.ndarray, "N 2"]:
    """Centres (x, y) of an n x n grid over a square of `length` pixels, row by row."""
    ticks = (np.arange(points_per_side) + 0.5) / points_per_side * length
    x, y = np.meshgrid(ticks, ticks)
    return np.stack([x.ravel(), y.ravel()], axis=-1).astype(np.float32)


def mask_facts(
    logits: Float[Array, "N m m"],
    iou: Float[Array, " N"],
    height: int,
    width: int,
    config: RegionConfig,
    size: Size = None,
) -> MaskFacts:
    """Measure all masks of one image and decide which are kept and in what order they are painted.

    Kept are masks whose predicted IoU exceeds `iou_threshold` and whose stability is at least
    `stability_threshold`, if `suppress` leaves them. They are ordered by area; among equal areas the one with the
    higher predicted IoU comes first, as the official implementation sorts the result of its NMS.
    """
    measure = partial(_measure, height=height, width=width, config=config, size=size)
    areas, boxes, stability = jax.lax.map(
        measure, logits, batch_size=masks_at_once(height, width, len(logits))
    )
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
    extents = jnp.minimum(high[:, None], high[None]) - jnp.maximum(low[:, None], low[None])
    shared = jnp.prod(jnp.maximum(extents, 0), axis=-1)
    union = area[:, None] + area[None] - shared
    overlap = shared / jnp.where(union > 0, union, 1)
    drops = jnp.triu((overlap > threshold) & candidates[:, None], k=1)

    def decide(state: tuple[Array, Array]) -> tuple[Array, Array]:
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
    size: Size = None,
) -> Int[Array, "{height} {width}"]:
    """The region map: at each pixel the largest rank among the kept masks that cover it, else 0."""
    count = len(logits)
    chunk = masks_at_once(height, width, count)
    by_rank = (
        jnp.zeros(count + chunk, jnp.int32)
        .at[jnp.where(facts.keep, facts.rank - 1, count)]
        .set(jnp.arange(count))
    )
    kept = facts.keep.sum()
    enlarge = partial(_enlarge, height=height, width=width, size=size)

    def paint_chunk(i: Any, regions: Int[Array, "H W"]) -> Int[Array, "H W"]:
        indices = jax.lax.dynamic_slice(by_rank, (i * chunk,), (chunk,))
        ranks = i * chunk + 1 + jnp.arange(chunk)
        full = jax.vmap(enlarge)(logits[indices])
        covered = (full > config.mask_threshold) & (ranks <= kept)[:, None, None]
        return jnp.maximum(regions, jnp.where(covered, ranks[:, None, None], 0).max(axis=0))

    # As many rounds as there are kept masks to paint: a loop whose length depends on the data, not its shapes.
    unsegmented = jnp.zeros((height, width), jnp.int32)
    return jax.lax.fori_loop(0, quotient_up(kept, chunk), paint_chunk, unsegmented)


def masks_at_once(height: int, width: int, count: int) -> int:
    """How many of `count` masks exist at once, preferably a divisor: a remainder would be compiled separately."""
    return even_part(max(1, min(count, PIXELS_PER_CHUNK // (height * width))), count)


def _enlarge(
    logits: Float[Array, "m m"], height: int, width: int, size: Size
) -> Float[Array, "{height} {width}"]:
    """Logits at the image's size; outside of the image they are minus infinity."""
    # Full precision: a GPU's TF32 would move the outlines.
    with jax.default_matmul_precision("highest"):
        if size is None:
            rows, columns = (
                resize.bilinear_matrix(*n) for n in zip(logits.shape, (height, width), strict=True)
            )
            return jnp.asarray(rows) @ logits @ jnp.asarray(columns).T
        rows, columns = (
            resize.bilinear_rows(np.arange(padded), n, length)
            for n, padded, length in zip(logits.shape, (height, width), size, strict=True)
        )
        full = rows @ logits @ columns.T
    return jnp.where(inside((height, width), size), full, -jnp.inf)


def _measure(
    logits: Float[Array, "m m"], height: int, width: int, config: RegionConfig, size: Size
) -> tuple[Int[Array, ""], Int[Array, "4"], Float[Array, ""]]:
    return measure(_enlarge(logits, height, width, size), config)


def measure(
    full: Float[Array, "H W"], config: RegionConfig
) -> tuple[Int[Array, ""], Int[Array, "4"], Float[Array, ""]]:
    """Area, box and stability of one mask from its logits at the image's size."""
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
