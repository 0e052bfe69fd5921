"""The nearest entries of a bank are those that sorting all scores gives; support is the mean of their values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corrclip_jax.method import bank
from corrclip_jax.method.bank import Bank
from corrclip_jax.method.bank_arrays import quantised_keys

search, support = jax.jit(bank.search, static_argnums=2), jax.jit(bank.support)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def by_sorting(keys, queries, k):
    """All scores, sorted; of equal ones the lower row first."""
    scores = queries.astype(np.float64) @ unit(keys.astype(np.float64)).T
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]


def random_keys(count, width=8, seed=0):
    rng = np.random.default_rng(seed)
    return (0.3 * rng.standard_normal((count, width))).astype(np.float16)


def random_queries(count, width=8):
    return unit(np.random.default_rng(1).standard_normal((count, width))).astype(np.float32)


@pytest.mark.parametrize("count", [5, 64, 4097, 9000])
def test_search_equals_sorting(count):
    keys, queries = random_keys(count), random_queries(6)
    ids, scores = search(Bank(keys, {}), queries, 5)
    np.testing.assert_array_equal(ids, by_sorting(keys, queries, 5))
    assert (np.diff(scores) <= 0).all()


def test_of_equal_keys_the_lower_row_comes_first():
    keys = np.tile(random_keys(10), (1000, 1))
    ids, _ = search(Bank(keys, {}), random_queries(3), 7)
    best = np.asarray(ids[:, :1])
    np.testing.assert_array_equal(ids, best + 10 * np.arange(7))
    assert (best < 10).all()


def test_a_bank_of_fewer_entries_fills_up_with_none():
    keys = random_keys(6)
    keys[2] = 0  # no entry
    ids, scores = search(Bank(keys, {}), random_queries(2), 8)
    assert sorted(np.asarray(ids[0])) == [-1, -1, -1, 0, 1, 3, 4, 5]
    np.testing.assert_array_equal(np.asarray(ids) < 0, np.isneginf(scores))


def test_support_is_the_mean_of_the_values_that_were_found():
    values = unit(np.random.default_rng(2).standard_normal((9, 4))).astype(np.float16)
    ids = np.array([[3, 0, -1], [8, 8, 8], [-1, -1, -1]], np.int32)
    means, supported = support(values, ids)
    wanted = unit(np.stack([values[[3, 0]].astype(np.float32).mean(0), values[8].astype(np.float32)]))
    np.testing.assert_allclose(means[:2], wanted, rtol=1e-6)
    np.testing.assert_array_equal(means[2], 0)
    np.testing.assert_array_equal(supported, [True, True, False])


@pytest.mark.parametrize("lists", [3, 40])
def test_quantised_search_equals_the_distances_to_decoded_keys(lists):
    rng = np.random.default_rng(3)
    count, centroids, words = 6000, unit(rng.standard_normal((40, 8))), rng.standard_normal((4, 256, 2)) / 4
    centroids, words = centroids.astype(np.float32), words.astype(np.float32)
    list_of, codes = rng.integers(0, 40, count) % 37, rng.integers(0, 256, (count, 4), dtype=np.uint8)
    ids, queries = rng.permutation(count), random_queries(5)
    keys = quantised_keys(centroids, words, list_of, codes, ids, lists)
    found, scores = search(Bank(keys, {}), queries, 6)

    decoded = centroids[list_of] + words[np.arange(4), codes].reshape(count, 8)
    distances = np.square(queries[:, None] - decoded.astype(np.float64)).sum(2)
    probed = np.argsort(-queries @ centroids.T, axis=1)[:, :lists]
    distances[~(list_of[None, :, None] == probed[:, None]).any(2)] = np.inf
    nearest = np.argsort(distances, axis=1)[:, :6]
    np.testing.assert_array_equal(found, ids[nearest])
    np.testing.assert_allclose(-scores, np.take_along_axis(distances, nearest, 1), atol=1e-5)


def test_scores_of_all_keys_never_exist():
    million = Bank(jax.ShapeDtypeStruct((1_000_000, 16), jnp.float16), {})
    program = search.lower(million, jax.ShapeDtypeStruct((32, 16), jnp.float32), 20).compile()
    assert program.memory_analysis().temp_size_in_bytes < 4 * 1_000_000
