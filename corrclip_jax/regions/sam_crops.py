"""SAM's automatic mask program with all it can do: several masks a point, crops of the photo, small pieces removed.

It is `regions`' program, step by step, for the first SAM and SAM 2, with `config.regions`' further settings. Masks
of all crops meet in one suppression, the highest predicted IoU first, as in transformers' mask-generation pipeline;
SAM's own program suppresses within each crop first, and then lets masks of smaller crops win.

Shapes: H W the photo, C crops of a layer on a canvas [h, w], N masks a crop, T masks in all, m side of the logits,
S side of a network's input.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from corrclip_jax.config import Config, RegionConfig
from corrclip_jax.ops.loops import map_images
from corrclip_jax.ops.resize import Length
from corrclip_jax.regions.components import remove_small
from corrclip_jax.regions.crop_layout import CropLayer, crop_layers, cut_at_edge, layer_points
from corrclip_jax.regions.masks import PIXELS_PER_CHUNK, MaskFacts, Sides, box_of, decide, measure
from corrclip_jax.regions.sam_adapter import Network, network
from corrclip_jax.runtime.memory import device_bytes, points_at_once


class LayerMasks(NamedTuple):
    """What a layer's crops gave."""

    logits: Float[Array, "C N m m"]
    iou: Float[Array, "C N"]


def automatic_masks(
    config: Config,
    params: Mapping[str, Any],
    images: UInt8[Array, "B H W 3"],
    sizes: Int[Array, "B 2"] | None = None,
) -> tuple[Int[Array, "B H W"], MaskFacts, Float[Array, "B T"]]:
    """Region maps of photos, and what is known of all masks (a leading axis B), with their predicted IoU.

    Of more than `config.method.max_regions` masks those with the highest predicted IoU are kept. All logits of a
    photo are in memory at once: 4 m^2 bytes a mask, 0.8 GB with `SAM_AUTOMATIC` and 4 GB with one crop layer.
    `sizes` are the height and width of photos on one canvas; outside of a photo its map is 0.

    Raises:
      ValueError: where the configuration lacks the network, or images are too small for its crop layers.
    """
    sam = network(config, params)
    height, width = images.shape[1:3]

    def one_photo(args: tuple[UInt8[Array, "H W 3"], Sides]) -> tuple[Array, MaskFacts, Array]:
        image, sides = args
        layers = crop_layers(height, width, config.regions, sides)
        found = decode_layers(sam, layers, image, config)
        settings, limit = config.regions, config.method.max_regions
        regions, facts = regions_from_layers(sam, layers, found, height, width, settings, limit)
        return regions, facts, jnp.concatenate([masks.iou.ravel() for masks in found])

    return map_images(one_photo, images, sizes)


def decode_layers(
    sam: Network, layers: list[CropLayer], image: UInt8[Array, "H W 3"], config: Config
) -> list[LayerMasks]:
    """Encode every crop, one after the other, and decode its points."""

    def inputs_of(layer: CropLayer) -> Float[Array, "C S S 3"]:
        def one(*box: Length) -> Float[Array, "S S 3"]:
            crop, sides = layer.cut(image, *box)
            return sam.preprocess(crop[None], size=sides)[0]

        return layer.map(one)

    inputs = jnp.concatenate([inputs_of(layer) for layer in layers])
    features = jax.lax.map(lambda x: jax.tree.map(lambda y: y[0], sam.encode(x[None])), inputs)

    def one_crop(args):
        features, points = args
        context = sam.prepare(features)

        def one_point(point: Float[Array, "2"]) -> tuple[Float[Array, "K m m"], Float[Array, " K"]]:
            logits, iou = sam.decode(context, point[None, None], jnp.ones((1, 1), jnp.int32))
            return logits[0], iou[0]

        return jax.lax.platform_dependent(
            points,
            cpu=partial(jax.lax.map, one_point),
            default=partial(jax.lax.map, one_point, batch_size=points_at_once(config, device_bytes())),
        )

    found, start = [], 0
    for layer in layers:
        indices = slice(start, start + len(layer.boxes))
        own = jax.tree.map(lambda x, which=indices: x[which], features)
        start = indices.stop
        logits, iou = jax.lax.map(one_crop, (own, layer_points(layer, sam.fill)))
        crops, shape = len(logits), logits.shape[-2:]
        found.append(LayerMasks(logits.reshape(crops, -1, *shape), iou.reshape(crops, -1)))
    return found


