"""What a data set is: class names and numbered examples."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Integer, UInt8

from corrclip_jax.io.region_maps import SUFFIXES, read_regions, region_file

NOT_SCORED = -1


class DatasetError(ValueError):
    """A data set that is not there, or not whole."""


class Example(NamedTuple):
    """A picture, the class of every pixel (`NOT_SCORED`, or any other number that is no class: left out), and its
    regions where the data set knows them."""

    image: UInt8[np.ndarray, "H W 3"]
    labels: Integer[np.ndarray, "H W"]
    regions: Integer[np.ndarray, "H W"] | None = None


@dataclass(frozen=True)
class Dataset:
    """Classes, each with its synonyms, and `count` examples, of which `example(index)` gives one.

    `stem(index)` names an example, uniquely: its predictions and its region map go by it. `size(index)` gives
    height and width without reading all of it, where that can be. `method` holds the settings that belong to the
    data set, fields of `MethodConfig`. `about` is a description for people.
    """

    name: str
    classes: tuple[tuple[str, ...], ...]
    count: int
    example: Callable[[int], Example]
    stem: Callable[[int], str] = str
    size: Callable[[int], tuple[int, int]] | None = None
    method: Mapping[str, Any] = field(default_factory=dict)
    about: str = ""


def with_region_files(dataset: Dataset, folder: str | Path) -> Dataset:
    """The data set with region maps from a folder, files that `region_file` finds by stem.

    Raises:
      DatasetError: where the folder lacks some of them.
      RegionError: by `example`, for a map that is damaged or does not fit its picture.
    """
    folder = Path(folder)
    there = {path.stem for path in folder.iterdir() if path.suffix in SUFFIXES}
    missing = [stem for stem in map(dataset.stem, range(dataset.count)) if stem not in there]
    if missing:
        raise DatasetError(
            f"{folder} lacks the region maps of {len(missing)} of the {dataset.count} pictures of {dataset.name}: "
            f"{some([f'{stem}.npz' for stem in missing])}. A map is named for its picture: an .npz file with the "
            f"array instance_mask, or one of {', '.join(SUFFIXES[1:])}."
        )

    def example(index: int) -> Example:
        found = dataset.example(index)
        path = region_file(folder, dataset.stem(index) + ".png")
        return found._replace(regions=read_regions(path, *found.labels.shape))

    return dataclasses.replace(dataset, example=example)


def first(dataset: Dataset, count: int | None) -> Dataset:
    """The first `count` examples; None means all.

    Raises:
      DatasetError: for a count that the data set does not have.
    """
    if count is None:
        return dataset
    if not 1 <= count <= dataset.count:
        raise DatasetError(f"{dataset.name} has 1 to {dataset.count} pictures to take. Got {count}.")
    return dataclasses.replace(dataset, count=count)


def some(names: list[str], most: int = 5) -> str:
    """A list for people: its beginning, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
