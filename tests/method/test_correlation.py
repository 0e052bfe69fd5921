"""Merging is connected components, scope is the paper's, and odd region maps do what METHOD.md says."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corrclip_jax.method import correlation

# Each a program of its shapes; op by op they would be dozens.
attention_weights = jax.jit(correlation.attention_weights, static_argnums=2)
connected_components, in_scope, scope_mask = map(
    jax.jit, (correlation.connected_components, correlation.in_scope, correlation.scope_mask)
)
compact = jax.jit(correlation.compact, static_argnums=1)
merge_regions = jax.jit(correlation.merge_regions, static_argnums=(2, 3))


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def test_compact_ranks_any_ids():
    ids = jnp.array([[7, 7, 0], [2**31 - 1, 300, 7]])
    np.testing.assert_array_equal(compact(ids, 9), [[1, 1, 0], [3, 2, 1]])


@pytest.mark.parametrize(
    "ids",
    [
        np.arange(100)[::-1] * 3,
        np.arange(31, 34),
        np.repeat([5, 2**31 - 1, -(2**31), 0, -1, 2**31 - 2], 3),
        np.random.default_rng(0).integers(-(2**31), 2**31, 60),
        np.zeros(4, int),
    ],
    ids=["several turns", "around a word", "the smallest and the largest", "far apart", "one"],
)
def test_compact_equals_numpy(ids):
    found = compact(jnp.asarray(ids.astype(np.int32)), 101)
    np.testing.assert_array_equal(found, np.unique(ids, return_inverse=True)[1])


def test_compact_shows_that_the_cap_is_exceeded():
    assert compact(jnp.arange(10), 4).max() >= 4


def test_compact_fills_its_cap_exactly():
    np.testing.assert_array_equal(compact(jnp.array([5, 3, 9]), 3), [1, 0, 2])


@pytest.mark.parametrize("seed", range(5))
def test_connected_components_equal_a_flood_fill(seed):
    rng = np.random.default_rng(seed)
    size = 40
    linked = rng.random((size, size)) < 0.03
    linked = linked | linked.T | np.eye(size, dtype=bool)
    wanted = np.full(size, -1)
    for node in range(size):
        stack = [node] if wanted[node] < 0 else []
        while stack:
            here = stack.pop()
            if wanted[here] < 0:
                wanted[here] = node
                stack += list(np.flatnonzero(linked[here]))
    np.testing.assert_array_equal(connected_components(jnp.asarray(linked)), wanted)


def test_connected_components_of_a_long_chain():
    size = 200
    order = np.random.default_rng(0).permutation(size)
    linked = np.eye(size, dtype=bool)
    linked[order[:-1], order[1:]] = linked[order[1:], order[:-1]] = True
    assert (np.asarray(connected_components(jnp.asarray(linked))) == 0).all()


def test_merging_joins_a_chain_and_never_the_rest():
    angles = np.deg2rad([0, 0, 30, 60, 150])  # the rest, then a chain of 30 degrees, then one far away
    features = unit(np.stack([np.cos(angles), np.sin(angles)], axis=1))
    regions = jnp.arange(5)
    np.testing.assert_array_equal(merge_regions(jnp.asarray(features), regions, 8, 0.2), [0, 1, 1, 1, 4])


def test_merging_leaves_two_regions_alone():
    features = jnp.asarray(unit(np.ones((4, 3))))
    np.testing.assert_array_equal(merge_regions(features, jnp.array([0, 0, 1, 1]), 4, 0.2), [0, 0, 1, 1])


def test_a_cell_sees_its_own_region_alone():
    features = jnp.asarray(unit(np.random.default_rng(0).standard_normal((6, 8))))
    regions = jnp.array([0, 1, 1, 2, 2, 2])
    weights = np.asarray(attention_weights(features, scope_mask(features, regions), 4.0))
    same = np.asarray(regions[:, None] == regions[None])
    assert (weights[1:, 1:][~same[1:, 1:]] == 0).all()
    assert (weights[1:, 1:][same[1:, 1:]] > 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)


def test_the_rest_sees_what_is_more_alike_than_the_mean_and_is_seen_by_it():
    features = jnp.asarray(unit(np.random.default_rng(1).standard_normal((12, 4))))
    regions = jnp.array([0] * 5 + [3] * 7)
    similarity = np.asarray(features @ features.T)
    scope = similarity > similarity.mean()
    scope[5:, 5:] = True
    np.testing.assert_array_equal(scope_mask(features, regions), scope)


def test_a_window_of_one_colour_gives_numbers():
    features = jnp.asarray(unit(np.ones((9, 4))))
    regions = jnp.zeros(9, jnp.int32)
    weights = attention_weights(features, scope_mask(features, regions), 4.0)
    np.testing.assert_array_equal(weights, attention_weights(features, in_scope(features, regions), 4.0))
    assert np.isfinite(weights).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("regions", [np.zeros(9, np.int32), np.arange(9, dtype=np.int32)])
def test_weights_are_the_softmax_within_the_scope(regions):
    features = jnp.asarray(unit(np.random.default_rng(4).standard_normal((9, 4))))
    scope = scope_mask(features, jnp.asarray(regions))
    exponentials = np.where(scope, np.exp(4 * np.asarray(features @ features.T)), 0)
    weights = attention_weights(features, in_scope(features, jnp.asarray(regions)), 4.0)
    np.testing.assert_allclose(weights, exponentials / exponentials.sum(axis=1, keepdims=True), rtol=2e-5)


def test_weights_of_damaged_features_are_no_numbers():
    features = jnp.asarray(unit(np.ones((9, 4)))).at[2, 1].set(jnp.nan)
    for regions in (jnp.zeros(9, jnp.int32), jnp.arange(9)):
        assert np.isnan(attention_weights(features, in_scope(features, regions), 4.0)[2]).any()


def test_steps_for_one_window_can_be_vmapped():
    features = jnp.asarray(unit(np.random.default_rng(2).standard_normal((3, 10, 4))))
    regions = jnp.asarray(np.random.default_rng(3).integers(0, 4, (3, 10)))
    together = jax.vmap(lambda f, r: merge_regions(f, compact(r, 10), 10, 0.2))(features, regions)
    for index in range(3):
        alone = merge_regions(features[index], compact(regions[index], 10), 10, 0.2)
        np.testing.assert_array_equal(together[index], alone)
