"""Labelled images: what every format is written from, and the choices that formats share."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Int32

from corrclip_jax.formats.polygons import Polygon, Ring, simplify, trace_all, without_holes
from corrclip_jax.formats.segments import By, Segment
from corrclip_jax.io.own_files import value_digest
from corrclip_jax.viz.palette import class_colours, is_background

Shapes: TypeAlias = Literal["polygons", "masks"]
VOID = -1
"""The label of pixels that belong to no segment."""


@dataclass(frozen=True)
class Vocabulary:
    """The classes of all images: the names of each, its synonyms after the first."""

    classes: tuple[tuple[str, ...], ...]

    @cached_property
    def names(self) -> list[str]:
        """The first name of every class."""
        return [names[0] for names in self.classes]

    @cached_property
    def colours(self) -> list[tuple[int, int, int]]:
        """RGB of every class."""
        return [tuple(colour) for colour in class_colours(self.names).tolist()]

    @cached_property
    def mark(self) -> str:
        """What stands for the classes in the journal of own files."""
        return value_digest(self.classes)

    @property
    def hex_colours(self) -> list[str]:
        """The same as "#rrggbb"."""
        return ["#{:02x}{:02x}{:02x}".format(*colour) for colour in self.colours]


@dataclass(frozen=True)
class Options:
    """Choices for all formats; each format uses those that apply.

    Attributes:
      by: what a segment is (see `segments.By`).
      shapes: polygons, or masks where a format has both.
      tolerance: by which polygons are simplified, in pixels; 0 keeps them exact.
      min_area: smaller segments are left out, in pixels.
      background: whether a class called "background" is annotated like the others.
      raw: label images without a palette.
      image_prefix: what addresses of images begin with in Label Studio; None for its local files below the parent
        of the folder that all photos share.
    """

    by: By = "region"
    shapes: Shapes = "polygons"
    tolerance: float = 1.0
    min_area: int = 0
    background: bool = False
    raw: bool = False
    image_prefix: str | None = None


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """An image with its segments.

    Attributes:
      width, height: in pixels.
      segments: which do not overlap, the largest first.
    """

    width: int
    height: int
    segments: list[Segment]

    def chosen(self, vocabulary: Vocabulary, options: Options) -> list[Segment]:
        """The segments that are annotated."""
        left_out = {
            label
            for label, name in enumerate(vocabulary.names)
            if is_background(name) and not options.background
        }
        return [one for one in self.segments if one.area >= options.min_area and one.label not in left_out]

    def labels(self) -> Int32[np.ndarray, "H W"]:
        """The class of every pixel; `VOID` for those of no segment."""
        return self._painted([one.label for one in self.segments], VOID)

    def regions(self) -> Int32[np.ndarray, "H W"]:
        """The region id of every pixel, 0 for those without."""
        return self._painted([one.region for one in self.segments], 0)

    def _painted(self, values: Sequence[int], empty: int) -> Int32[np.ndarray, "H W"]:
        painted = np.full((self.height, self.width), empty, np.int32)
        for segment, value in zip(self.segments, values, strict=True):
            x, y, w, h = segment.box
            painted[y : y + h, x : x + w][segment.mask] = value
        return painted


@dataclass(frozen=True)
class Entry:
    """An image that is to be written.

    Attributes:
      name: its path below the folder that all images share, with "/".
      stem: the name without suffix, distinct from those of all others, for the names of files.
      photo: where it is.
      width, height: in pixels.
      mark: stands for its content, for the journal of own files.
      load: reads its segments.
    """

    name: str
    stem: str
    photo: Path
    width: int
    height: int
    mark: str
    load: Callable[[], LabelledImage]


@dataclass
class Images:
    """All images that are to be written, read one by one.

    Attributes:
      entries: in their order.
      failed: messages about images that could not be read or written, by their index.
      notes: what users should know.
    """

    entries: list[Entry]
    failed: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def loaded(self) -> Iterator[tuple[int, Entry, LabelledImage]]:
        """Number from 1 on, entry and content of each image; one that cannot be read is noted and left out."""
        for number, entry in enumerate(self.entries, start=1):
            image = self.load(number, entry)
            if image is not None:
                yield number, entry, image

    def load(self, number: int, entry: Entry) -> LabelledImage | None:
        """The content of an image; None if it cannot be read, which is noted."""
        try:
            return entry.load()
        except (OSError, ValueError) as error:
            self.failed[number] = str(error)
            return None


def polygons_of(image: LabelledImage, segments: Sequence[Segment], options: Options) -> list[list[Polygon]]:
    """The polygons of each of some segments of an image, simplified by `options.tolerance`."""
    numbers = np.zeros((image.height, image.width), np.int64)
    for number, segment in enumerate(segments, start=1):
        x, y, w, h = segment.box
        numbers[y : y + h, x : x + w][segment.mask] = number
    traced = trace_all(numbers, len(segments))
    simple = iter(simplify(itertools.chain.from_iterable(traced), float(options.tolerance)))
    return [list(itertools.islice(simple, len(polygons))) for polygons in traced]


def rings_of_segments(
    image: LabelledImage, segments: Sequence[Segment], options: Options
) -> list[list[Ring]]:
    """The outlines of the polygons of each of some segments, cut open where they have holes."""
    return [without_holes(polygons) for polygons in polygons_of(image, segments, options)]


def plain(ring: Ring) -> list[list[int | float]]:
    """Corners as JSON types, whole numbers without a point and others rounded to a thousandth of a pixel."""
    return [[int(v) if v == int(v) else round(v, 3) for v in corner] for corner in ring.tolist()]
