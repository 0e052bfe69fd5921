"""Regions of queries: EoMT's and Mask2Former's classes and masks to a region map (METHOD.md, section 2).

The image processors' `post_process_panoptic_segmentation` of transformers, with static shapes, inside jit. Masks
exist at the image's size a few at a time, and only those of candidates.

Shapes: H W the image, Q queries, K classes with "nothing" as the last, m side of the mask logits. In a padded
  batch the image fills the top left corner of [H, W]: then `size` is its true height and width, a traced value.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from corrclip_jax.config import Config, PanopticConfig
from corrclip_jax.ops import resize
from corrclip_jax.ops.integers import quotient_up
from corrclip_jax.ops.loops import map_images
from corrclip_jax.ops.masks import inside
from corrclip_jax.ops.resize import Length
from corrclip_jax.regions.panoptic_adapter import QueryNetworkAdapter, preprocess, query_adapter

PIXELS_PER_CHUNK = 1 << 21  # what exists at once at the image's size: 8 MB of probabilities

Size = Int[Array, "2"] | None


class Segments(NamedTuple):
    """A region map, and each query's region (0 where it has none), class and that class's probability."""

    regions: Int[Array, "H W"]
    ids: Int[Array, " Q"]
    labels: Int[Array, " Q"]
    scores: Float[Array, " Q"]


class Contest(NamedTuple):
    """Which query wins each pixel (Q: none), whether the winner's own mask covers it, and all own masks' areas."""

    winner: Int[Array, "H W"]
    own: Bool[Array, "H W"]
    areas: Int[Array, " Q"]


def panoptic_regions(
    config: Config,
    params: Mapping[str, Any],
    images: UInt8[Array, "B H W 3"],
    sizes: Int[Array, "B 2"] | None = None,
) -> tuple[Int[Array, "B H W"], dict[str, Float[Array, "B ids"]]]:
    """Region maps of images, and by their ids the query's class (its number) and that class's probability.

    Images are processed one after the other.

    Args:
      config: `config.regions` has the settings and names the network.
      params: the network's own tree.
      images: RGB, 0..255.
      sizes: true heights and widths of a padded batch; outside of an image its map is 0.

    Raises:
      ValueError: where the configuration lacks the network.
    """
    net = query_adapter(config, params)
    height, width = images.shape[1:3]

    def one_image(args: tuple[UInt8[Array, "H W 3"], Size]) -> tuple[Array, Array, Array]:
        image, size = args
        classes, masks = net.predict(preprocess(net, image[None], size))
        found = find_segments(net, classes[0], masks[0], height, width, config.regions.panoptic, size)
        return (
            found.regions,
            _by_id(found.ids, found.labels.astype(jnp.float32)),
            _by_id(found.ids, found.scores),
        )

    maps, labels, scores = map_images(one_image, images, sizes)
    return maps, {"label_id": labels, "score": scores}


def find_segments(
    net: QueryNetworkAdapter,
    classes: Float[Array, "Q K"],
    masks: Float[Array, "Q m m"],
    height: int,
    width: int,
    config: PanopticConfig,
    size: Size = None,
) -> Segments:
    """Logits of one image to its region map, regions numbered by their queries.

    A pixel goes to the candidate with the largest product of score and probability there. A query whose pixels are
    too small a part of its own mask is dropped, and its pixels are unsegmented.
    """
    probabilities = jax.nn.softmax(classes)
    scores, labels = probabilities.max(axis=-1), probabilities.argmax(axis=-1).astype(jnp.int32)
    threshold = net.threshold if config.threshold is None else config.threshold
    candidates = (labels < classes.shape[1] - 1) & (scores > threshold)
    winner, own, areas = compete(net, masks, scores, candidates, height, width, config, size)
    won = jnp.bincount(winner.ravel(), length=len(masks) + 1)[:-1]
    exists = candidates & (won / jnp.maximum(areas, 1) > _exactly(config.overlap_threshold)) & (areas > 0)
    if not net.mask2former_rules:
        exists &= jnp.bincount(jnp.where(own, winner, len(masks)).ravel(), length=len(masks) + 1)[:-1] > 0
    ids = _number(exists, labels, classes.shape[1], config.fuse, net.mask2former_rules)
    regions = jnp.append(ids, 0)[winner]
    return Segments(regions if net.mask2former_rules else jnp.where(own, regions, 0), ids, labels, scores)


def compete(
    net: QueryNetworkAdapter,
    masks: Float[Array, "Q m m"],
    scores: Float[Array, " Q"],
    candidates: Bool[Array, " Q"],
    height: int,
    width: int,
    config: PanopticConfig,
    size: Size = None,
) -> Contest:
    """All candidates, a few at a time, on the whole image; of equals the first one wins."""
    queries = len(masks)
    chunk = max(1, min(queries, PIXELS_PER_CHUNK // (height * width)))
    order = jnp.argsort(~candidates, stable=True)
    order = jnp.append(order, jnp.zeros(chunk, order.dtype))
    enlarge = _enlarger(net, masks.shape[-1], height, width, size)
    shape = height, width
    within = jnp.ones(shape, bool) if size is None else inside(shape, size)

    def step(i: Int[Array, ""], state: tuple[Array, Contest]) -> tuple[Array, Contest]:
        best, (winner, own, areas) = state
        numbers = i * chunk + jnp.arange(chunk)
        which, real = jax.lax.dynamic_slice(order, (i * chunk,), (chunk,)), numbers < candidates.sum()
        found = jax.vmap(enlarge)(masks[which])
        weighted = found * scores[which][:, None, None]
        covered = ((weighted if net.mask2former_rules else found) >= config.mask_threshold) & within[None]
        areas = areas.at[jnp.where(real, which, queries)].set(covered.sum(axis=(1, 2)), mode="drop")
        weighted = jnp.where(real[:, None, None], weighted, -jnp.inf)
        first = weighted.argmax(axis=0)
        better = (weighted.max(axis=0) > best) & within
        covers = jnp.take_along_axis(covered, first[None], axis=0)[0]
        contest = Contest(jnp.where(better, which[first], winner), jnp.where(better, covers, own), areas)
        return jnp.where(better, weighted.max(axis=0), best), contest

    nobody = jnp.full((height, width), queries, jnp.int32)
    start = Contest(nobody, jnp.zeros((height, width), bool), jnp.zeros(queries, jnp.int32))
    # As many rounds as the candidates need: a loop whose length depends on the data, not its shapes.
    rounds = quotient_up(candidates.sum(), chunk)
    return jax.lax.fori_loop(0, rounds, step, (jnp.full((height, width), -1.0), start))[1]


def _enlarger(
    net: QueryNetworkAdapter, side: int, height: int, width: int, size: Size
) -> Callable[[Float[Array, "m m"]], Float[Array, "H W"]]:
    """The function from one query's mask logits to its probabilities in the image."""
    lengths: tuple[Length, Length] = (height, width) if size is None else (size[0], size[1])
    axes = list(
        zip((np.arange(height), np.arange(width)), net.resized_extent(*lengths), lengths, strict=True)
    )

    middle = net.intermediate_size

    def enlarge(logits: Float[Array, "m m"]) -> Float[Array, "H W"]:
        # Full precision: a GPU's TF32 would move the outlines.
        with jax.default_matmul_precision("highest"):
            if net.mask2former_rules:
                first = jnp.asarray(resize.bilinear_matrix(side, middle))
                rows, columns = (resize.bilinear_rows(at, middle, out) for at, _, out in axes)
                return rows @ jax.nn.sigmoid(first @ logits @ first.T) @ columns.T
            rows, columns = (resize.bilinear_twice(at, side, middle, extent, out) for at, extent, out in axes)
            return jax.nn.sigmoid(rows @ logits @ columns.T)

    return enlarge


