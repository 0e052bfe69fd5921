"""Branches: windows to features in CLIP's joint space, by the correlations (METHOD.md, sections 4 to 7).

This is the method's window step. Networks run on a batch of windows; what lies between them is written for one
window and vmapped.
Shapes: N windows, (h, w) padded window, (gh, gw) similarity grid of L cells, (th, tw) CLIP grid, C widths, D joint
width.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from corrclip_jax.config import Config
from corrclip_jax.method.correlation import (
    attention_weights,
    compact,
    in_scope,
    merge_regions,
    normalise,
    scope_mask,
)
from corrclip_jax.method.similarity import patch_features
from corrclip_jax.models.clip.model import CLIP
from corrclip_jax.models.layers import run
from corrclip_jax.ops import resize

_PUBLISHED_SPATIAL_LAYERS = {12: 5, 24: 12, 32: 28}


class WindowStages(NamedTuple):
    """What the window step computes on its way.

    `similarity_features` have unit length, `features` have not. `attention` is None where CLIP's own is kept.
    """

    similarity_features: Float[Array, "N gh gw Cd"]
    regions: Int[Array, "N gh gw"]
    attention: Float[Array, "N L L"] | None
    features: Float[Array, "N L D"]


def spatial_layers(config: Config) -> int:
    """How many middle blocks the spatial branch averages.

    Raises:
      ValueError: where the tower has too few blocks, or the configured number does not fit it.
    """
    depth = config.clip.vision.layers
    chosen = config.method.spatial_layers
    layers = _PUBLISHED_SPATIAL_LAYERS.get(depth, depth - 4) if chosen is None else chosen
    if not 1 <= layers <= depth - 2:
        raise ValueError(
            f"method.spatial_layers must be from 1 to depth - 2 = {depth - 2} (None: the published choice, which "
            f"needs at least 5 blocks). Got {chosen} for a CLIP image tower of {depth} blocks."
        )
    return layers


def window_step(
    config: Config,
    params: dict,
    pixels: Float[Array, "N h w 3"],
    regions: Int[Array, "N h w"],
    cap: int,
    similar: Float[Array, "N gh gw C"] | None = None,
) -> WindowStages:
    """All of the method that happens within a window.

    Args:
      config: the models and the method's numbers.
      params: the tree of `load`: "clip" and the backbone of the similarities.
      pixels: CLIP-normalised windows.
      regions: their region maps, any ids.
      cap: at least the number of distinct ids in any one window.
      similar: unit-length features on the similarity grid; by default those of the backbone on the windows.
    """
    if similar is None:
        similar = patch_features(config, params, pixels)
    merged, attention = correlate(config, similar, regions, cap)
    features = clip_features(config, params["clip"], pixels, similar, merged, attention, cap)
    return WindowStages(similar, merged, attention, features)


@partial(jax.jit, static_argnames=("config", "cap"))  # programs for other batches share the trace
def correlate(
    config: Config, similar: Float[Array, "N gh gw C"], regions: Int[Array, "N h w"], cap: int
) -> tuple[Int[Array, "N gh gw"], Float[Array, "N L L"] | None]:
    """Merged regions on the similarity grid, and how much cells look at each other (None: CLIP's own attention)."""
    # Else XLA repeats the normalisation inside the product of all pairs, which compiles ten times as long for TPUs.
    similar = jax.lax.optimization_barrier(similar)
    merged = jax.vmap(partial(merged_regions, config, cap=cap))(similar, regions)
    attention = jax.vmap(partial(correlations, config))(similar, merged) if config.parts.value else None
    return merged, attention


def merged_regions(
    config: Config, similar: Float[Array, "gh gw C"], regions: Int[Array, "h w"], cap: int
) -> Int[Array, "gh gw"]:
    """One window's regions on the similarity grid, as ids below `cap`, alike ones joined; 0 is unsegmented."""
    gh, gw, width = similar.shape
    cap = min(cap, gh * gw)
    ids = compact(resize.nearest(regions, gh, gw), cap)
    if not config.parts.merging:
        return ids
    merged = merge_regions(similar.reshape(-1, width), ids.reshape(-1), cap, config.method.merge_distance)
    return merged.reshape(gh, gw)


def correlations(
    config: Config, similar: Float[Array, "gh gw C"], regions: Int[Array, "gh gw"]
) -> Float[Array, "L L"]:
    """One window's attention weights, of its merged regions."""
    features = similar.reshape(-1, similar.shape[-1])
    scope = _scope(config, similar, regions, in_scope)
    return attention_weights(features, scope, config.method.similarity_scale)


def clip_features(
    config: Config,
    params: dict,
    pixels: Float[Array, "N h w 3"],
    similar: Float[Array, "N gh gw C"],
    regions: Int[Array, "N gh gw"],
    attention: Float[Array, "N L L"] | None,
    cap: int,
) -> Float[Array, "N L D"]:
    """CLIP's main, spatial and semantic branch under the given attention, summed, in the joint space.

    `regions` are merged ids, at most `cap` distinct ones in a window. Without `attention` the last block's own is
    kept, on its own grid and within the scope there.
    """
    clip = CLIP(config.clip, jnp.dtype(config.dtype))
    gh, gw = regions.shape[1:]
    patch = config.clip.vision.patch_size
    th, tw = pixels.shape[1] // patch, pixels.shape[2] // patch
    on_patches = jax.vmap(lambda ids: resize.nearest(ids, th, tw))(regions)
    own_scope = None
    if attention is None:
        own_scope = jax.vmap(partial(_scope, config))(normalise(resize.bilinear(similar, th, tw)), on_patches)

    token_of = jax.vmap(lambda ids: compact(ids, min(cap, th * tw)))(on_patches)
    inputs = run(
        clip,
        params,
        pixels,
        jax.nn.one_hot(token_of, min(cap, th * tw), axis=1, dtype=bool),
        own_scope,
        spatial_layers=spatial_layers(config),
        method="last_block_inputs",
    )
    token_of = jax.vmap(lambda ids: resize.nearest(ids, gh, gw).reshape(-1))(token_of)
    semantic = jnp.take_along_axis(inputs.regions, token_of[..., None], axis=1)
    values = jnp.concatenate([inputs.main, inputs.spatial], axis=-1)
    if attention is None:
        mixed = resize.bilinear(values, gh, gw).reshape(len(pixels), gh * gw, -1)
    else:
        mixed = attend(attention, values, (gh, gw))
    main, spatial = jnp.split(mixed, 2, axis=-1)
    features = run(
        clip,
        params,
        main,
        spatial,
        semantic,
        spatial_weight=config.method.spatial_weight * config.parts.spatial,
        semantic_weight=config.method.semantic_weight * config.parts.semantic,
        method="read_out",
    )
    return features.astype(jnp.float32)


def attend(
    attention: Float[Array, "N L L"], values: Float[Array, "N th tw C"], grid: tuple[int, int]
) -> Float[Array, "N L C"]:
    """What each cell of the similarity `grid` takes of values on CLIP's, as if those were first resized to it.

    The weights are taken back to CLIP's grid instead, which is coarser in all published models: (A U) V is A (U V).
    """
    count, th, tw, width = values.shape
    rows, columns = resize.bilinear_matrix(th, grid[0]), resize.bilinear_matrix(tw, grid[1])
    weights = jnp.einsum("nlhw,wW->nlhW", attention.reshape(count, -1, *grid), jnp.asarray(columns))
    weights = jnp.einsum("nlhW,hH->nlHW", weights, jnp.asarray(rows)).reshape(count, -1, th * tw)
    return weights.astype(values.dtype) @ values.reshape(count, th * tw, width)


def _scope(
    config: Config,
    similar: Float[Array, "height width C"],
    regions: Int[Array, "height width"],
    scope_of: Callable[[Array, Array], Array] = scope_mask,
) -> Bool[Array, "cells cells"]:
    """One window's scope on any grid: everything, where that part of the method is off."""
    cells = regions.size
    if not config.parts.scope:
        return jnp.ones((cells, cells), bool)
    return scope_of(similar.reshape(cells, -1), regions.reshape(cells))
