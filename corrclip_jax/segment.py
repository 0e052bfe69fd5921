"""The whole method: photos and text embeddings in, a label for every pixel out.

`make_segment(config)` gives a pure function for `jax.jit`: static shapes, no host callback, one compilation a
shape. Shapes: B photos [H0, W0], N windows [h, w] a photo on a grid [gh, gw], D joint width, K classes.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from corrclip_jax import labels, windows
from corrclip_jax.branches import spatial_layers, window_step
from corrclip_jax.checkpoint import check_params
from corrclip_jax.config import Config
from corrclip_jax.correlation import compact, normalise
from corrclip_jax.sources import SOURCES, can_find, find_regions
from corrclip_jax.text import TextEmbedding, as_text_embedding


class Result(NamedTuple):
    """Labels of a batch of photos.

    `labels` are classes 0 .. K-1; `scores` the winning class's probability before the map correction; `regions`
    the region maps that were used. A photo with more regions than the cap has labels -1 and scores NaN.
    """

    labels: Int[Array, "B H0 W0"]
    scores: Float[Array, "B H0 W0"]
    regions: Int[Array, "B H0 W0"]


def make_segment(config: Config) -> Callable[..., Result]:
    """The segmentation function of a configuration.

    It is called as `segment(params, images, text_emb, *, sizes=None, regions=None)`:
      params: the tree of `load`, keys "clip", "dino" and, where regions are to be found, "sam2".
      images: uint8 [B, H0, W0, 3], RGB.
      text_emb: a `TextEmbedding`, or an array [K, D] of one unit-length query a class.
      sizes: the place of photos of different sizes on one canvas, which is not built yet.
      regions: integer [B, H0, W0], region maps to use in place of SAM's; any ids from 0, of which the smallest in
        a photo is "the rest", at most `config.method.max_regions` others.

    Raises:
      ValueError: by either function, for a configuration, parameters or arrays that do not fit, at trace time.
      NotImplementedError: where `sizes` is given.
    """
    spatial_layers(config)

    def segment(params, images, text_emb, *, sizes=None, regions=None) -> Result:
        text = as_text_embedding(text_emb)
        _check(config, params, images, text, sizes, regions)
        with jax.default_matmul_precision("highest"):
            if regions is None:
                regions, cap = find_regions(config, params, images)
            else:
                regions, cap = regions.astype(jnp.int32), config.method.max_regions + 1
            features = photo_features(config, params, images, regions, cap)
            return label_photos(config, features, text, regions, cap)

    return segment


def photo_features(
    config: Config, params: dict, images, regions: Int[Array, "B H0 W0"], cap: int
) -> Float[Array, "B ny nx gh gw D"]:
    """Unit-length features of every window's cells; the windows of all photos are one batch for the towers."""
    plan = windows.plan_windows(*images.shape[1:3], config.method)
    pixels = jax.vmap(lambda photo: windows.cut_photo(photo, plan))(images)
    region_windows = jax.vmap(lambda ids: windows.cut_regions(ids, plan))(regions)

    def step(batch):
        pixels, regions = batch
        # A padded window holds one id more than its photo.
        return normalise(window_step(config, params, pixels, regions, cap + 1).features)

    flat = (pixels.reshape(-1, *pixels.shape[2:]), region_windows.reshape(-1, *region_windows.shape[2:]))
    features = map_chunks(step, flat, config.method.windows_per_chunk)
    grid = windows.grid_of(plan, config.dino.patch_size)
    return features.reshape(len(images), len(plan.y.starts), len(plan.x.starts), *grid, -1)


def label_photos(
    config: Config,
    features: Float[Array, "B ny nx gh gw D"],
    text: TextEmbedding,
    regions: Int[Array, "B H0 W0"],
    cap: int,
) -> Result:
    """Features to labels at the photos' own size, corrected by region."""
    plan = windows.plan_windows(*regions.shape[1:], config.method)
    gh, gw = features.shape[3:5]
    rows, columns = windows.stitch_matrix(plan.y, gh), windows.stitch_matrix(plan.x, gw)

    def one_photo(args):
        features, regions = args
        grid = labels.logit_grid(features, text.features)
        found, scores = labels.classify(grid, rows, columns, text, config.method)
        ids = compact(regions, cap)
        if config.parts.correction:
            found = labels.correct_by_region(found, ids, cap, text.num_classes)
        fits = (ids.max() < cap) & (regions.min() >= 0)
        return jnp.where(fits, found, -1), jnp.where(fits, scores, jnp.nan)

    found, scores = jax.lax.map(one_photo, (features, regions))
    return Result(found, scores, regions)


def map_chunks(function: Callable, batch: tuple[Array, ...], size: int) -> Array:
    """Apply a batched function to `size` examples at a time, one chunk after the other.

    Unlike `jax.lax.map(batch_size=)` nothing is vmapped, so the function sees an ordinary batch.
    """
    count = len(batch[0])
    if count <= size:
        return function(batch)
    whole = count - count % size
    chunks = tuple(x[:whole].reshape(-1, size, *x.shape[1:]) for x in batch)
    out = jax.lax.map(function, chunks)
    out = out.reshape(whole, *out.shape[2:])
    if whole == count:
        return out
    return jnp.concatenate([out, function(tuple(x[whole:] for x in batch))])


def _check(config: Config, params, images, text: TextEmbedding, sizes, regions) -> None:
    if sizes is not None:
        raise NotImplementedError(
            "photos of different sizes in one batch (sizes=) are not supported yet. "
            "Call segment once for each size, or use Segmenter, which groups photos by size."
        )
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != jnp.uint8:
        raise ValueError(f"images must be uint8 [B, H, W, 3]. Got {images.dtype} {list(images.shape)}.")
    if 0 in images.shape:
        raise ValueError(f"images must not be empty. Got shape {list(images.shape)}.")
    width = config.clip.embed_dim
    if text.features.shape[1] != width:
        raise ValueError(
            f"text_emb must have the model's joint width, [Q, {width}]. Got {list(text.features.shape)}: "
            "embed the class names with the same model's params."
        )
    source = SOURCES["none" if regions is not None else config.regions.source]
    if regions is None and not can_find(config, params):
        raise ValueError(
            f"no {source.title} to find regions with: config.{source.tower} or params[{source.tower!r}] is "
            "missing. Load a model that has it, give region maps (regions=), or set config.regions.source to "
            "'none'."
        )
    check_params(config, params, region_tower=source.tower)
    if regions is not None:
        _check_regions(config, images, regions)


def _check_regions(config: Config, images, regions) -> None:
    if regions.shape != images.shape[:3] or not jnp.issubdtype(regions.dtype, jnp.integer):
        raise ValueError(
            f"regions must be integers of the images' size, {list(images.shape[:3])}. "
            f"Got {regions.dtype} {list(regions.shape)}."
        )
    if isinstance(regions, jax.core.Tracer):
        return  # values are unknown here; `label_photos` marks what does not fit
    if (lowest := int(regions.min())) < 0:
        raise ValueError(f"regions must hold ids of 0 and above. Got {lowest}.")
    for index, one in enumerate(regions):
        if (count := len(jnp.unique(one)) - 1) > config.method.max_regions:
            raise ValueError(
                f"region map {index} has {count} regions besides the rest, config.method.max_regions is "
                f"{config.method.max_regions}. Raise it, or merge regions."
            )
