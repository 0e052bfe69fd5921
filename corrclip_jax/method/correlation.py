"""Similarity, region merging and scope: which cells of one window look at which (METHOD.md, sections 4 to 6).

Everything here is written for one window and vmapped outside. Region ids are compacted to 0 .. R-1 first, where R
is a static cap, so that regions become rows of one-hot matrices; index 0, the smallest id present, stands for
unsegmented cells.
Shapes: L grid cells, C feature width, R regions.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

_BITS = 32  # of a word


def compact(ids: Int[Array, "*shape"], cap: int) -> Int[Array, "*shape"]:
    """Replace ids by their rank among the distinct ids present, ascending.

    Each iteration sets one bit of a word for every id present among the 32 from the smallest unranked one on, and
    ranks these. Dense ids take a few iterations; ids far apart take one each. Sorting the pixels instead is slower,
    and takes a tenth of the time that a TPU's whole program compiles in.

    With more than `cap` distinct ids the largest ranks reach `cap`, and are wrong beyond: callers rule that out or
    check.
    """

    def rank(state: Any) -> Any:
        ranks, known, smallest, _ = state
        left = ids >= smallest
        above = ids.astype(jnp.uint32) - smallest.astype(jnp.uint32)
        near = left & (above < _BITS)
        bit = jnp.left_shift(jnp.uint32(1), jnp.where(near, above, 0))
        present = jax.lax.reduce_or(jnp.where(near, bit, 0), tuple(range(ids.ndim)))
        smaller = jax.lax.population_count(present & (bit - 1)).astype(jnp.int32)
        total = known + jax.lax.population_count(present).astype(jnp.int32)
        far = left & ~near
        ranks = jnp.where(near, known + smaller, jnp.where(far, total, ranks))
        smallest = jnp.min(ids, where=far, initial=jnp.iinfo(ids.dtype).max)
        return ranks, total, smallest, far.any() & (total < cap)

    start = (jnp.zeros(ids.shape, jnp.int32), jnp.int32(0), ids.min(), jnp.array(True))
    return jax.lax.while_loop(lambda state: state[-1], rank, start)[0]


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
    """Which cells a cell may look at: those in its scope or, where there are none, itself.

    Nothing is in scope of the cells of an unsegmented image of one colour. The official implementation gives NaN.
    """
    scope = in_scope(features, regions)
    return scope | (jnp.eye(len(regions), dtype=bool) & ~scope.any(axis=1, keepdims=True))


def in_scope(features: Float[Array, "L C"], regions: Int[Array, " L"]) -> Bool[Array, "L L"]:
    """Which cells are in a cell's scope: those of its own region.

    Where one of two cells is unsegmented, they see each other if they are more similar than the mean over all
    pairs, which for S = F F^T is |sum F|^2 / L^2. NaN is in scope, so that it reaches the result.
    """
    similarity = features @ features.T
    mean = jnp.square(features.mean(axis=0)).sum()
    unsegmented = regions == 0
    same = regions[:, None] == regions[None]
    return jnp.where(unsegmented[:, None] | unsegmented[None], ~(similarity <= mean), same)


def attention_weights(
    features: Float[Array, "L C"], scope: Bool[Array, "L L"], scale: float
) -> Float[Array, "L L"]:
    """How much each cell takes of each other: softmax of the scaled similarities in scope.

    A cell with nothing in scope takes of itself, as in `scope_mask`.
    """
    scores = jnp.where(scope, scale * (features @ features.T), -jnp.inf)
    # Rows with nothing in scope have weights that sum to 0. scope.any() would be another pass over the pairs on
    # TPUs, and `largest` cannot tell them from NaN, which XLA's maximum may drop on CPUs.
    largest = scores.max(axis=-1, keepdims=True)
    weights = jnp.exp(scores - jnp.where(largest == -jnp.inf, 0, largest))
    total = weights.sum(axis=-1, keepdims=True)
    nothing = total == 0
    return jnp.where(nothing, jnp.eye(len(features)), weights / jnp.where(nothing, 1, total))
