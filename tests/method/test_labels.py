"""The label stage decides as a softmax over queries does, block by block, and votes as a loop over regions does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corrclip_jax.config import MethodConfig
from corrclip_jax.method.labels import classify, correct_by_region, logit_grid, region_logits, upsample
from corrclip_jax.ops.resize import bilinear_matrix
from corrclip_jax.text.embedding import TextEmbedding, pad_queries

ROWS, COLUMNS = bilinear_matrix(6, 50), bilinear_matrix(8, 70)
CLASS_OF = np.array([0, 0, 1, 2, 2, 2, 3])


@pytest.fixture(scope="module")
def grid():
    rng = np.random.default_rng(0)
    features = jnp.asarray(rng.standard_normal((2, 2, 3, 4, 16)) / 8, jnp.float32)
    queries = jnp.asarray(rng.standard_normal((len(CLASS_OF), 16)) / 8, jnp.float32)
    return logit_grid(features, queries), queries


def embedding(queries):
    return TextEmbedding(queries, jnp.asarray(CLASS_OF), 4)


def plain(grid, method):
    """The published order: softmax over queries, each class's best query, arg-max, threshold."""
    logits = np.einsum("hy,yqx,wx->qhw", ROWS, np.asarray(grid), COLUMNS)
    weights = np.exp(method.logit_scale * (logits - logits.max(0)))
    probability = weights / weights.sum(0)
    classes = np.stack([probability[np.equal(CLASS_OF, k)].max(0) for k in range(4)])
    return np.where(classes.max(0) < method.background_threshold, 0, classes.argmax(0)), classes.max(0)


@pytest.mark.parametrize("threshold", [0.0, 0.6])
@pytest.mark.parametrize("rows_per_chunk", [1, 16, 50, 64])
def test_classes_and_scores(grid, threshold, rows_per_chunk):
    method = MethodConfig(background_threshold=threshold, rows_per_chunk=rows_per_chunk)
    labels, scores = classify(grid[0], ROWS, COLUMNS, embedding(grid[1]), method)
    wanted_labels, wanted_scores = plain(grid[0], method)
    assert (np.asarray(labels) == wanted_labels).mean() > 0.999
    np.testing.assert_allclose(scores, wanted_scores, atol=1e-5)


def test_padding_queries_change_nothing(grid):
    method = MethodConfig()
    padded = pad_queries(embedding(grid[1]), 16)
    wide = jnp.pad(grid[0], ((0, 0), (0, 9), (0, 0)))
    for ours, wanted in zip(
        classify(wide, ROWS, COLUMNS, padded, method),
        classify(grid[0], ROWS, COLUMNS, embedding(grid[1]), method),
        strict=True,
    ):
        np.testing.assert_allclose(ours, wanted, atol=1e-6)


def test_the_logits_of_a_region_are_the_mean_of_its_pixels(grid):
    regions = np.random.default_rng(2).integers(0, 4, (50, 70))
    regions[regions == 2] = 5  # the cap: not counted
    logits = np.asarray(upsample(grid[0], ROWS, COLUMNS)).swapaxes(1, 2)
    wanted = [
        logits[regions == id].mean(axis=0) if (regions == id).any() else np.zeros(len(CLASS_OF))
        for id in range(5)
    ]
    found = region_logits(grid[0], ROWS, COLUMNS, jnp.asarray(regions), 5)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    halves = [np.stack(np.split(np.asarray(x), 2, axis=1), 1) for x in (ROWS, COLUMNS)]
    windows = jnp.asarray(grid[0]).reshape(2, 3, 7, 2, 4)
    apart = jnp.stack([windows[0, :, :, 0], windows[1, :, :, 1]])
    whole = sum(upsample(apart[n], *(half[:, n] for half in halves)) for n in (0, 1)).swapaxes(1, 2)
    wanted = np.stack([whole[regions == id].mean(axis=0) for id in (0, 1)])
    found = region_logits(apart, *halves, jnp.asarray(regions), 5)
    np.testing.assert_allclose(found[:2], wanted, atol=1e-5)


def test_no_array_of_queries_times_photo_is_made(grid):
    """The largest intermediate is a block of rows."""
    rows = bilinear_matrix(6, 1024)
    method = MethodConfig(rows_per_chunk=8)

    def run(grid):
        return classify(grid, rows, COLUMNS, embedding(grid[0, :, :1]), method)

    compiled = jax.jit(run).lower(grid[0]).compile()
    full = 4 * len(CLASS_OF) * 1024 * 70
    assert compiled.memory_analysis().temp_size_in_bytes < full / 4


def test_upsampling_is_the_two_matrix_products(grid):
    np.testing.assert_allclose(
        upsample(grid[0], ROWS, COLUMNS), np.einsum("hy,yqx,wx->hqw", ROWS, grid[0], COLUMNS), atol=1e-5
    )


def test_regions_take_their_most_frequent_label_and_the_rest_keeps_its_own():
    rng = np.random.default_rng(0)
    labels, regions = rng.integers(0, 5, (40, 30)), rng.integers(0, 6, (40, 30))
    wanted = labels.copy()
    for region in range(1, 6):
        wanted[regions == region] = np.bincount(labels[regions == region]).argmax()
    ours = correct_by_region(jnp.asarray(labels), jnp.asarray(regions), cap=9, num_classes=5)
    np.testing.assert_array_equal(ours, wanted)


def test_of_labels_equally_frequent_the_smallest_wins():
    labels, regions = jnp.array([[3, 1, 1, 3]]), jnp.array([[1, 1, 1, 1]])
    np.testing.assert_array_equal(correct_by_region(labels, regions, 2, 4), [[1, 1, 1, 1]])


def test_pixels_whose_logits_are_not_finite_get_no_label_and_have_no_vote(grid):
    method = MethodConfig(background_threshold=0.3)
    whole, _ = classify(grid[0], ROWS, COLUMNS, embedding(grid[1]), method)
    for wrong in (jnp.nan, jnp.inf):

        def fuse(logits, rows, wrong=wrong):
            return logits.at[:, 2].add(jnp.where(rows < 7, wrong, 0)[:, None])

        labels, scores = classify(grid[0], ROWS, COLUMNS, embedding(grid[1]), method, fuse)
        assert np.isnan(scores[:7]).all() and np.isfinite(scores[7:]).all()
        np.testing.assert_array_equal(labels, np.where(np.arange(50)[:, None] < 7, -1, whole))
    labels, regions = jnp.array([[-1, -1, -1, 1, 1, -1]]), jnp.array([[1, 1, 1, 1, 1, 0]])
    np.testing.assert_array_equal(correct_by_region(labels, regions, 2, 4), [[-1, -1, -1, 1, 1, -1]])
