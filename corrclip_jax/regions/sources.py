"""Where regions come from: a table of sources, each a pure function that runs inside jit.

A source's `find(config, params, images, sizes)` takes
  config: the whole configuration; a source reads its own part of `config.regions`,
  params: the tree of `load`, of which it reads `params[source.network]`,
  images: uint8 [B, H, W, 3],
  sizes: int [B, 2], the true (height, width) of images in the top left corners of a padded batch, or None,
and gives region maps int32 [B, H, W]: 0 for what belongs to no region, the padding around an image included, else 1
and above, fewer than `source.cap(config)` distinct ids with 0 among them.

A new source is a function like these and an entry in `SOURCES`, under the name of its network's family.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from corrclip_jax.config import Config, RegionSource
from corrclip_jax.ops.precision import float32_products
from corrclip_jax.regions.crop_layout import count_masks
from corrclip_jax.regions.panoptic import panoptic_regions
from corrclip_jax.regions.sam_crops import automatic_masks
from corrclip_jax.regions.sam_points import automatic_regions, scored_regions
from corrclip_jax.regions.slic import superpixels

Images = UInt8[Array, "B H W 3"]
Sizes = Int[Array, "B 2"] | None
Maps = Int[Array, "B H W"]
Scores = dict[str, Float[Array, "B cap"]]


class Source(NamedTuple):
    """A source of regions.

    Attributes:
      title: the name for people.
      network: the family of the network that it reads, in the configuration and in the parameters; None where it
        needs no weights.
      find: images to region maps, see above.
      cap: the most distinct ids that one of its maps can hold, 0 included.
      scored: maps and, by name, what the source knows of each region as arrays [B, cap] by id; None where it knows
        nothing but the maps.
    """

    title: str
    network: str | None
    find: Callable[[Config, Mapping[str, Any], Images, Sizes], Maps]
    cap: Callable[[Config], int]
    scored: Callable[[Config, Mapping[str, Any], Images, Sizes], tuple[Maps, Scores]] | None = None


def _sam2(config: Config, params: Mapping[str, Any], images: Images, sizes: Sizes) -> Maps:
    if _has_more(config):
        return _sam(config, params, images, sizes)
    return automatic_regions(config, params["sam2"], images, sizes)


def _sam2_scored(
    config: Config, params: Mapping[str, Any], images: Images, sizes: Sizes
) -> tuple[Maps, Scores]:
    if _has_more(config):
        return _sam_scored(config, params, images, sizes)
    maps, iou, stability = scored_regions(config, params["sam2"], images, sizes)
    return maps, {"predicted_iou": iou, "stability_score": stability}


def _sam(config: Config, params: Mapping[str, Any], images: Images, sizes: Sizes) -> Maps:
    return automatic_masks(config, params[config.regions.source], images, sizes)[0]


def _sam_scored(
    config: Config, params: Mapping[str, Any], images: Images, sizes: Sizes
) -> tuple[Maps, Scores]:
    maps, facts, iou = automatic_masks(config, params[config.regions.source], images, sizes)
    nothing = jnp.zeros(_sam_cap(config))

    def by_id(ranks: Int[Array, " T"], values: Float[Array, " T"]) -> Float[Array, " cap"]:
        return nothing.at[ranks].set(values, mode="drop").at[0].set(0)

    scores = {"predicted_iou": iou, "stability_score": facts.stability}
    return maps, {name: jax.vmap(by_id)(facts.rank, values) for name, values in scores.items()}


def _sam_cap(config: Config) -> int:
    return min(count_masks(config.regions), config.method.max_regions) + 1


def _has_more(config: Config) -> bool:
    """Whether the settings need the automatic mask generator: more than one mask a point, crops, or cleaning."""
    settings = config.regions
    return settings.multimask or settings.crop_layers > 0 or settings.min_area > 0


def _slic(config: Config, params: Mapping[str, Any], images: Images, sizes: Sizes) -> Maps:
    return superpixels(config.regions.slic, images, sizes)


def _queries(config: Config, params: Mapping[str, Any], images: Images, sizes: Sizes) -> Maps:
    return panoptic_regions(config, params[config.regions.source], images, sizes)[0]


def _queries_scored(
    config: Config, params: Mapping[str, Any], images: Images, sizes: Sizes
) -> tuple[Maps, Scores]:
    return panoptic_regions(config, params[config.regions.source], images, sizes)


def _queries_cap(config: Config) -> int:
    return getattr(config, config.regions.source).queries + 1


def _none(config: Config, params: Mapping[str, Any], images: Images, sizes: Sizes) -> Maps:
    return jnp.zeros(images.shape[:3], jnp.int32)


SOURCES: dict[RegionSource, Source] = {
    "sam2": Source(
        "SAM 2",
        "sam2",
        _sam2,
        lambda config: _sam_cap(config) if _has_more(config) else config.regions.points_per_side**2 + 1,
        _sam2_scored,
    ),
    "sam1": Source("SAM", "sam1", _sam, _sam_cap, _sam_scored),
    "eomt": Source("EoMT", "eomt", _queries, _queries_cap, _queries_scored),
    "mask2former": Source("Mask2Former", "mask2former", _queries, _queries_cap, _queries_scored),
    "slic": Source("superpixels", None, _slic, lambda config: config.regions.slic.segments + 1),
    "none": Source("no regions", None, _none, lambda config: 1),
}


def network_to_load(source: RegionSource | None) -> str | None:
    """What `load(region_network=)` reads for a source: its network or None; "all" for the model's own source.

    Any other name is itself what `load` reads: a published size of a network ("sam2.1-t"), or what it refuses.
    """
    if source is None:
        return "all"
    return SOURCES[source].network if source in SOURCES else source


def find_regions(
    config: Config, params: Mapping[str, Any], images: Images, sizes: Sizes = None
) -> tuple[Maps, int]:
    """Region maps by the configured source, and how many distinct ids one can hold."""
    source = SOURCES[config.regions.source]
    with float32_products(config.dtype):
        return source.find(config, params, images, sizes), source.cap(config)


def score_regions(
    config: Config, params: Mapping[str, Any], images: Images, sizes: Sizes = None
) -> tuple[Maps, Scores]:
    """Region maps by the configured source, and what it knows of each region; nothing, for some sources."""
    source = SOURCES[config.regions.source]
    with float32_products(config.dtype):
        if source.scored is None:
            return source.find(config, params, images, sizes), {}
        return source.scored(config, params, images, sizes)


def can_find(config: Config, params: Mapping[str, Any]) -> bool:
    """Whether the configured source has the network that it needs, in the configuration and in the parameters."""
    network = SOURCES[config.regions.source].network
    return network is None or (getattr(config, network) is not None and network in params)
