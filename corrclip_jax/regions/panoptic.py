"""Regions of queries: EoMT's and Mask2Former's classes and masks to a region map (METHOD.md, section 2).

What the image processors' `post_process_panoptic_segmentation` does in transformers, with static shapes, inside
jit. Masks exist at the photo's size a few at a time, and only those of queries that count.

Shapes: H W the photo, Q queries, K classes with "nothing" as the last, m side of the mask logits. A photo may fill
the top left corner of a canvas [H, W] only: then its own height and width, `sides`, are values.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from corrclip_jax.config import Config, PanopticConfig
from corrclip_jax.ops import resize
from corrclip_jax.ops.loops import map_images
from corrclip_jax.ops.resize import Length
from corrclip_jax.regions.panoptic_adapter import Network, network, preprocess

PIXELS_PER_CHUNK = 1 << 21  # what exists at once at the photo's size: 8 MB of probabilities

Sides = Int[Array, "2"] | None


class Segments(NamedTuple):
    """A region map, and of each query its region (0 where it has none), class and that class's probability."""

    regions: Int[Array, "H W"]
    ids: Int[Array, " Q"]
    labels: Int[Array, " Q"]
    scores: Float[Array, " Q"]


class Contest(NamedTuple):
    """Which query wins each pixel (Q where none does), whether its own mask covers it, and all own masks' areas."""

    winner: Int[Array, "H W"]
    own: Bool[Array, "H W"]
    areas: Int[Array, " Q"]


def panoptic_regions(
    config: Config,
    params: Mapping[str, Any],
    images: UInt8[Array, "B H W 3"],
    sizes: Int[Array, "B 2"] | None = None,
) -> tuple[Int[Array, "B H W"], dict[str, Float[Array, "B ids"]]]:
    """Region maps of photos, and by their ids the query's class (its number) and that class's probability.

    Photos are worked through one after the other. `sizes` are the height and width of photos on one canvas; outside
    of a photo its map is 0.

    Raises:
      ValueError: where the configuration lacks the network.
    """
    net = network(config, params)
    height, width = images.shape[1:3]

    def one_photo(args: tuple[UInt8[Array, "H W 3"], Sides]) -> tuple[Array, Array, Array]:
        image, sides = args
        classes, masks = net.predict(preprocess(net, image[None], sides))
        found = find_segments(net, classes[0], masks[0], height, width, config.regions.panoptic, sides)
        return (
            found.regions,
            _by_id(found.ids, found.labels.astype(jnp.float32)),
            _by_id(found.ids, found.scores),
        )

    maps, labels, scores = map_images(one_photo, images, sizes)
    return maps, {"label_id": labels, "score": scores}


def find_segments(
    net: Network,
    classes: Float[Array, "Q K"],
    masks: Float[Array, "Q m m"],
    height: int,
    width: int,
    config: PanopticConfig,
    sides: Sides = None,
) -> Segments:
    """Logits of one photo to its region map, regions numbered by their queries.

    A pixel goes to the query with the largest product of score and probability there. A query whose pixels are too
    small a part of its own mask is dropped, and what it has won belongs to no region.
    """
    probabilities = jax.nn.softmax(classes)
    scores, labels = probabilities.max(axis=-1), probabilities.argmax(axis=-1).astype(jnp.int32)
    threshold = net.threshold if config.threshold is None else config.threshold
    counts = (labels < classes.shape[1] - 1) & (scores > threshold)
    winner, own, areas = compete(net, masks, scores, counts, height, width, config, sides)
    won = jnp.bincount(winner.ravel(), length=len(masks) + 1)[:-1]
    exists = counts & (won / jnp.maximum(areas, 1) > _exactly(config.overlap_threshold)) & (areas > 0)
    if not net.by_probability:
        exists &= jnp.bincount(jnp.where(own, winner, len(masks)).ravel(), length=len(masks) + 1)[:-1] > 0
    ids = _number(exists, labels, classes.shape[1], config.fuse, net.by_probability)
    regions = jnp.append(ids, 0)[winner]
    return Segments(regions if net.by_probability else jnp.where(own, regions, 0), ids, labels, scores)


