"""What a data set is: class names and numbered examples."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Integer, UInt8

from corrclip_jax.io.region_maps import SUFFIXES, read_regions, region_file_names

NOT_SCORED = -1


class DatasetError(ValueError):
    """A data set that is missing or incomplete."""


class Example(NamedTuple):
    """A picture, the class of every pixel (`NOT_SCORED`, or any other number that is no class: left out), and its
    regions where the data set knows them."""

    image: UInt8[np.ndarray, "H W 3"]
    labels: Integer[np.ndarray, "H W"]
    regions: Integer[np.ndarray, "H W"] | None = None


@dataclass(frozen=True)
class Dataset:
    """Classes and numbered examples.

    Attributes:
      name: the data set's, in reports.
      classes: the query names (synonyms) of every class.
      count: how many examples there are.
      example: gives an example by its index.
      stem: names an example, uniquely: its predictions and its region map go by it.
      size: height and width of an example without reading all of it, where that can be.
      method: the settings that belong to the data set, fields of `MethodConfig`.
      about: a description for people.
      titles: the names of the classes in reports, by default the first synonyms.
      files: the files that an example is read from, by what they hold: "photos", "labels", "regions".
      first_id: the number of class 0 in label files.
      left_out: the numbers in label files that stand for no class.
    """

    name: str
    classes: tuple[tuple[str, ...], ...]
    count: int
    example: Callable[[int], Example]
    stem: Callable[[int], str] = str
    size: Callable[[int], tuple[int, int]] | None = None
    method: Mapping[str, Any] = field(default_factory=dict)
    about: str = ""
    titles: tuple[str, ...] = ()
    files: Callable[[int], Mapping[str, Path]] | None = None
    first_id: int = 0
    left_out: tuple[int, ...] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """The name of every class in reports."""
        return self.titles or tuple(names[0] for names in self.classes)


def with_region_files(dataset: Dataset, folder: str | Path) -> Dataset:
    """The data set with region maps from a folder, files of the same stems as its pictures (see `region_file`).

    Raises:
      DatasetError: where the folder lacks some of them, or holds two for one picture.
      RegionError: by `example`, for a map that is damaged or does not fit its picture.
    """
    folder = Path(folder)
    stems = [dataset.stem(index) for index in range(dataset.count)]
    by_name: dict[str, list[Path]] = {}
    for stem, paths in by_stem(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES).items():
        for path in paths:
            by_name.setdefault(stem + path.suffix.lower(), []).append(path)
    there = {
        stem: [path for name in region_file_names(stem) for path in by_name.get(name, ())] for stem in stems
    }
    missing = [stem for stem, paths in there.items() if not paths]
    if missing:
        raise DatasetError(
            f"{folder} lacks the region maps of {len(missing)} of the {dataset.count} images of {dataset.name}: "
            f"{some([f'{stem}.npz' for stem in missing])}. A map is named for its picture: an .npz file with the "
            f"array instance_mask, or one of {', '.join(SUFFIXES[1:])}."
        )

    if twice := [path.name for stem in stems if len(there[stem]) > 1 for path in there[stem]]:
        raise DatasetError(
            f"{folder} holds several region maps of one picture: {some(twice)}. Keep one of each."
        )

    def example(index: int) -> Example:
        found = dataset.example(index)
        return found._replace(regions=read_regions(there[stems[index]][0], *found.labels.shape))

    def files(index: int) -> dict[str, Path]:
        others = {} if dataset.files is None else dataset.files(index)
        return {**others, "regions": there[stems[index]][0]}

    # Where examples come from memory, their marks do too, and they include the regions.
    return dataclasses.replace(dataset, example=example, files=dataset.files and files)


def first(dataset: Dataset, count: int | None) -> Dataset:
    """The first `count` examples; None means all.

    Raises:
      DatasetError: for a count that the data set does not have.
    """
    if count is None:
        return dataset
    if not 1 <= count <= dataset.count:
        raise DatasetError(f"count must be 1 to {dataset.count}, the images of {dataset.name}. Got {count}.")
    return dataclasses.replace(dataset, count=count)


def by_stem(files: Iterable[Path]) -> dict[str, list[Path]]:
    """Files by their stems, without hidden ones ("._a.png" is what macOS leaves on foreign disks) and folders."""
    found: dict[str, list[Path]] = {}
    for path in sorted(files):
        if not path.name.startswith(".") and path.is_file():
            found.setdefault(path.stem, []).append(path)
    return found


def some(names: list[str], most: int = 5) -> str:
    """A list for people: its beginning, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
