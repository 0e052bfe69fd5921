"""Similarity, region merging and scope: which cells of one window look at which (METHOD.md, sections 4 to 6).

Everything here is written for one window and vmapped outside. Region ids are compacted to 0 .. R-1 first, where R
is a static cap, so that regions become rows of one-hot matrices; index 0, the smallest id present, stands for
unsegmented cells.
Shapes: L grid cells, C feature width, R regions.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def compact(ids: Int[Array, "*shape"], cap: int) -> Int[Array, "*shape"]:
    """Replace ids by their rank among the distinct ids present, ascending.

    With more than `cap` distinct ids the largest ranks reach `cap` and beyond: callers rule that out or check.
    """
    flat = ids.reshape(-1)
    order = jnp.argsort(flat)
    ascending = flat[order]
    ranks = jnp.cumsum(ascending[1:] != ascending[:-1], dtype=jnp.int32)
    return jnp.zeros_like(flat, jnp.int32).at[order[1:]].set(ranks).reshape(ids.shape)


def normalise(x: Float[Array, "*batch C"]) -> Float[Array, "*batch C"]:
    """L2-normalise the last axis; zero vectors stay zero."""
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-12)


def merge_regions(
    features: Float[Array, "L C"], regions: Int[Array, " L"], cap: int, distance: float
) -> Int[Array, " L"]:
    """Join regions whose mean features are alike; unsegmented cells (index 0) never join.

    Regions linked by a chain of cosine distances of at most `distance`, measured from the largest similarity
    present, become one: connected components, the same as DBSCAN with one sample a core. A merged region goes by
    the smallest of its indices.
    """
    members = jax.nn.one_hot(regions, cap, axis=0, dtype=features.dtype)
    means = normalise(members @ features)
    real = members.any(axis=1) & (jnp.arange(cap) > 0)
    pairs = real[:, None] & real[None]
    cosine = means @ means.T
    largest = jnp.max(cosine, where=pairs, initial=-1.0)
    linked = (pairs & (largest - cosine <= distance)) | jnp.eye(cap, dtype=bool)
    return connected_components(linked)[regions]


def connected_components(linked: Bool[Array, "R R"]) -> Int[Array, " R"]:
    """The smallest index of each node's component, for a symmetric reflexive relation."""
    size = linked.shape[0]

    def spread(state: tuple[Array, Array]) -> tuple[Array, Array]:
        labels, _ = state
        smallest = jnp.where(linked, labels[None], size).min(axis=1)
        smallest = smallest[smallest]  # a label's own label: paths halve at every step
        return smallest, (smallest != labels).any()

    labels, _ = jax.lax.while_loop(lambda state: state[1], spread, (jnp.arange(size), jnp.array(True)))
    return labels


def scope_mask(features: Float[Array, "L C"], regions: Int[Array, " L"]) -> Bool[Array, "L L"]:
    """Which cells a cell may look at.

    A cell sees its own region. Where one of two cells is unsegmented, they see each other if they are more similar
    than the mean over all pairs, which for S = F F^T is |sum F|^2 / L^2. A cell with nothing in scope sees itself
    (an image of one colour; the official implementation gives NaN there).
    """
    similarity = features @ features.T
    mean = jnp.square(features.mean(axis=0)).sum()
    unsegmented = regions == 0
    same = regions[:, None] == regions[None]
    scope = jnp.where(unsegmented[:, None] | unsegmented[None], similarity > mean, same)
    return scope | (jnp.eye(len(regions), dtype=bool) & ~scope.any(axis=1, keepdims=True))


def attention_weights(
    features: Float[Array, "L C"], scope: Bool[Array, "L L"], scale: float
) -> Float[Array, "L L"]:
    """How much each cell takes of each other: softmax of the scaled similarities in scope."""
    similarity = features @ features.T
    return jax.nn.softmax(jnp.where(scope, scale * similarity, -jnp.inf), axis=-1)