def regions_from_layers(
    sam: Network,
    layers: list[CropLayer],
    found: list[LayerMasks],
    height: int,
    width: int,
    config: RegionConfig,
    limit: int | None = None,
) -> tuple[Int[Array, "H W"], MaskFacts]:
    """Filter the masks of all crops, drop duplicates, clean and paint the rest: region map and facts of a photo.

    The facts are `regions.mask_facts`', in the order of layers, crops, points and masks of a point. A mask that is
    cut by its crop's edge is dropped (`crops.cut_at_edge`). With `min_area` the kept masks are cleaned and
    suppressed once more, those that did not change before those that did.
    """
    places = [_Placed(sam, layer, masks, height, width) for layer, masks in zip(layers, found, strict=True)]
    photo = layers[0].boxes[0]
    measured = [place.measured(config, photo) for place in places]
    areas, boxes, stability, cut = (jnp.concatenate(parts) for parts in zip(*measured, strict=True))
    iou = jnp.concatenate([masks.iou.ravel() for masks in found])
    candidates = (iou > config.iou_threshold) & (stability >= config.stability_threshold) & ~cut
    facts = decide(jnp.argsort(-iou, stable=True), candidates, areas, boxes, stability, config, limit)

    starts = np.cumsum([0, *(masks.iou.size for masks in found)])
    layer_of = jnp.asarray(np.repeat(np.arange(len(layers)), np.diff(starts)))
    branches = [partial(place.mask, config=config) for place in places]

    def mask_at(index: Int[Array, ""]) -> tuple[Bool[Array, "H W"], Bool[Array, ""]]:
        layer = layer_of[index]
        mask = jax.lax.switch(layer, branches, index - jnp.asarray(starts)[layer])
        return remove_small(mask, config.min_area) if config.min_area else (mask, jnp.zeros((), bool))

    if config.min_area:
        facts = _cleaned(mask_at, facts, iou, config)

    def paint(i, canvas):
        return jnp.where(mask_at(indices[i])[0], i + 1, canvas)

    indices = _by_rank(facts)
    canvas = jnp.zeros((height, width), jnp.int32)
    return jax.lax.fori_loop(0, facts.keep.sum(), paint, canvas), facts


def _cleaned(mask_at: Callable, facts: MaskFacts, iou: Float[Array, " T"], config: RegionConfig) -> MaskFacts:
    """The facts of the kept masks after small pieces are gone."""
    indices = _by_rank(facts)

    def one(i, state):
        areas, boxes, changed = state
        index = indices[i]
        mask, different = mask_at(index)
        return (
            areas.at[index].set(mask.sum()),
            boxes.at[index].set(box_of(mask)),
            changed.at[index].set(different),
        )

    start = (facts.areas, facts.boxes, jnp.zeros_like(facts.keep))
    areas, boxes, changed = jax.lax.fori_loop(0, facts.keep.sum(), one, start)
    return decide(jnp.lexsort((-iou, changed)), facts.keep, areas, boxes, facts.stability, config)


def _by_rank(facts: MaskFacts) -> Int[Array, " T"]:
    """Indices of the kept masks in the order of painting; beyond them, anything."""
    count = len(facts.keep)
    places = jnp.where(facts.keep, facts.rank - 1, count)
    return jnp.zeros(count, jnp.int32).at[places].set(jnp.arange(count), mode="drop")


class _Placed:
    """A layer's masks and where they lie in the photo, whose canvas is `height` x `width`."""

    def __init__(self, sam: Network, layer: CropLayer, masks: LayerMasks, height: int, width: int):
        self.masks, self.canvas, self.photo_canvas = masks, layer.canvas, (height, width)
        self.boxes = jnp.asarray(layer.boxes)
        side = masks.logits.shape[-1]

        def matrices(x0: Length, y0: Length, x1: Length, y1: Length) -> tuple[Array, Array]:
            lengths = y1 - y0, x1 - x0
            each = zip(sam.fill(*lengths), lengths, self.canvas, strict=True)
            rows, columns = (jnp.asarray(sam.enlarge(side, *one)) for one in each)
            return rows, columns

        self.rows, self.columns = layer.map(matrices)

    def logits(self, index: Int[Array, ""]) -> Float[Array, "h w"]:
        """Logits of a mask on the layer's canvas; minus infinity outside of its crop."""
        crop, mask = jnp.divmod(index, self.masks.iou.shape[1])
        # Full precision: a GPU's TF32 would move the outlines.
        with jax.default_matmul_precision("highest"):
            full = self.rows[crop] @ self.masks.logits[crop, mask] @ self.columns[crop].T
        height, width = self.canvas
        crop_width, crop_height = self.boxes[crop, 2:] - self.boxes[crop, :2]
        within = (jnp.arange(height) < crop_height)[:, None] & (jnp.arange(width) < crop_width)
        return jnp.where(within, full, -jnp.inf)

    def measured(self, config: RegionConfig, photo: Any) -> tuple[Any, Any, Any, Any]:
        """Areas, boxes in the photo (whose own is `photo`), stability of all masks, and which their crop cuts."""
        count = self.masks.iou.size
        chunk = max(1, min(count, PIXELS_PER_CHUNK // (self.canvas[0] * self.canvas[1])))
        areas, boxes, stability = jax.lax.map(
            lambda index: measure(self.logits(index), config), jnp.arange(count), batch_size=chunk
        )
        crops = jnp.repeat(self.boxes, self.masks.iou.shape[1], axis=0)
        boxes = boxes + jnp.tile(crops[:, :2], 2)
        return areas, boxes, stability, cut_at_edge(boxes, crops, photo)

    def mask(self, index: Int[Array, ""], config: RegionConfig) -> Bool[Array, "H W"]:
        """A mask in the photo."""
        height, width = self.photo_canvas
        x0, y0, _, _ = self.boxes[index // self.masks.iou.shape[1]]
        # The canvas may reach beyond the photo where its crop does not.
        room = jnp.zeros((height + self.canvas[0], width + self.canvas[1]), bool)
        mask = self.logits(index) > config.mask_threshold
        return jax.lax.dynamic_update_slice(room, mask, (y0, x0))[:height, :width]
