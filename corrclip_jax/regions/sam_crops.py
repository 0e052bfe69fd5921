"""SAM's automatic mask generator with all its settings: several masks a point, crops, removal of small pieces.

The counterpart of `sam_points.py` for SAM and SAM 2, with `config.regions`' further settings. Masks of all crops
meet in one suppression, the highest predicted IoU first, as in transformers' mask-generation pipeline; in
`facebookresearch/segment-anything`, `SamAutomaticMaskGenerator` suppresses within each crop first, and then
prefers masks of smaller crops.

Shapes: H W the image, C crops of a layer of shape [h, w], N masks of a crop, T masks in all, m side of the logits,
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
from corrclip_jax.ops.integers import divide, quotient
from corrclip_jax.ops.loops import map_images
from corrclip_jax.ops.masks import inside
from corrclip_jax.ops.resize import Length
from corrclip_jax.regions.components import remove_small
from corrclip_jax.regions.crop_layout import CropLayer, crop_layers, cut_at_edge, layer_points
from corrclip_jax.regions.masks import MaskFacts, Size, box_of, decide, masks_at_once, measure
from corrclip_jax.regions.sam_adapter import SAMAdapter, decode_points, sam_adapter
from corrclip_jax.runtime.memory import device_bytes, points_at_once


class LayerMasks(NamedTuple):
    """The masks of a layer's crops."""

    logits: Float[Array, "C N m m"]
    iou: Float[Array, "C N"]


def automatic_masks(
    config: Config,
    params: Mapping[str, Any],
    images: UInt8[Array, "B H W 3"],
    sizes: Int[Array, "B 2"] | None = None,
) -> tuple[Int[Array, "B H W"], MaskFacts, Float[Array, "B T"]]:
    """Region maps of images, and the facts (a leading axis B) and predicted IoU of all masks.

    At most `config.method.max_regions` masks are kept, those with the highest predicted IoU. All logits of an image
    are in memory at once: 4 m^2 bytes a mask, 0.8 GB with `SAM_AUTOMATIC` and 4 GB with one crop layer.

    Args:
      config: `config.regions` has the settings and names the network.
      params: the network's own tree.
      images: RGB, 0..255.
      sizes: true heights and widths of a padded batch; outside of an image its map is 0.

    Raises:
      ValueError: where the configuration lacks the network, or images are too small for its crop layers.
    """
    sam = sam_adapter(config, params)
    height, width = images.shape[1:3]

    def one_image(args: tuple[UInt8[Array, "H W 3"], Size]) -> tuple[Array, MaskFacts, Array]:
        image, size = args
        layers = crop_layers(height, width, config.regions, size)
        found = decode_layers(sam, layers, image, config)
        settings, limit = config.regions, config.method.max_regions
        regions, facts = regions_from_layers(sam, layers, found, height, width, settings, limit)
        return regions, facts, jnp.concatenate([masks.iou.ravel() for masks in found])

    return map_images(one_image, images, sizes)


def decode_layers(
    sam: SAMAdapter, layers: list[CropLayer], image: UInt8[Array, "H W 3"], config: Config
) -> list[LayerMasks]:
    """Encode every crop, one after the other, and decode its points."""

    def inputs_of(layer: CropLayer) -> Float[Array, "C S S 3"]:
        def one(*box: Length) -> Float[Array, "S S 3"]:
            crop, size = layer.cut(image, *box)
            return sam.preprocess(crop[None], size=size)[0]

        return layer.map(one)

    inputs = jnp.concatenate([inputs_of(layer) for layer in layers])
    features = jax.lax.map(lambda x: jax.tree.map(lambda y: y[0], sam.encode(x[None])), inputs)

    at_once = points_at_once(config, device_bytes())

    def one_crop(
        args: tuple[Any, Float[Array, "P 2"]],
    ) -> tuple[Float[Array, "P K m m"], Float[Array, "P K"]]:
        features, points = args
        return decode_points(sam, sam.prepare(features), points, at_once)

    found, start = [], 0
    for layer in layers:
        indices = slice(start, start + len(layer.boxes))
        own = jax.tree.map(lambda x, which=indices: x[which], features)
        start = indices.stop
        logits, iou = jax.lax.map(one_crop, (own, layer_points(layer, sam.resized_extent)))
        crops, shape = len(logits), logits.shape[-2:]
        found.append(LayerMasks(logits.reshape(crops, -1, *shape), iou.reshape(crops, -1)))
    return found


