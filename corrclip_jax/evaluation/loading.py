"""Reading ahead: the pictures of planned batches in their order, decoded by threads, on one canvas a batch."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from corrclip_jax.datasets.dataset import NOT_SCORED, Dataset, Example
from corrclip_jax.datasets.label_files import LabelError
from corrclip_jax.inference import stream
from corrclip_jax.inference.buckets import Batch, Size
from corrclip_jax.io.photos import PhotoError
from corrclip_jax.io.region_maps import RegionError, count_regions

# Threads suffice: Pillow decodes without holding Python's lock.
_THREADS, _AHEAD = 4, 32
_HEADERS = 16  # threads that wait for files rather than compute


class Broken(NamedTuple):
    """An example that cannot be used, by its place, and why."""

    place: int
    message: str


class Numbered(NamedTuple):
    """An example and its place in the data set."""

    place: int
    example: Example


class Loaded(NamedTuple):
    """A batch of pictures in the top left corners of one canvas each; `places` are those that could be read.

    What lies around them has the label `NOT_SCORED`; pictures of size 0 fill the batch up.
    """

    batch: Batch
    places: tuple[int, ...]
    images: UInt8[np.ndarray, "B H W 3"]
    labels: Int[np.ndarray, "B H W"]
    regions: Int[np.ndarray, "B H W"] | None
    sizes: Int[np.ndarray, "B 2"]


def read_sizes(dataset: Dataset) -> tuple[dict[int, Size], dict[int, str]]:
    """Height and width of every picture by its place; and why there are some that cannot be read."""

    def one(index: int) -> Size | str:
        try:
            if dataset.size is not None:
                return dataset.size(index)
            height, width = dataset.example(index).labels.shape
            return height, width
        except (PhotoError, LabelError, RegionError) as error:
            return str(error)

    with ThreadPoolExecutor(_HEADERS) as pool:
        found = dict(enumerate(pool.map(one, range(dataset.count))))
    faults = {index: text for index, text in found.items() if isinstance(text, str)}
    return {index: size for index, size in found.items() if not isinstance(size, str)}, faults


def read_ahead(
    dataset: Dataset, places: Sequence[int], *, max_regions: int | None = None
) -> Iterator[Numbered | Broken]:
    """The examples of some places, in that order, read by threads while others are at work.

    Given region maps with more than `max_regions` distinct ids besides the smallest are broken.
    """
    import grain  # a second's import, which only evaluation needs

    source = _Source(dataset, places, max_regions)
    options = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_AHEAD)
    yield from grain.MapDataset.source(source).to_iter_dataset(options)


def load_batches(
    dataset: Dataset, batches: Sequence[Batch], *, max_regions: int | None = None
) -> Iterator[Loaded | Broken]:
    """The pictures of batches, read ahead; a batch's broken ones are told before it."""
    places = [place for batch in batches for place in batch.places]
    reader = read_ahead(dataset, places, max_regions=max_regions)
    for batch in batches:
        read = [next(reader) for _ in batch.places]
        yield from (one for one in read if isinstance(one, Broken))
        if good := [one for one in read if isinstance(one, Numbered)]:
            yield _on_canvas(batch, good)


def _on_canvas(batch: Batch, numbered: list[Numbered]) -> Loaded:
    examples = [one.example for one in numbered]
    maps = [example.regions for example in examples if example.regions is not None]
    return Loaded(
        batch,
        tuple(one.place for one in numbered),
        stream.on_canvas([example.image for example in examples], batch),
        stream.on_canvas([example.labels.astype(np.int32) for example in examples], batch, NOT_SCORED),
        stream.on_canvas([each.astype(np.int32) for each in maps], batch) if maps else None,
        stream.sizes_of([example.labels for example in examples], batch),
    )


class _Source:
    """Random access for Grain."""

    def __init__(self, dataset: Dataset, places: Sequence[int], max_regions: int | None):
        self._dataset, self._places, self._max_regions = dataset, places, max_regions

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> Numbered | Broken:
        place = self._places[number]
        try:
            example = self._dataset.example(place)
        except (PhotoError, LabelError, RegionError) as error:
            return Broken(place, str(error))
        if self._max_regions is not None and example.regions is not None:
            count = count_regions(example.regions)
            if count > self._max_regions:
                return Broken(
                    place,
                    f"{self._dataset.stem(place)} has {count} regions, more than config.method.max_regions = "
                    f"{self._max_regions}. Raise it, or merge small regions.",
                )
        return Numbered(place, example)
