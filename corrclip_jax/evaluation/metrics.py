"""Metrics of label maps: confusion matrices counted on the device, and scores computed from their 64-bit sums.

A *matrix* [K, K+1] holds pixels by class: rows are the truth, columns the prediction, the last column pixels
without a predicted class. Truth that is no class (-1, 255 ...) is left out. Means leave out what mmsegmentation
leaves out: a class that is neither true nor predicted anywhere has no IoU, one that is never true no accuracy.
Shapes: K classes.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer, UInt32

BOUNDARY_SHARE = 0.02
"""How far from a class's outline its boundary reaches, as a share of the image's diagonal (Boundary IoU)."""


def confusion(
    labels: Int[Array, "*shape"], truth: Int[Array, "*shape"], num_classes: int
) -> UInt32[Array, "{num_classes} {num_classes}+1"]:
    """The matrix of label maps. Add such matrices up in 64 bits (`numpy.int64`).

    Raises:
      ValueError: for 2^32 pixels or more at once, which 32 bits could not count.
    """
    if labels.size >= 1 << 32:
        raise ValueError(f"labels of at most 2^32 - 1 pixels can be counted at once. Got {labels.size:,}.")
    column = jnp.where((labels >= 0) & (labels < num_classes), labels, num_classes)
    row = jnp.where((truth >= 0) & (truth < num_classes), truth, num_classes)  # beyond the matrix: dropped
    zeros = jnp.zeros((num_classes, num_classes + 1), jnp.uint32)
    return zeros.at[row, column].add(1, mode="drop")


def unscored(
    labels: Int[Array, "*shape"], truth: Int[Array, "*shape"], num_classes: int
) -> UInt32[Array, " {num_classes}"]:
    """Pixels by predicted class where the truth is no class."""
    outside = (truth < 0) | (truth >= num_classes)
    column = jnp.where(outside & (labels >= 0) & (labels < num_classes), labels, num_classes)
    return jnp.zeros(num_classes, jnp.uint32).at[column].add(1, mode="drop")


def areas(matrix: UInt32[Array, "*batch K K1"]) -> UInt32[Array, "*batch 3 K"]:
    """Pixels by class of matrices: correct, true, predicted."""
    hit = jnp.diagonal(matrix, axis1=-2, axis2=-1)
    predicted = matrix.sum(axis=-2, dtype=jnp.uint32)[..., :-1]
    return jnp.stack([hit, matrix.sum(axis=-1, dtype=jnp.uint32), predicted], axis=-2)


def boundary_areas(
    labels: Int[Array, "H W"], truth: Int[Array, "H W"], num_classes: int, distance: int | Int[Array, ""]
) -> UInt32[Array, "3 {num_classes}"]:
    """Pixels by class on the classes' boundaries: on both maps', on the true, on the predicted one.

    A pixel is on its class's boundary if another label or the image's edge is at most `distance` away (see
    `boundary_distance`) along rows and columns. Source: Cheng et al., Boundary IoU, CVPR 2021,
    there for one mask; here all classes at once, and truth that is no class is left out.
    """
    scored = (truth >= 0) & (truth < num_classes)
    truth = jnp.where(scored, truth, -1)
    real = scored & near_change(truth, distance)
    found = scored & near_change(labels, distance)
    both = real & found & (labels == truth)

    def count(classes: Array, mask: Array) -> Array:
        where = jnp.where(mask & (classes >= 0), classes, num_classes)
        return jnp.zeros(num_classes, jnp.uint32).at[where].add(1, mode="drop")

    return jnp.stack([count(truth, both), count(truth, real), count(labels, found)])


def boundary_distance(height: int, width: int) -> int:
    """How far boundaries reach in an image of a size, in pixels; at least 1.

    >>> boundary_distance(375, 500)
    12
    """
    return max(1, round(BOUNDARY_SHARE * math.hypot(height, width)))


def near_change(labels: Int[Array, "H W"], distance: int | Int[Array, ""]) -> Bool[Array, "H W"]:
    """Whether the square of `distance` pixels to each side holds another label, or reaches beyond the map."""
    along_rows = _changes(labels, 1, distance)
    along_columns = _changes(labels, 0, distance)
    inside = jnp.arange(len(labels))
    cut = (inside < distance) | (inside >= len(labels) - distance)
    rows = jnp.cumsum(jnp.pad(along_rows, ((1, 0), (0, 0))), axis=0, dtype=jnp.int32)
    low, high = jnp.clip(inside - distance, 0), jnp.clip(inside + distance + 1, max=len(labels))
    return cut[:, None] | along_columns | (rows[high] > rows[low])


def _changes(labels: Int[Array, "H W"], axis: int, distance: int | Int[Array, ""]) -> Bool[Array, "H W"]:
    """Whether the line of `distance` pixels to each side holds another label, or reaches beyond the map."""
    length = labels.shape[axis]
    step = jnp.diff(labels, axis=axis, prepend=jnp.take(labels, jnp.array([0]), axis=axis)) != 0
    changes = jnp.cumsum(step, axis=axis, dtype=jnp.int32)
    position = jnp.arange(length)
    beyond = (position < distance) | (position >= length - distance)
    low, high = jnp.clip(position - distance, 0), jnp.clip(position + distance, max=length - 1)
    changed = jnp.take(changes, high, axis=axis) != jnp.take(changes, low, axis=axis)
    return changed | (beyond[None, :] if axis else beyond[:, None])


def class_iou(matrix: Integer[np.ndarray, "K _"]) -> Float[np.ndarray, " K"]:
    """Intersection over union, TP / (TP + FP + FN), of every class, 0..1; NaN where it neither is nor is predicted.

    >>> class_iou(np.array([[3, 1, 0], [2, 2, 0], [0, 0, 0]])).tolist()
    [0.5, 0.4, nan]
    """
    hit = np.diagonal(matrix)
    return _ratio(hit, matrix.sum(axis=1) + matrix[:, : len(matrix)].sum(axis=0) - hit)


def mean_iou_by_mmsegmentation(
    matrix: Integer[np.ndarray, "K _"], unscored: Integer[np.ndarray, " K"], ignored: int
) -> float:
    """The mIoU as mmsegmentation computes it where `ignored`, the number it leaves out, is a class, 0..1.

    True pixels of that class are left out, and pixels without true class are not: what is predicted there counts as
    false. CorrCLIPv2's configurations of the large vocabularies are of this kind (255 is ignored, 65535 is not).

    >>> round(mean_iou_by_mmsegmentation(np.array([[3, 1, 0], [2, 2, 0], [0, 1, 3]]), np.array([1, 0, 0]), 2), 4)
    0.4143
    """
    matrix = np.array(matrix, np.int64)
    matrix[ignored] = 0
    hit = np.diagonal(matrix)
    predicted = matrix[:, : len(matrix)].sum(axis=0) + unscored
    return _mean(_ratio(hit, matrix.sum(axis=1) + predicted - hit))


def class_accuracy(matrix: Integer[np.ndarray, "K _"]) -> Float[np.ndarray, " K"]:
    """The share of every class's pixels that are labelled correctly, TP / (TP + FN), 0..1; NaN without pixels.

    >>> class_accuracy(np.array([[3, 1], [2, 2]])).tolist()
    [0.75, 0.5]
    """
    return _ratio(np.diagonal(matrix), matrix.sum(axis=1))


def mean_iou(matrix: Integer[np.ndarray, "K _"]) -> float:
    """The mean of `class_iou`, 0..1, over the classes that are true or predicted somewhere (mmsegmentation's mIoU).

    A class that is predicted but never true counts with 0; one that is neither is left out.

    >>> mean_iou(np.array([[3, 1, 0], [2, 2, 0], [0, 0, 0]]))
    0.45
    """
    return _mean(class_iou(matrix))


def mean_accuracy(matrix: Integer[np.ndarray, "K _"]) -> float:
    """The mean of `class_accuracy`, 0..1, over the classes that are true somewhere (mmsegmentation's mAcc).

    >>> mean_accuracy(np.array([[3, 1], [2, 2]]))
    0.625
    """
    return _mean(class_accuracy(matrix))


def pixel_accuracy(matrix: Integer[np.ndarray, "K _"]) -> float:
    """The share of all pixels that are labelled correctly, 0..1 (mmsegmentation's aAcc); NaN without pixels.

    >>> pixel_accuracy(np.array([[3, 1], [2, 4]]))
    0.7
    """
    pixels = int(matrix.sum())
    return int(np.trace(matrix)) / pixels if pixels else float("nan")


def frequency_weighted_iou(matrix: Integer[np.ndarray, "K _"]) -> float:
    """The mean of `class_iou`, 0..1, weighted by the classes' true pixels; NaN without pixels.

    >>> round(frequency_weighted_iou(np.array([[3, 1, 0], [2, 2, 0], [0, 0, 0]])), 3)
    0.45
    """
    pixels = matrix.sum(axis=1)
    if not pixels.any():
        return float("nan")
    return float((pixels * np.nan_to_num(class_iou(matrix))).sum() / pixels.sum())


def area_iou(areas: Integer[np.ndarray, "*batch 3 K"]) -> Float[np.ndarray, "*batch K"]:
    """IoU of every class from its areas (`areas`, `boundary_areas`), 0..1; NaN for an empty union.

    >>> area_iou(np.array([[3, 2, 0], [4, 4, 0], [5, 3, 0]])).tolist()
    [0.5, 0.4, nan]
    """
    hit, real, found = np.moveaxis(areas.astype(np.int64), -2, 0)
    return _ratio(hit, real + found - hit)


def mean_area_iou(areas: Integer[np.ndarray, "3 K"]) -> float:
    """The mean of `area_iou` over the classes that have one; NaN where none has.

    >>> mean_area_iou(np.array([[3, 2, 0], [4, 4, 0], [5, 3, 0]]))
    0.45
    """
    return _mean(area_iou(areas))


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
