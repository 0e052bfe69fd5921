"""Reading ahead: examples in a fixed order, decoded by threads, in batches of one size."""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from corrclip_jax.datasets.dataset import NOT_SCORED, Dataset, Example
from corrclip_jax.datasets.label_files import LabelError
from corrclip_jax.photos import PhotoError
from corrclip_jax.region_files import RegionError, count_regions

# Threads suffice: Pillow decodes without holding Python's lock.
_THREADS, _AHEAD = 4, 32
_WAITING = 256


class Broken(NamedTuple):
    """An example that cannot be used, by its place, and why."""

    place: int
    message: str


class Numbered(NamedTuple):
    """An example and its place in the data set."""

    place: int
    example: Example


class Batch(NamedTuple):
    """Pictures of one size, by their places; after these ones copies fill the batch, with labels `NOT_SCORED`."""

    indices: tuple[int, ...]
    images: UInt8[np.ndarray, "B H W 3"]
    labels: Int[np.ndarray, "B H W"]
    regions: Int[np.ndarray, "B H W"] | None


def read_ahead(
    dataset: Dataset, indices: Sequence[int], *, max_regions: int | None = None
) -> Iterator[Numbered | Broken]:
    """The examples of some places, in that order, read by threads while others are at work.

    Given region maps with more than `max_regions` distinct ids besides the smallest are broken.
    """
    import grain  # a second's import, which only evaluation needs

    source = _Source(dataset, indices, max_regions)
    options = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_AHEAD)
    yield from grain.MapDataset.source(source).to_iter_dataset(options)


class _Source:
    """Random access for Grain."""

    def __init__(self, dataset: Dataset, indices: Sequence[int], max_regions: int | None):
        self._dataset, self._indices, self._max_regions = dataset, list(indices), max_regions

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, place: int) -> Numbered | Broken:
        index = self._indices[place]
        try:
            example = self._dataset.example(index)
        except (PhotoError, LabelError, RegionError) as error:
            return Broken(index, str(error))
        if self._max_regions is not None and example.regions is not None:
            count = count_regions(example.regions)
            if count > self._max_regions:
                return Broken(
                    index,
                    f"{self._dataset.stem(index)} has {count} regions, more than config.method.max_regions = "
                    f"{self._max_regions}. Raise it, or merge small regions.",
                )
        return Numbered(index, example)


def batches(examples: Iterable[Numbered | Broken], size: int) -> Iterator[Batch | Broken]:
    """Examples in batches of one picture size each, in the order in which batches are full.

    Where very many sizes wait for more pictures, the fullest is filled with copies and goes.
    """
    waiting: dict[tuple[int, ...], list[Numbered]] = {}
    for one in examples:
        if isinstance(one, Broken):
            yield one
            continue
        shape = one.example.labels.shape
        group = waiting.setdefault(shape, [])
        group.append(one)
        if len(group) == size:
            yield _stack(waiting.pop(shape), size)
        elif sum(map(len, waiting.values())) > max(_WAITING, size):
            fullest = max(waiting, key=lambda shape: len(waiting[shape]))
            yield _stack(waiting.pop(fullest), size)
    for group in waiting.values():
        yield _stack(group, size)


def _stack(group: list[Numbered], size: int) -> Batch:
    examples = [one.example for one in group]
    filler = examples[-1]._replace(labels=np.full(examples[-1].labels.shape, NOT_SCORED))
    filled = examples + [filler] * (size - len(group))
    maps = [example.regions for example in filled if example.regions is not None]
    return Batch(
        tuple(one.place for one in group),
        np.stack([example.image for example in filled]),
        np.stack([example.labels for example in filled]).astype(np.int32),
        np.stack(maps).astype(np.int32) if maps else None,
    )
