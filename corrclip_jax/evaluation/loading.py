"""Loading of a data set's images for scoring: their sizes, single examples, padded batches."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from corrclip_jax.datasets.dataset import NOT_SCORED, Dataset, Example
from corrclip_jax.datasets.label_files import LabelError
from corrclip_jax.inference.buckets import Batch, Size
from corrclip_jax.inference.stream import padded_batch, sizes_of
from corrclip_jax.io.photos import PhotoError
from corrclip_jax.io.region_maps import RegionError, count_regions

_UNREADABLE = (PhotoError, LabelError, RegionError, OSError, MemoryError, RecursionError)
_HEADER_THREADS = 16  # they wait for files rather than compute


@dataclass(frozen=True)
class Unreadable:
    """An image that cannot be scored, by its index in the data set, and why."""

    index: int
    message: str


class PaddedExamples(NamedTuple):
    """A batch of examples, each in the top left corner of its row.

    Labels around them are `NOT_SCORED`; rows that fill the batch up have size 0.
    """

    images: UInt8[np.ndarray, "B H W 3"]
    labels: Int[np.ndarray, "B H W"]
    regions: Int[np.ndarray, "B H W"] | None
    sizes: Int[np.ndarray, "B 2"]


def read_sizes(dataset: Dataset) -> tuple[dict[int, Size], dict[int, str]]:
    """Height and width of every image by its index; and why some images cannot be read, by their indices."""

    def one(index: int) -> Size | str:
        try:
            if dataset.size is not None:
                return dataset.size(index)
            height, width = dataset.example(index).labels.shape
            return height, width
        except _UNREADABLE as error:
            return _reason(dataset, index, error)

    with ThreadPoolExecutor(_HEADER_THREADS) as pool:
        found = dict(enumerate(pool.map(one, range(dataset.count))))
    faults = {index: text for index, text in found.items() if isinstance(text, str)}
    return {index: size for index, size in found.items() if not isinstance(size, str)}, faults


def read_example(dataset: Dataset, index: int, *, max_regions: int | None = None) -> Example | Unreadable:
    """An example, or why it cannot be scored.

    A given region map with more than `max_regions` distinct ids besides the smallest is one reason.
    """
    try:
        example = dataset.example(index)
    except _UNREADABLE as error:
        return Unreadable(index, _reason(dataset, index, error))
    if max_regions is not None and example.regions is not None:
        count = count_regions(example.regions)
        if count > max_regions:
            return Unreadable(
                index,
                f"{dataset.stem(index)} has {count} regions, more than config.method.max_regions = {max_regions}. "
                "Raise it, or merge small regions.",
            )
    return example


def _reason(dataset: Dataset, index: int, error: BaseException) -> str:
    if isinstance(error, PhotoError | LabelError | RegionError):
        return str(error)
    what = "needs more memory than there is" if isinstance(error, MemoryError) else "cannot be read"
    return f"{dataset.stem(index)} {what}: {str(error) or type(error).__name__}."


def padded_examples(batch: Batch, examples: Sequence[Example]) -> PaddedExamples:
    """The examples of a batch that could be read, in the batch's first rows."""
    maps = [example.regions.astype(np.int32) for example in examples if example.regions is not None]
    return PaddedExamples(
        padded_batch([example.image for example in examples], batch),
        padded_batch([example.labels.astype(np.int32) for example in examples], batch, NOT_SCORED),
        padded_batch(maps, batch) if maps else None,
        sizes_of([example.labels for example in examples], batch),
    )
