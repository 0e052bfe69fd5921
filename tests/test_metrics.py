"""Scores of label maps, against counting pixel by pixel."""

import doctest
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corrclip_jax import metrics
from corrclip_jax.metrics import Counts, add_counts, no_counts, to_matrix

CLASSES = 5


def maps(seed: int, shape=(3, 20, 30)):
    """Labels and truth, of which class 3 is never true and class 4 neither; some pixels are not scored."""
    rng = np.random.default_rng(seed)
    truth = rng.choice([0, 1, 2, 255, -1], shape, p=[0.5, 0.3, 0.1, 0.05, 0.05]).astype(np.int32)
    labels = np.where(rng.random(shape) < 0.6, truth, rng.integers(0, 4, shape)).astype(np.int32)
    return np.where((labels < 0) | (labels > 3), 1, labels).astype(np.int32), truth


def counted(*pairs) -> Counts:
    counts = no_counts(CLASSES)
    for labels, truth in pairs:
        counts = jax.jit(add_counts)(counts, jnp.asarray(labels), jnp.asarray(truth))
    return counts


def independent(pairs):
    """Scores as sets of pixels have them, in fractions: no array arithmetic."""
    pixels = [
        (place, int(label), int(true))
        for place, (labels, truth) in enumerate(pairs)
        for label, true in zip(labels.ravel(), truth.ravel(), strict=True)
    ]
    scored = [(n, label, true) for n, (_, label, true) in enumerate(pixels) if 0 <= true < CLASSES]
    ious, accuracies = [], []
    for k in range(CLASSES):
        found = {n for n, label, _ in scored if label == k}
        real = {n for n, _, true in scored if true == k}
        ious.append(Fraction(len(found & real), len(found | real)) if found | real else None)
        accuracies.append(Fraction(len(found & real), len(real)) if real else None)
    right = Fraction(sum(label == true for _, label, true in scored), len(scored))
    return ious, accuracies, right


def mean(values) -> float:
    known = [value for value in values if value is not None]
    return float(sum(known) / len(known))


def as_floats(values) -> list[float]:
    return [math.nan if value is None else float(value) for value in values]


def test_scores_are_those_of_sets_of_pixels():
    pairs = [maps(seed) for seed in range(3)]
    matrix = to_matrix(counted(*pairs))
    ious, accuracies, right = independent(pairs)
    assert ious[3] == 0, "predicted, never true"
    assert ious[4] is None, "neither predicted nor true"
    np.testing.assert_allclose(metrics.class_iou(matrix), as_floats(ious), rtol=1e-12)
    np.testing.assert_allclose(metrics.class_accuracy(matrix), as_floats(accuracies), rtol=1e-12)
    assert metrics.mean_iou(matrix) == pytest.approx(mean(ious), rel=1e-12)
    assert metrics.mean_accuracy(matrix) == pytest.approx(mean(accuracies), rel=1e-12)
    assert metrics.pixel_accuracy(matrix) == pytest.approx(float(right), rel=1e-12)


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(metrics).failed == 0


def test_a_perfect_map_scores_one():
    _, truth = maps(0)
    matrix = to_matrix(counted((truth, truth)))
    assert metrics.mean_iou(matrix) == metrics.mean_accuracy(matrix) == metrics.pixel_accuracy(matrix) == 1


def test_the_order_and_the_size_of_the_parts_do_not_matter():
    labels, truth = maps(0)
    whole = to_matrix(counted((labels, truth)))
    parts = to_matrix(counted(*reversed(list(zip(labels, truth, strict=True)))))
    np.testing.assert_array_equal(whole, parts)


@pytest.mark.parametrize("unlabelled", [-1, CLASSES, 255])
def test_what_got_no_class_is_an_error_of_its_true_class_alone(unlabelled):
    truth = np.array([[0, 0, 0, 1, 1]], np.int32)
    labels = np.array([[0, 0, unlabelled, 1, 1]], np.int32)
    matrix = to_matrix(counted((labels, truth)))
    assert matrix[0, CLASSES] == 1
    np.testing.assert_allclose(metrics.class_iou(matrix)[:2], [2 / 3, 1])
    assert metrics.pixel_accuracy(matrix) == 4 / 5


def test_counts_go_on_beyond_32_bits():
    labels, truth = maps(0)
    before = np.full((CLASSES, CLASSES + 1), (1 << 32) - 5, np.int64)
    full = Counts(jnp.full(before.shape, 2**32 - 5, jnp.uint32), jnp.zeros(before.shape, jnp.uint32))
    counts = full
    for _ in range(2):
        counts = add_counts(counts, jnp.asarray(labels), jnp.asarray(truth))
    np.testing.assert_array_equal(to_matrix(counts) - before, 2 * to_matrix(counted((labels, truth))))
    assert to_matrix(Counts(full.low, full.low >> 2)).max() > 1 << 60


def test_more_pixels_at_once_than_can_be_counted_are_refused():
    huge = jax.ShapeDtypeStruct((1 << 16, 1 << 16), jnp.int32)
    with pytest.raises(ValueError, match=r"at most 2\^32 - 1 pixels .* Got 4,294,967,296"):
        jax.eval_shape(add_counts, no_counts(CLASSES), huge, huge)


def test_no_pixels_have_no_score():
    matrix = to_matrix(no_counts(CLASSES))
    assert math.isnan(metrics.mean_iou(matrix))
    assert math.isnan(metrics.mean_accuracy(matrix))
    assert math.isnan(metrics.pixel_accuracy(matrix))
