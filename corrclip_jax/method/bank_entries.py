"""Entries of a bank: the key and the values of each region of an image (METHOD.md, section 9).

A key is the mean of the backbone's unit-length features over a region's pixels, not normalised. A value is the mean
of what the method computes per pixel in a CLIP's joint space, with similarities per window and without merging, at
unit length. Neither map exists at every pixel: blocks are summed into the regions.
Shapes: B images [H0, W0], R regions (a cap), C width of keys, D of values.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from corrclip_jax.config import Config, with_fields
from corrclip_jax.method.branches import clip_features, correlate
from corrclip_jax.method.correlation import normalise
from corrclip_jax.method.labels import upsample
from corrclip_jax.method.similarity import patch_features
from corrclip_jax.method.sliding_windows import ImageWindows, sliding_windows
from corrclip_jax.method.whole_image import WholeImages, region_means, whole_images
from corrclip_jax.ops.integers import quotient_up
from corrclip_jax.ops.precision import float32_products
from corrclip_jax.runtime.kept_traces import keepable
from corrclip_jax.runtime.memory import device_bytes, rows_at_once


class RegionMasks(NamedTuple):
    """Regions of images, numbered from 1 in the map; 0 marks pixels that belong to no region.

    Attributes:
      map: the number of each pixel's region; of masks that overlap the last one's.
      masks: which pixels belong to each region where they may overlap; None where the map says all.
    """

    map: Int[Array, "*B H0 W0"]
    masks: Bool[Array, "*B R H0 W0"] | None


@keepable
class BankEntries(NamedTuple):
    """Keys and values, row i those of region i + 1; float32."""

    keys: Float[Array, "B R C"]
    values: dict[str, Float[Array, "B R D"]]


def values_config(config: Config, short: int | None = None) -> Config:
    """The configuration that makes values: similarities by DINO v1 of each window, no merging.

    Args:
      config: the model, whose windows and stride stay.
      short: shorter side of the resized image; by default 4/3 of the model's, 448 for the published 336.

    Raises:
      ValueError: for a model without DINO.
    """
    if config.dino is None:
        raise ValueError(
            f"the model {config.name!r} has no DINO, by whose similarities the values of a bank are made. Convert "
            "it with DINO ViT-B/8, or name a model that has it."
        )
    method = {"resize_short": short or config.method.resize_short * 4 // 3, "similarity_of": "window"}
    return with_fields(config, similarity="dino", method=method, parts={"merging": False})


def bank_entries(
    config: Config,
    params: Mapping[str, Any],
    clips: Mapping[str, Config],
    images: UInt8[Array, "B H0 W0 3"],
    regions: RegionMasks,
    cap: int,
    *,
    sizes: Int[Array, "B 2"] | None = None,
    short: int | None = None,
) -> BankEntries:
    """Keys and values of the regions of images.

    Args:
      config: the model; `config.similarity` names the backbone of the keys.
      params: a tree with the backbone, "dino", and each CLIP under its name in `clips`.
      clips: configurations whose CLIPs make the values, by name.
      images: RGB.
      regions: their regions.
      cap: R, at least the number of regions of each image.
      sizes: height and width of each image, for a padded batch.
      short: shorter side of the resized image for values; see `values_config`.
    """
    keys = region_keys(config, params, images, regions, cap, sizes)
    values = region_values(values_config(config, short), params, clips, images, regions, cap, sizes)
    return BankEntries(keys, values)


def region_keys(
    config: Config,
    params: Mapping[str, Any],
    images: UInt8[Array, "B H0 W0 3"],
    regions: RegionMasks,
    cap: int,
    sizes: Int[Array, "B 2"] | None = None,
) -> Float[Array, "B R C"]:
    """Keys of the regions of images; see `bank_entries`."""
    shape = jnp.array(images.shape[1:3], jnp.int32)
    with float32_products(config.dtype):
        own = jnp.broadcast_to(shape, (len(images), 2)) if sizes is None else sizes
        whole = whole_images(config, dict(params), images, sizes, own)
        return jax.lax.map(lambda args: _keys(args[0], args[1], cap), (whole, regions))


def _keys(image: WholeImages, regions: RegionMasks, cap: int) -> Float[Array, "R C"]:
    if regions.masks is None:
        return region_means(image, regions.map, cap + 1)[0][1:]
    return jax.lax.map(lambda mask: region_means(image, mask.astype(jnp.int32), 2)[0][1], regions.masks)


def region_values(
    config: Config,
    params: Mapping[str, Any],
    clips: Mapping[str, Config],
    images: UInt8[Array, "B H0 W0 3"],
    regions: RegionMasks,
    cap: int,
    sizes: Int[Array, "B 2"] | None = None,
) -> dict[str, Float[Array, "B R D"]]:
    """Values of the regions of images, by CLIP, with a configuration of `values_config`; see `bank_entries`."""
    windows = sliding_windows(images.shape[1:3], sizes, config)
    most = cap + 2  # distinct ids of a padded window

    def step(pixels: Array, ids: Array, _: Any) -> Array:
        similar = patch_features(config, params, pixels)
        scope, attention = correlate(config, similar, ids, most)
        return jnp.concatenate(
            [
                clip_features(
                    with_fields(config, clip=clip.clip), params[name], pixels, similar, scope, attention, most
                )
                for name, clip in clips.items()
            ],
            axis=-1,
        )

    def one(image: ImageWindows, features: Array, regions: RegionMasks) -> Array:
        grid = _side_by_side(features)
        return _means(
            lambda rows: upsample(grid, jnp.asarray(image.rows)[rows], image.columns),
            features.shape[-1],
            regions,
            cap,
        )

    with float32_products(config.dtype):
        features = windows.map(step, images, regions.map, None)
        means = windows.map_images(one, features, regions)
    widths = np.cumsum([clip.clip.embed_dim for clip in clips.values()])[:-1]
    return {name: normalise(x) for name, x in zip(clips, jnp.split(means, widths, axis=-1), strict=True)}


def _side_by_side(features: Array) -> Array:
    """Features of windows [ny, nx, gh, gw, D] or [n, gh, gw, D] as `upsample` takes a grid."""
    if features.ndim == 4:
        return features.swapaxes(2, 3)
    ny, nx, gh, gw, width = features.shape
    return features.transpose(0, 2, 4, 1, 3).reshape(ny * gh, width, nx * gw)


def _means(
    features: Callable[[Array], Float[Array, "h D W0"]], width: int, regions: RegionMasks, cap: int
) -> Float[Array, "R D"]:
    """Means of features, made for some rows at a time, over the pixels of each region; 0 of one without pixels."""
    height, columns = regions.map.shape
    at_once = min(height, rows_at_once(None, width + cap, columns, device_bytes()))
    numbers = np.arange(1, cap + 1)[:, None, None]

    def add(index: Int[Array, ""], sums: tuple[Array, Array]) -> tuple[Array, Array]:
        rows = index * at_once + jnp.arange(at_once)
        inside = jnp.minimum(rows, height - 1)
        members = regions.map[inside][None] == numbers if regions.masks is None else regions.masks[:, inside]
        members &= (rows < height)[None, :, None]
        total = jnp.einsum("rhw,hdw->rd", members.astype(jnp.float32), features(inside))
        return sums[0] + total, sums[1] + members.sum(axis=(1, 2))

    nothing = jnp.zeros((cap, width), jnp.float32), jnp.zeros(cap, jnp.int32)
    total, count = jax.lax.fori_loop(0, quotient_up(height, at_once), add, nothing)
    return total / jnp.maximum(count, 1)[:, None].astype(jnp.float32)