def _number(
    exists: Bool[Array, " Q"],
    labels: Int[Array, " Q"],
    classes: int,
    fuse: tuple[int, ...],
    continue_numbering: bool,
) -> Int[Array, " Q"]:
    """Regions' ids in the order of the queries, 0 where there is none; one id for all of a fused class.

    With `continue_numbering` the next id follows that of the fused region which a query has joined, as in
    transformers' Mask2Former, where two regions can thus have one id.
    """
    if not fuse:
        return jnp.where(exists, jnp.cumsum(exists), 0).astype(jnp.int32)

    def step(state: tuple[Array, Array], query: tuple[Array, Array, Array]) -> tuple[Any, Array]:
        last, of_class = state
        exists, label, fused = query
        known = jnp.where(fused, of_class[label], 0)
        id = jnp.where(known > 0, known, last + 1)
        last = jnp.where(exists & ((known == 0) | continue_numbering), id, last)
        return (last, of_class.at[label].set(jnp.where(exists & fused, id, of_class[label]))), id * exists

    start = jnp.int32(0), jnp.zeros(classes, jnp.int32)
    return jax.lax.scan(step, start, (exists, labels, jnp.isin(labels, jnp.array(fuse))))[1]


def _exactly(threshold: float) -> np.float32:
    """The bound that a float32 exceeds if it exceeds `threshold` in double precision, where 4 / 5 is above 0.8."""
    nearest = np.float32(threshold)
    return nearest if nearest <= threshold else np.nextafter(nearest, np.float32(-np.inf))


def _by_id(ids: Int[Array, " Q"], values: Float[Array, " Q"]) -> Float[Array, " ids"]:
    """Values of queries by their regions' ids, of a fused region its first query's; 0 for id 0 and others."""
    queries = len(ids)
    first = jnp.full(queries + 1, queries).at[ids].min(jnp.arange(queries)).at[0].set(queries)
    return jnp.append(values, 0)[first]
