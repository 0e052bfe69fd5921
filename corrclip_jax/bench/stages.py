"""Stages of the method as separate programs, each with the inputs that it gets in the whole program.

Shapes: B images [H0, W0], N windows of all images, n windows in a chunk.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from corrclip_jax.config import FAMILIES, Config, similarity_network
from corrclip_jax.method import bank as banks
from corrclip_jax.method import branches, windows
from corrclip_jax.method.bank import Bank
from corrclip_jax.method.correlation import normalise
from corrclip_jax.method.segment import label_images, make_segment
from corrclip_jax.method.similarity import patch_features
from corrclip_jax.method.sliding_windows import sliding_windows
from corrclip_jax.method.support import (
    REGIONS_AT_ONCE,
    Support,
    region_queries,
    region_support,
    support_from_neighbours,
)
from corrclip_jax.method.whole_image import WholeImages, whole_images
from corrclip_jax.ops.precision import float32_products
from corrclip_jax.regions.sources import find_regions
from corrclip_jax.runtime.memory import device_bytes, points_at_once, windows_at_once
from corrclip_jax.text.embedding import TextEmbedding, pad_queries, query_bucket


class Stage(NamedTuple):
    """A part of the program.

    Attributes:
      name: as the report has it.
      function: of arrays.
      arguments: its inputs.
      times: how often one batch needs it: 1 for a stage that runs on the whole batch, N / n for one that runs on a
        chunk of windows.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    times: float


def split_stages(
    config: Config, params: dict, images: jax.Array, text: TextEmbedding, bank: Bank | None = None
) -> list[Stage]:
    """Split the method into its stages, in order: regions, backbone, correlation, CLIP, labels.

    With a bank there are three more before the labels: features of regions, search, support.

    The inputs of each stage are computed from the images by the stages before it; those of the window stages
    are the first chunk. Cutting windows is not a stage: it is only in the whole program.

    Args:
      config: the model; with `regions.source` "none" there is no stage of regions.
      params: its parameters.
      images: uint8 [B, H0, W0, 3].
      text: embeddings of the classes.
      bank: a bank, for a model of CorrCLIPv2.
    """
    in_segment = partial(as_in_segment, config)
    find = jax.jit(partial(find_regions, config))
    regions, cap = find(params, images)
    cap = int(cap)

    plan = windows.plan_windows(*images.shape[1:3], config.method)
    grid = (len(plan.y.starts), len(plan.x.starts))
    count = len(images) * grid[0] * grid[1]
    chunk = min(count, windows_at_once(config, device_bytes()))
    pixels, ids = _first_windows(plan, images, regions, chunk)

    layout: Any = sliding_windows(images.shape[1:3], None, config)
    of_images = config.method.similarity_of == "image"

    def similarity(params: Any, pixels: jax.Array) -> Any:
        if of_images:
            return whole_images(config, params, pixels, None, layout.resized(len(pixels)))
        return patch_features(config, params, pixels)

    def on_grid(similar: Any) -> Any:
        return (
            layout.cells(similar, *jnp.divmod(jnp.arange(chunk), grid[0] * grid[1])) if of_images else similar
        )

    def correlation(similar: Any, ids: jax.Array) -> Any:
        return branches.correlate(config, on_grid(similar), ids, cap + 1)

    def clip(params: Any, pixels: jax.Array, similar: Any, merged: Any, attention: Any) -> jax.Array:
        return normalise(branches.clip_features(config, params, pixels, similar, merged, attention, cap + 1))

    def labels(features: jax.Array, text: TextEmbedding, regions: jax.Array, support: Any) -> Any:
        return label_images(config, features, text, regions, cap, layout, support)

    backbone = {config.similarity: params[config.similarity]}
    seen, looks = (images, 1.0) if of_images else (pixels, count / chunk)
    similar = jax.jit(in_segment(similarity))(backbone, seen)
    correlated = jax.jit(in_segment(correlation))(similar, ids)
    cells = jax.jit(in_segment(on_grid))(similar)
    some = jax.jit(in_segment(clip))(params["clip"], pixels, cells, *correlated)
    # The time for labels does not depend on the features: those of the first window are used for all.
    features = jnp.broadcast_to(
        some[0].reshape(*cells.shape[1:3], -1), (len(images), *grid, *cells.shape[1:3], some.shape[-1])
    )
    times = count / chunk
    asked, support = ([], None) if bank is None else _bank_stages(config, similar, regions, cap, bank, text)
    stages = [
        Stage(FAMILIES[config.similarity].title, in_segment(similarity), (backbone, seen), looks),
        Stage("correlation", in_segment(correlation), (similar, ids), times),
        Stage("CLIP", in_segment(clip), (params["clip"], pixels, cells, *correlated), times),
        *asked,
        Stage("labels", in_segment(labels), (features, text, regions, support), 1.0),
    ]
    if config.regions.source == "none":
        return stages
    return [Stage("regions", lambda *inputs: find(*inputs)[0], (params, images), 1.0), *stages]


