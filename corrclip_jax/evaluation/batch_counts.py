"""Counts of one batch of an evaluation, on the host."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt32

from corrclip_jax.datasets.dataset import Example
from corrclip_jax.inference.programs import Piece


class BatchCounts(NamedTuple):
    """The counts of one batch.

    Attributes:
      indices: the images that were counted.
      matrices: pixels by class (see `metrics`), one matrix for each variant of the method.
      areas: those of every image, by the first variant.
      unscored: pixels by predicted class where the truth is no class, for each variant.
      boundary: the boundaries' areas by the first variant, summed over the batch.
      pixels: those of the images, scored or left out.
      labels: the first variant's, at the images' own sizes; None unless they were asked for.
    """

    indices: tuple[int, ...]
    matrices: UInt32[np.ndarray, "V K K1"]
    unscored: UInt32[np.ndarray, "V K"]
    areas: UInt32[np.ndarray, "B 3 K"]
    boundary: UInt32[np.ndarray, "3 K"]
    pixels: int
    labels: list[Int[np.ndarray, "H W"]] | None


def counts_of(piece: Piece) -> BatchCounts:
    """The counts of a piece, summed over the devices.

    Raises:
      jax.errors.JaxRuntimeError: the piece's own.
    """
    if isinstance(piece.out, Exception):
        raise piece.out
    pairs = zip(piece.batch.indices, piece.items, strict=True)
    good = {index: item for index, item in pairs if isinstance(item, Example)}
    labels, areas, boundary = piece.out[0].labels, piece.out[0].areas, piece.out[0].boundary
    if labels is not None:
        shapes = (example.labels.shape for example in good.values())
        labels = [each[:height, :width] for each, (height, width) in zip(labels, shapes, strict=False)]
    return BatchCounts(
        tuple(good),
        np.stack([outcome.matrix.sum(axis=0, dtype=np.uint32) for outcome in piece.out]),
        np.stack([outcome.unscored.sum(axis=0, dtype=np.uint32) for outcome in piece.out]),
        areas[: len(good)],
        boundary.sum(axis=0, dtype=np.uint32),
        sum(example.labels.size for example in good.values()),
        labels,
    )


def joined(counts: Sequence[BatchCounts]) -> BatchCounts:
    """The counts of a batch from those of its pieces."""
    if len(counts) == 1:
        return counts[0]
    labels = [each.labels for each in counts if each.labels is not None]
    return BatchCounts(
        tuple(index for each in counts for index in each.indices),
        np.stack([each.matrices for each in counts]).sum(axis=0, dtype=np.uint32),
        np.stack([each.unscored for each in counts]).sum(axis=0, dtype=np.uint32),
        np.concatenate([each.areas for each in counts]),
        np.stack([each.boundary for each in counts]).sum(axis=0, dtype=np.uint32),
        sum(each.pixels for each in counts),
        [one for each in labels for one in each] if labels else None,
    )


def first_unlabelled(counts: BatchCounts) -> int:
    """The first image with pixels that the first variant gave no label; by others, the batch's first image."""
    true, predicted = counts.areas[:, 1].sum(axis=-1), counts.areas[:, 2].sum(axis=-1)
    return counts.indices[int(np.argmax(true > predicted))]
