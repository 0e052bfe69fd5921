"""The benchmarks: a table (benchmarks.json, classes/*.txt), and data sets from it. A new one is a new entry."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from corrclip_jax.datasets.dataset import Dataset, DatasetError, Example
from corrclip_jax.datasets.label_files import Ignored, LabelError, ignored_note, ignored_number, read_labels
from corrclip_jax.datasets.layouts import Layout, Pair, find_pairs, own_pairs
from corrclip_jax.io.photos import photo_size, read_photo
from corrclip_jax.text.classes import read_classes

PUBLISHED_BANK = "COCO"
"""The images of the bank with which most scores of CorrCLIPv2 are published; it has values of MetaCLIP and DFN."""

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Benchmark:
    """A benchmark of the paper: classes with synonyms, the layout of its files, how its labels count, its settings.

    `first_id` is the number of class 0 in the label files; `ignored` is not scored. `method` holds fields of
    `MethodConfig`. `titles` are the data set's own names of classes for which the paper asks by other words, by the
    first of these.
    """

    name: str
    title: str
    classes: tuple[tuple[str, ...], ...]
    layout: Layout
    first_id: int
    ignored: int
    method: dict[str, Any]
    note: str = ""
    titles: Mapping[str, str] = field(default_factory=dict)


@cache
def benchmarks() -> dict[str, Benchmark]:
    """All benchmarks by name."""
    table = _table()
    layouts = {
        name: Layout(**{**entry, "folders": tuple(entry["folders"])})
        for name, entry in table["layouts"].items()
    }
    found = {}
    for name, entry in table["benchmarks"].items():
        classes = tuple(tuple(names) for names in read_classes(_FOLDER / "classes" / f"{name}.txt"))
        found[name] = Benchmark(name, classes=classes, **{**entry, "layout": layouts[entry["layout"]]})
    return found


def published_miou(
    benchmark: str, model: str, regions: str, points_per_side: int | None, bank: str | None = None
) -> float | None:
    """The published mIoU, in percent, of a model with regions of a source; None where there is none.

    Args:
      benchmark: its name.
      model: a preset.
      regions: the source of regions; "files" for region maps from files, which the scores of CorrCLIPv2 are with.
      points_per_side: of SAM's points; None for other sources.
      bank: the images of the bank ("COCO"); None without a bank.
    """
    wanted = {"model": model, "regions": regions, "points_per_side": points_per_side, "bank": bank}
    for row in _table()["published"]:
        if all(row.get(key) == value for key, value in wanted.items()):
            return row["miou"].get(benchmark)
    return None


def in_version_two(data: Dataset) -> Dataset:
    """A benchmark with the settings and names of CorrCLIPv2, where they are others; other data as it is."""
    changes = _table()["v2"].get(data.name)
    if changes is None or data.classes != benchmarks()[data.name].classes:
        return data
    renamed = changes["names"]
    classes = tuple(tuple(renamed.get(one, one) for one in names) for names in data.classes)
    return dataclasses.replace(data, classes=classes, method={**data.method, **changes["method"]})


def open_benchmark(name: str, root: str | Path) -> Dataset:
    """A benchmark whose tree lies below `root`.

    Raises:
      DatasetError: for an unknown name, and a tree that is missing or incomplete.
    """
    if name not in benchmarks():
        raise DatasetError(f"the benchmarks are: {', '.join(benchmarks())}. Got {name!r}.")
    entry = benchmarks()[name]
    pairs = find_pairs(name, entry.layout, Path(root))
    about = f"{len(pairs)} images in {root}"
    if entry.layout.count not in (None, len(pairs)):
        about += f"; the published split has {entry.layout.count}: this score is no benchmark score"
    titles = tuple(entry.titles.get(names[0], names[0]) for names in entry.classes)
    data = _dataset(name, entry.classes, pairs, entry.first_id, entry.ignored)
    return dataclasses.replace(data, method=entry.method, about=about, titles=titles)


def open_folders(
    images: str | Path,
    labels: str | Path,
    classes: Sequence[Sequence[str]],
    *,
    first_id: int = 0,
    ignored: Ignored = "auto",
) -> Dataset:
    """A user's own data: a folder of photos, one of label files of the same stems, and class names.

    The number of class 0 in the label files is `first_id` (0 or 1; then 0 is left out); `ignored` is left out: by
    default 255, unless it is a class's number, which `about` then says.

    Raises:
      DatasetError: for folders that do not belong together.
      PhotoError: for a folder without pictures.
    """
    names = tuple(tuple(synonyms) for synonyms in classes)
    pairs = own_pairs(Path(images), Path(labels))
    about = f"{len(pairs)} images in {images}, labels in {labels}"
    if note := ignored_note([synonyms[0] for synonyms in names], first_id, ignored):
        about += f"; {note}"
    number = ignored_number(len(names), first_id, ignored)
    data = _dataset(Path(images).resolve().name, names, pairs, first_id, number)
    return dataclasses.replace(data, about=about)


def _dataset(
    name: str,
    classes: tuple[tuple[str, ...], ...],
    pairs: Sequence[Pair],
    first_id: int,
    ignored: int | None,
) -> Dataset:
    def example(index: int) -> Example:
        photo, path = pairs[index]
        image = read_photo(photo)
        labels = read_labels(path, len(classes), first_id=first_id, ignored=ignored)
        if labels.shape != image.shape[:2]:
            raise LabelError(
                f"{path} is {labels.shape[1]}x{labels.shape[0]} pixels large, its photo {photo} "
                f"{image.shape[1]}x{image.shape[0]}. They must be of one size."
            )
        return Example(image, labels)

    def stem(index: int) -> str:
        return pairs[index].photo.stem

    def size(index: int) -> tuple[int, int]:
        return photo_size(pairs[index].photo)

    def files(index: int) -> dict[str, Path]:
        return {"photos": pairs[index].photo, "labels": pairs[index].labels}

    left_out = tuple(sorted({*range(first_id), *(() if ignored is None else (ignored,))}))
    return Dataset(
        name, classes, len(pairs), example, stem, size, files=files, first_id=first_id, left_out=left_out
    )


@cache
def _table() -> dict[str, Any]:
    return json.loads((_FOLDER / "benchmarks.json").read_text("utf-8"))