def regions_from_layers(
    sam: SAMAdapter,
    layers: list[CropLayer],
    found: list[LayerMasks],
    height: int,
    width: int,
    config: RegionConfig,
    limit: int | None = None,
) -> tuple[Int[Array, "H W"], MaskFacts]:
    """Filter the masks of all crops, drop duplicates, clean and paint the others: region map and facts.

    The facts are those of `masks.MaskFacts`, in the order of layers, crops, points and masks of a point. A mask
    that is cut off by its crop is dropped (`crop_layout.cut_at_edge`). With `min_area` the kept masks are cleaned
    and suppressed once more, those that did not change before those that did.
    """
    placed = [
        _PlacedMasks(sam, layer, masks, height, width) for layer, masks in zip(layers, found, strict=True)
    ]
    whole = layers[0].boxes[0]
    measured = [masks.measured(config, whole) for masks in placed]
    areas, boxes, stability, cut = (jnp.concatenate(parts) for parts in zip(*measured, strict=True))
    iou = jnp.concatenate([masks.iou.ravel() for masks in found])
    candidates = (iou > config.iou_threshold) & (stability >= config.stability_threshold) & ~cut
    facts = decide(jnp.argsort(-iou, stable=True), candidates, areas, boxes, stability, config, limit)

    starts = np.cumsum([0, *(masks.iou.size for masks in found)])
    layer_of = jnp.asarray(np.repeat(np.arange(len(layers)), np.diff(starts)))
    branches = [partial(masks.mask, config=config) for masks in placed]

    def mask_at(index: Int[Array, ""]) -> tuple[Bool[Array, "H W"], Bool[Array, ""]]:
        layer = layer_of[index]
        mask = jax.lax.switch(layer, branches, index - jnp.asarray(starts)[layer])
        return remove_small(mask, config.min_area) if config.min_area else (mask, jnp.zeros((), bool))

    if config.min_area:
        facts = _cleaned(mask_at, facts, iou, config)

    def paint(i: Int[Array, ""], regions: Int[Array, "H W"]) -> Int[Array, "H W"]:
        return jnp.where(mask_at(indices[i])[0], i + 1, regions)

    indices = _by_rank(facts)
    unsegmented = jnp.zeros((height, width), jnp.int32)
    return jax.lax.fori_loop(0, facts.keep.sum(), paint, unsegmented), facts


def _cleaned(mask_at: Callable, facts: MaskFacts, iou: Float[Array, " T"], config: RegionConfig) -> MaskFacts:
    """The facts of the kept masks after small pieces are removed."""
    indices = _by_rank(facts)

    def one(i: Int[Array, ""], state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
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
    """Indices of the kept masks in the order of painting; the entries after them have no meaning."""
    count = len(facts.keep)
    order = jnp.where(facts.keep, facts.rank - 1, count)
    return jnp.zeros(count, jnp.int32).at[order].set(jnp.arange(count), mode="drop")


class _PlacedMasks:
    """A layer's masks and where they lie in the image, an array `height` x `width`."""

    def __init__(self, sam: SAMAdapter, layer: CropLayer, masks: LayerMasks, height: int, width: int) -> None:
        self.masks, self.shape, self.image_shape = masks, layer.shape, (height, width)
        self.boxes = jnp.asarray(layer.boxes)
        side = masks.logits.shape[-1]

        def matrices(x0: Length, y0: Length, x1: Length, y1: Length) -> tuple[Array, Array]:
            lengths = y1 - y0, x1 - x0
            each = zip(sam.resized_extent(*lengths), lengths, self.shape, strict=True)
            rows, columns = (jnp.asarray(sam.enlarge(side, *one)) for one in each)
            return rows, columns

        self.rows, self.columns = layer.map(matrices)

    def logits(self, index: Int[Array, ""]) -> Float[Array, "h w"]:
        """Logits of a mask at its crop's size; minus infinity outside of the crop."""
        crop, mask = divide(index, self.masks.iou.shape[1])
        # Full precision: a GPU's TF32 would move the outlines.
        with jax.default_matmul_precision("highest"):
            full = self.rows[crop] @ self.masks.logits[crop, mask] @ self.columns[crop].T
        width, height = self.boxes[crop, 2:] - self.boxes[crop, :2]
        return jnp.where(inside(self.shape, (height, width)), full, -jnp.inf)

    def measured(self, config: RegionConfig, image: Any) -> tuple[Array, Array, Array, Array]:
        """Areas, boxes in the image (its own is `image`), stability of all masks, and which their crop cuts off."""
        count = self.masks.iou.size
        chunk = masks_at_once(*self.shape, count)
        areas, boxes, stability = jax.lax.map(
            lambda index: measure(self.logits(index), config), jnp.arange(count), batch_size=chunk
        )
        crops = jnp.repeat(self.boxes, self.masks.iou.shape[1], axis=0)
        boxes = boxes + jnp.tile(crops[:, :2], 2)
        return areas, boxes, stability, cut_at_edge(boxes, crops, image)

    def mask(self, index: Int[Array, ""], config: RegionConfig) -> Bool[Array, "H W"]:
        """A mask in the image."""
        height, width = self.image_shape
        x0, y0, _, _ = self.boxes[quotient(index, self.masks.iou.shape[1])]
        # An array of the layer's shape may reach beyond the image where its crop does not.
        padded = jnp.zeros((height + self.shape[0], width + self.shape[1]), bool)
        mask = self.logits(index) > config.mask_threshold
        return jax.lax.dynamic_update_slice(padded, mask, (y0, x0))[:height, :width]