def _bank_stages(
    config: Config, whole: WholeImages, regions: jax.Array, cap: int, bank: Bank, text: TextEmbedding
) -> tuple[list[Stage], Support]:
    """The stages that ask a bank, and the support that it gives to the regions of the images."""
    method, in_segment = config.method, partial(as_in_segment, config)

    def queries(whole: WholeImages, regions: jax.Array) -> Any:
        return region_queries(whole, regions, cap)

    def search(bank: Bank, queries: jax.Array) -> Any:
        return banks.search(bank, queries, method.neighbours)

    def support(bank: Bank, text: TextEmbedding, ids: jax.Array, scores: jax.Array) -> Support:
        return support_from_neighbours(ids, scores, bank, text, method)

    features, there = jax.jit(in_segment(queries))(whole, regions)
    features, there = features.reshape(-1, features.shape[-1]), there.reshape(-1)
    at_once = min(REGIONS_AT_ONCE, len(features))
    some = features[jnp.argsort(~there, stable=True)[:at_once]]
    found = jax.jit(in_segment(search))(bank, some)
    said = jax.jit(in_segment(region_support), static_argnums=(2, 5))(whole, regions, cap, bank, text, method)
    times = -(-int(there.sum()) // at_once)
    return [
        Stage("features of regions", in_segment(queries), (whole, regions), 1.0),
        Stage("search", in_segment(search), (bank, some), times),
        Stage("support", in_segment(support), (bank, text, *found), times),
    ], said


def draw_bank(entries: int, config: Config) -> Bank:
    """A bank of random entries for a model, float16."""
    rng = np.random.default_rng(2)
    width = similarity_network(config)[1].width

    def rows(width: int) -> jax.Array:
        drawn = rng.standard_normal((entries, width), np.float32)
        return jnp.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True), jnp.float16)

    make: Any = Bank
    return make(rows(width), {"main": rows(config.clip.embed_dim)})


def as_in_segment(config: Config, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with float32 products as precise as in `make_segment`."""

    def in_context(*args: Any) -> Any:
        with float32_products(config.dtype):
            return function(*args)

    return in_context


def draw_photos(batch: int, height: int, width: int) -> jax.Array:
    """Random images, uint8 [B, H0, W0, 3]: coloured patches with some noise, so that there are regions to find."""
    rng = np.random.default_rng(0)
    patches = rng.integers(0, 200, (batch, 5, 7, 3))
    rows, columns = np.arange(height) * 5 // height, np.arange(width) * 7 // width
    return jnp.asarray(
        patches[:, rows[:, None], columns] + rng.integers(0, 56, (batch, height, width, 1)), jnp.uint8
    )


def draw_text(queries: int, width: int) -> TextEmbedding:
    """Text embeddings with one random unit vector per class, [queries, width]."""
    vectors = np.random.default_rng(1).standard_normal((queries, width)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return TextEmbedding(jnp.asarray(vectors), jnp.arange(queries, dtype=jnp.int32), queries)


def draw_classes(config: Config, classes: int) -> TextEmbedding:
    """Random text embeddings of so many classes for a model, filled up to a bucket as they are in use."""
    return pad_queries(draw_text(classes, config.clip.embed_dim), query_bucket(classes))


def whole_program(config: Config, mesh: Mesh | None = None) -> Callable[..., tuple[jax.Array, ...]]:
    """The segmentation function of `(params, images, text, bank)` with its results as a tuple."""
    segment = make_segment(config, mesh=mesh)

    def program(params: dict, images: jax.Array, text: TextEmbedding, bank: Any) -> tuple[jax.Array, ...]:
        return tuple(segment(params, images, text, bank=bank))

    return program


def settings_of(
    config: Config, height: int, width: int, batch: int, classes: int, bank_entries: int
) -> dict[str, Any]:
    """What a report says of the program that it is about."""
    return {
        "height": height,
        "width": width,
        "batch": batch,
        "dtype": config.dtype,
        "regions": config.regions.source,
        "points_per_side": config.regions.points_per_side,
        "windows_per_chunk": windows_at_once(config, device_bytes()),
        "points_per_chunk": points_at_once(config, device_bytes()),
        "classes": classes,
        "bank_entries": bank_entries,
    }


def _first_windows(
    plan: windows.WindowPlan, images: jax.Array, regions: jax.Array, count: int
) -> tuple[jax.Array, jax.Array]:
    """Pixels and region maps of the first `count` windows of the batch."""
    photos = -(-count // (len(plan.y.starts) * len(plan.x.starts)))
    cut = jax.jit(lambda images: jax.vmap(lambda photo: windows.cut_image(photo, plan))(images))
    cut_regions = jax.jit(lambda maps: jax.vmap(lambda ids: windows.cut_regions(ids, plan))(maps))
    pixels, ids = cut(images[:photos]), cut_regions(regions[:photos])
    return pixels.reshape(-1, *pixels.shape[2:])[:count], ids.reshape(-1, *ids.shape[2:])[:count]
