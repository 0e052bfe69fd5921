"""Scores of label maps: pixels are counted on the device, in 64 bits, and scores are formulae of the counts.

A *matrix* [K, K+1] holds pixels by class: rows are the truth, columns the prediction, the last column what got no
class at all. Shapes: K classes.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer, UInt32


class Counts(NamedTuple):
    """A matrix on the device, as the lower and upper halves of 64-bit integers, which JAX has not by default."""

    low: UInt32[Array, "K K+1"]
    high: UInt32[Array, "K K+1"]


def no_counts(num_classes: int) -> Counts:
    """The counts of no pixels."""
    zeros = jnp.zeros((num_classes, num_classes + 1), jnp.uint32)
    return Counts(zeros, zeros)


def add_counts(counts: Counts, labels: Int[Array, "*shape"], truth: Int[Array, "*shape"]) -> Counts:
    """Count the pixels of label maps. A pixel whose truth is no class (-1, 255 ...) is left out.

    Exact for any number of calls; one call takes fewer than 2^32 pixels.

    Raises:
      ValueError: for more pixels at once.
    """
    if labels.size >= 1 << 32:
        raise ValueError(f"labels of at most 2^32 - 1 pixels can be counted at once. Got {labels.size:,}.")
    classes = len(counts.low)
    column = jnp.where((labels >= 0) & (labels < classes), labels, classes)
    row = jnp.where((truth >= 0) & (truth < classes), truth, classes)  # beyond the matrix: dropped
    more = jnp.zeros_like(counts.low).at[row, column].add(1, mode="drop")
    low = counts.low + more
    return Counts(low, counts.high + (low < more))


def to_matrix(counts: Counts) -> Int[np.ndarray, "K K+1"]:
    """The counts as one matrix of 64-bit integers on the host."""
    low, high = (np.asarray(half).astype(np.int64) for half in counts)
    return low + (high << 32)


def class_iou(matrix: Integer[np.ndarray, "K _"]) -> Float[np.ndarray, " K"]:
    """Intersection over union, TP / (TP + FP + FN), of every class, 0..1; NaN where it neither is nor is predicted.

    >>> class_iou(np.array([[3, 1, 0], [2, 2, 0], [0, 0, 0]])).tolist()
    [0.5, 0.4, nan]
    """
    hit = np.diagonal(matrix)
    return _ratio(hit, matrix.sum(axis=1) + matrix[:, : len(matrix)].sum(axis=0) - hit)


def class_accuracy(matrix: Integer[np.ndarray, "K _"]) -> Float[np.ndarray, " K"]:
    """The share of every class's pixels that got it, TP / (TP + FN), 0..1; NaN where there are none.

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
    """The share of all pixels that got their class, 0..1 (mmsegmentation's aAcc); NaN where there are none.

    >>> pixel_accuracy(np.array([[3, 1], [2, 4]]))
    0.7
    """
    pixels = int(matrix.sum())
    return int(np.trace(matrix)) / pixels if pixels else float("nan")


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
