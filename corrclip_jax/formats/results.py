"""Results of former runs of `corrclip segment`: the descriptions in a folder, as images for any format."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32
from PIL import Image

from corrclip_jax.formats.images import Entry, Images, LabelledImage, Options, Vocabulary
from corrclip_jax.formats.segments import Segment, find_segments, from_json, with_mean_probability
from corrclip_jax.io.files import fitting_stem


class ResultError(ValueError):
    """A description that is not one of `corrclip segment`, or is damaged."""


class _Found(NamedTuple):
    """A description without its segments."""

    path: Path
    photo: Path
    classes: tuple[tuple[str, ...], ...]
    width: int
    height: int
    mark: str


def find_descriptions(folder: Path) -> list[Path]:
    """The JSON files in a folder which have a label map beside them, by name."""
    return sorted(path for path in folder.glob("*.json") if path.with_suffix(".png").is_file())


def read_results(paths: Sequence[Path], options: Options) -> tuple[Vocabulary, Images, list[str]]:
    """All images with descriptions, which are read again one by one when they are written.

    Images are in the order of their names, which are the paths of the photos below the folder that all share.

    Args:
      paths: descriptions that `corrclip segment` has written.
      options: say what a segment is.

    Returns:
      The classes, the images, and messages about descriptions that cannot be used: damaged ones, and those of other
      classes than the first.

    Raises:
      ResultError: if no description can be used.
    """
    with ThreadPoolExecutor() as pool:
        read = list(pool.map(_or_error, paths))
    failed = [one for one in read if isinstance(one, str)]
    found = [one for one in read if not isinstance(one, str)]
    if not found:
        raise ResultError(failed[0] if failed else "no results of corrclip segment were given.")
    classes = found[0].classes
    failed += [
        f"{one.path} has other classes than {found[0].path}: keep results of different lists of classes in "
        "different folders, or segment again."
        for one in found
        if one.classes != classes
    ]
    same = [one for one in found if one.classes == classes]
    common = os.path.commonpath([one.photo.parent for one in same])
    named = sorted((os.path.relpath(one.photo, common).replace(os.sep, "/"), one) for one in same)
    stems = _distinct_stems([name for name, _ in named])
    entries = [
        Entry(name, stem, one.photo, one.width, one.height, one.mark, partial(_load, one, options))
        for (name, one), stem in zip(named, stems, strict=True)
    ]
    return Vocabulary(classes), Images(entries), failed


def _or_error(path: Path) -> _Found | str:
    try:
        data = path.read_bytes()
        content = json.loads(data)
        classes = tuple(tuple(one["names"]) for one in content["classes"])
        photo = whole_path(content.get("path", content["photo"]))
        mark = hashlib.sha256(data).hexdigest()
        if "segments" not in content:
            mark += hashlib.sha256(path.with_suffix(".png").read_bytes()).hexdigest()
        return _Found(path, photo, classes, int(content["width"]), int(content["height"]), mark)
    except OSError as error:
        return f"Cannot read {path}: {error.strerror or error}."
    except (ValueError, KeyError, TypeError) as error:
        return f"{path} is no description of corrclip segment: {type(error).__name__}: {error}."


def whole_path(path: str | os.PathLike) -> Path:
    """The path from the root on, links kept."""
    return Path(os.path.normpath(Path(path).absolute()))


def _load(found: _Found, options: Options) -> LabelledImage:
    size = (found.height, found.width)
    try:
        content = json.loads(found.path.read_bytes())
        segments = None
        if "segments" in content:
            segments = [from_json(one, len(found.classes), size) for one in content["segments"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ResultError(f"{found.path} is damaged: {type(error).__name__}: {error}.") from error
    if segments is None:  # written before descriptions had segments
        labels = _read_labels(found)
        segments = find_segments(labels, np.zeros_like(labels), by=options.by)
    elif options.by != "region":
        segments = _regrouped(LabelledImage(found.width, found.height, segments), options)
    return LabelledImage(found.width, found.height, segments)


def _regrouped(image: LabelledImage, options: Options) -> list[Segment]:
    """Segments of another kind, with the mean probability of those that they consist of."""
    known = image.labels()
    joined = find_segments(known, np.zeros_like(known), by=options.by)
    chances = np.full(known.shape, np.nan)
    for one in image.segments:
        if one.probability is not None:
            x, y, w, h = one.box
            chances[y : y + h, x : x + w][one.mask] = one.probability
    return [with_mean_probability(one, chances) for one in joined]


def _read_labels(found: _Found) -> Int32[np.ndarray, "H W"]:
    path = found.path.with_suffix(".png")
    try:
        with Image.open(path) as image:
            labels = np.asarray(image).astype(np.int32)
    except (OSError, SyntaxError) as error:
        raise ResultError(f"{path} is no readable image: {error}.") from error
    if labels.shape != (found.height, found.width) or labels.max(initial=0) >= len(found.classes):
        raise ResultError(f"{path} is not the label map that {found.path} describes.")
    return labels


def _distinct_stems(names: Sequence[str]) -> list[str]:
    """Names without their suffixes, distinct even if upper and lower case are not.

    >>> _distinct_stems(["a/x.jpg", "b/x.jpg", "y.jpg", "y.png"])
    ['a/x', 'b/x', 'y-jpg', 'y-png']
    """
    paths = [PurePosixPath(name) for name in names]
    counts = Counter(str(path.with_suffix("")).casefold() for path in paths)
    stems, taken = [], set()
    for path in paths:
        several = counts[str(path.with_suffix("")).casefold()] > 1
        stem = fitting_stem(path.name.replace(".", "-") if several else path.stem, "-99999.geojson")
        distinct, number = path.with_name(stem), 1
        while str(distinct).casefold() in taken:
            number += 1
            distinct = path.with_name(f"{stem}-{number}")
        taken.add(str(distinct).casefold())
        stems.append(str(distinct))
    return stems