def compete(
    net: Network,
    masks: Float[Array, "Q m m"],
    scores: Float[Array, " Q"],
    counts: Bool[Array, " Q"],
    height: int,
    width: int,
    config: PanopticConfig,
    sides: Sides = None,
) -> Contest:
    """All queries that count, a few at a time, on the whole photo; of equals the first one wins."""
    queries = len(masks)
    chunk = max(1, min(queries, PIXELS_PER_CHUNK // (height * width)))
    order = jnp.argsort(~counts, stable=True)
    order = jnp.append(order, jnp.zeros(chunk, order.dtype))
    enlarge = _enlarger(net, masks.shape[-1], height, width, sides)
    within = jnp.ones((height, width), bool)
    if sides is not None:
        within = (jnp.arange(height) < sides[0])[:, None] & (jnp.arange(width) < sides[1])

    def step(i, state):
        best, (winner, own, areas) = state
        places = i * chunk + jnp.arange(chunk)
        which, real = jax.lax.dynamic_slice(order, (i * chunk,), (chunk,)), places < counts.sum()
        found = jax.vmap(enlarge)(masks[which])
        weighed = found * scores[which][:, None, None]
        covered = ((weighed if net.by_probability else found) >= config.mask_threshold) & within
        areas = areas.at[jnp.where(real, which, queries)].set(covered.sum(axis=(1, 2)), mode="drop")
        weighed = jnp.where(real[:, None, None], weighed, -jnp.inf)
        first = weighed.argmax(axis=0)
        better = (weighed.max(axis=0) > best) & within
        covers = jnp.take_along_axis(covered, first[None], axis=0)[0]
        contest = Contest(jnp.where(better, which[first], winner), jnp.where(better, covers, own), areas)
        return jnp.where(better, weighed.max(axis=0), best), contest

    nobody = jnp.full((height, width), queries, jnp.int32)
    start = Contest(nobody, jnp.zeros((height, width), bool), jnp.zeros(queries, jnp.int32))
    # As many rounds as there are queries that count: a loop whose length depends on the data, not its shapes.
    rounds = -(-counts.sum() // chunk)
    return jax.lax.fori_loop(0, rounds, step, (jnp.full((height, width), -1.0), start))[1]


def _enlarger(
    net: Network, side: int, height: int, width: int, sides: Sides
) -> Callable[[Float[Array, "m m"]], Float[Array, "H W"]]:
    """The function from one query's mask logits to its probabilities in the photo."""
    lengths: tuple[Length, Length] = (height, width) if sides is None else (sides[0], sides[1])
    axes = list(zip((np.arange(height), np.arange(width)), net.fill(*lengths), lengths, strict=True))

    def enlarge(logits: Float[Array, "m m"]) -> Float[Array, "H W"]:
        # Full precision: a GPU's TF32 would move the outlines.
        with jax.default_matmul_precision("highest"):
            if net.by_probability:
                to_middle = jnp.asarray(resize.bilinear_matrix(side, net.middle))
                rows, columns = (resize.bilinear_rows(at, net.middle, out) for at, _, out in axes)
                return rows @ jax.nn.sigmoid(to_middle @ logits @ to_middle.T) @ columns.T
            rows, columns = (
                resize.bilinear_twice(at, side, net.middle, filled, out) for at, filled, out in axes
            )
            return jax.nn.sigmoid(rows @ logits @ columns.T)

    return enlarge


def _number(
    exists: Bool[Array, " Q"], labels: Int[Array, " Q"], classes: int, fuse: tuple[int, ...], goes_on: bool
) -> Int[Array, " Q"]:
    """Regions' ids in the order of the queries, 0 where there is none; one id for all of a fused class.

    With `goes_on` the count goes on from a fused region's id when that comes again, as in Mask2Former's program.
    """
    if not fuse:
        return jnp.where(exists, jnp.cumsum(exists), 0).astype(jnp.int32)

    def step(state, query):
        last, of_class = state
        exists, label, fused = query
        known = jnp.where(fused, of_class[label], 0)
        id = jnp.where(known > 0, known, last + 1)
        last = jnp.where(exists & ((known == 0) | goes_on), id, last)
        return (last, of_class.at[label].set(jnp.where(exists & fused, id, of_class[label]))), id * exists

    start = jnp.int32(0), jnp.zeros(classes, jnp.int32)
    return jax.lax.scan(step, start, (exists, labels, jnp.isin(labels, jnp.array(fuse))))[1]


def _exactly(threshold: float) -> np.float32:
    """What a float32 exceeds if it exceeds `threshold` in double precision: 4 / 5 is more than 0.8, as there."""
    nearest = np.float32(threshold)
    return nearest if nearest <= threshold else np.nextafter(nearest, np.float32(-np.inf))


def _by_id(ids: Int[Array, " Q"], values: Float[Array, " Q"]) -> Float[Array, " ids"]:
    """Values of queries by their regions' ids, of a fused region its first query's; 0 for id 0 and others."""
    queries = len(ids)
    first = jnp.full(queries + 1, queries).at[ids].min(jnp.arange(queries)).at[0].set(queries)
    return jnp.append(values, 0)[first]
