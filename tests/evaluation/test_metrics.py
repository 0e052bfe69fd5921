"""Scores of label maps, against counting pixel by pixel."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corrclip_jax.evaluation import metrics
from corrclip_jax.evaluation.metrics import confusion, unscored

CLASSES = 5


def maps(seed: int, shape=(3, 20, 30)):
    """Labels and truth, of which class 3 is never true and class 4 neither; some pixels are not scored."""
    rng = np.random.default_rng(seed)
    truth = rng.choice([0, 1, 2, 255, -1], shape, p=[0.5, 0.3, 0.1, 0.05, 0.05]).astype(np.int32)
    labels = np.where(rng.random(shape) < 0.6, truth, rng.integers(0, 4, shape)).astype(np.int32)
    return np.where((labels < 0) | (labels > 3), 1, labels).astype(np.int32), truth


def counted(*pairs) -> np.ndarray:
    matrix = np.zeros((CLASSES, CLASSES + 1), np.int64)
    for labels, truth in pairs:
        matrix += np.asarray(
            jax.jit(confusion, static_argnums=2)(jnp.asarray(labels), jnp.asarray(truth), CLASSES)
        )
    return matrix


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
    matrix = counted(*pairs)
    ious, accuracies, right = independent(pairs)
    assert ious[3] == 0, "predicted, never true"
    assert ious[4] is None, "neither predicted nor true"
    np.testing.assert_allclose(metrics.class_iou(matrix), as_floats(ious), rtol=1e-12)
    np.testing.assert_allclose(metrics.class_accuracy(matrix), as_floats(accuracies), rtol=1e-12)
    assert metrics.mean_iou(matrix) == pytest.approx(mean(ious), rel=1e-12)
    assert metrics.mean_accuracy(matrix) == pytest.approx(mean(accuracies), rel=1e-12)
    assert metrics.pixel_accuracy(matrix) == pytest.approx(float(right), rel=1e-12)


def test_a_perfect_map_scores_one():
    _, truth = maps(0)
    matrix = counted((truth, truth))
    assert metrics.mean_iou(matrix) == metrics.mean_accuracy(matrix) == metrics.pixel_accuracy(matrix) == 1


def test_the_order_and_the_size_of_the_parts_do_not_matter():
    labels, truth = maps(0)
    whole = counted((labels, truth))
    parts = counted(*reversed(list(zip(labels, truth, strict=True))))
    np.testing.assert_array_equal(whole, parts)


@pytest.mark.parametrize("unlabelled", [-1, CLASSES, 255])
def test_what_got_no_class_is_an_error_of_its_true_class_alone(unlabelled):
    truth = np.array([[0, 0, 0, 1, 1]], np.int32)
    labels = np.array([[0, 0, unlabelled, 1, 1]], np.int32)
    matrix = counted((labels, truth))
    assert matrix[0, CLASSES] == 1
    np.testing.assert_allclose(metrics.class_iou(matrix)[:2], [2 / 3, 1])
    assert metrics.pixel_accuracy(matrix) == 4 / 5


def test_counts_go_on_beyond_32_bits():
    labels, truth = maps(0)
    matrix = counted((labels, truth))
    total = np.full(matrix.shape, (1 << 32) - 5, np.int64)
    total += np.asarray(confusion(jnp.asarray(labels), jnp.asarray(truth), CLASSES))
    np.testing.assert_array_equal(total - matrix, (1 << 32) - 5)
    assert total.max() > 1 << 32


def test_more_pixels_at_once_than_can_be_counted_are_refused():
    huge = jax.ShapeDtypeStruct((1 << 16, 1 << 16), jnp.int32)
    with pytest.raises(ValueError, match=r"at most 2\^32 - 1 pixels .* Got 4,294,967,296"):
        jax.eval_shape(lambda labels, truth: confusion(labels, truth, CLASSES), huge, huge)


def test_no_pixels_have_no_score():
    matrix = counted()
    assert math.isnan(metrics.mean_iou(matrix))
    assert math.isnan(metrics.mean_accuracy(matrix))
    assert math.isnan(metrics.pixel_accuracy(matrix))
    assert math.isnan(metrics.frequency_weighted_iou(matrix))


def test_frequent_classes_weigh_more():
    pairs = [maps(seed) for seed in range(3)]
    ious, _, _ = independent(pairs)
    true = [sum(int((truth == k).sum()) for _, truth in pairs) for k in range(CLASSES)]
    wanted = sum(n * iou for n, iou in zip(true, ious, strict=True) if n) / sum(true)
    assert metrics.frequency_weighted_iou(counted(*pairs)) == pytest.approx(float(wanted), rel=1e-12)


def test_areas_are_the_matrix_in_short():
    labels, truth = maps(1)
    matrix = jnp.stack(
        [confusion(jnp.asarray(a), jnp.asarray(b), CLASSES) for a, b in zip(labels, truth, strict=True)]
    )
    areas = np.asarray(metrics.areas(matrix))
    for place, (found, real) in enumerate(zip(labels, truth, strict=True)):
        for k in range(CLASSES):
            hits = ((found == k) & (real == k)).sum(), (real == k).sum()
            predicted = ((found == k) & (real >= 0) & (real < CLASSES)).sum()
            assert areas[place, :, k].tolist() == [*hits, predicted]
    np.testing.assert_allclose(metrics.area_iou(areas.sum(0)), metrics.class_iou(np.asarray(matrix.sum(0))))


# --- boundaries ---


def eroded(mask: np.ndarray, times: int) -> np.ndarray:
    """As the authors of Boundary IoU do it: a frame of zeros, then so many erosions by 3 x 3."""
    mask = np.pad(mask, 1)
    for _ in range(times):
        framed = np.pad(mask, 1, mode="edge")
        height, width = mask.shape
        mask = np.min([framed[y : y + height, x : x + width] for y in range(3) for x in range(3)], axis=0)
    return mask[1:-1, 1:-1]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("size", [(60, 80), (130, 90), (7, 9)])
def test_boundaries_are_those_of_each_class_eroded_alone(size, seed):
    rng = np.random.default_rng(seed)
    cells = rng.integers(-1, CLASSES, (2, 6, 6))
    rows, columns = (np.sort(rng.integers(0, 6, n)) for n in size)
    truth, labels = (cell[rows][:, columns].astype(np.int32) for cell in cells)
    labels = np.abs(labels)
    labels[rng.random(size) < 0.01] = 2
    distance = max(1, round(0.02 * math.hypot(*size)))
    assert metrics.boundary_distance(*size) == distance
    wanted = np.zeros((3, CLASSES), int)
    for k in range(CLASSES):
        real, found = (mask & ~eroded(mask, distance) for mask in (truth == k, labels == k))
        found &= truth >= 0
        wanted[:, k] = (real & found).sum(), real.sum(), found.sum()
    # On a larger canvas, with nothing around the picture, the result is the same.
    for more in ((0, 0), (1, 0), (40, 25)):
        room = tuple((0, side) for side in more)
        canvases = [jnp.asarray(np.pad(each, room, constant_values=-1)) for each in (labels, truth)]
        areas = jax.jit(metrics.boundary_areas, static_argnums=2)(*canvases, CLASSES, jnp.int32(distance))
        np.testing.assert_array_equal(np.asarray(areas), wanted)
    if size != (7, 9):
        assert 0 < wanted[0].sum() < wanted[1].sum() < labels.size


def test_predictions_where_the_truth_is_no_class_are_counted_by_class():
    labels, truth = jnp.array([[0, 2, 2], [1, -1, 2]]), jnp.array([[0, -1, 65535], [1, -1, 2]])
    assert unscored(labels, truth, CLASSES)[:3].tolist() == [0, 0, 2]
    assert int(unscored(labels, truth, CLASSES).sum()) == 2
