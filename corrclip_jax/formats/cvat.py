"""CVAT for images 1.1: one XML file with the polygons or masks of all images."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from xml.sax.saxutils import XMLGenerator
from xml.sax.xmlreader import AttributesImpl

import numpy as np
from jaxtyping import Bool

from corrclip_jax.formats.images import (
    Entry,
    Images,
    LabelledImage,
    Options,
    Vocabulary,
    plain,
    rings_of_segments,
)
from corrclip_jax.formats.photos import by_name, link_photos
from corrclip_jax.formats.target import Target
from corrclip_jax.formats.xml_text import xml_text

FILE = "annotations.xml"


def write(target: Target, vocabulary: Vocabulary, images: Images, options: Options, mark: str) -> None:
    """Write one file with all images.

    Raises:
      OutputError: if it cannot be written.
    """
    link_photos(target, images, by_name)
    if target.is_done(FILE, mark):
        return
    with target.writing(FILE, mark, images) as path, path.open("w", encoding="utf-8", newline="\n") as file:
        xml = _Xml(XMLGenerator(file, "utf-8"))
        with xml.element("annotations"):
            xml.line("version", "1.1")
            _write_labels(xml, vocabulary, options)
            for number, entry, image in images.loaded():
                _write_image(xml, number, entry, image, vocabulary, options)


def row_runs(mask: Bool[np.ndarray, "h w"]) -> list[int]:
    """The lengths of runs of a mask row by row, beginning with pixels that are not in it, possibly 0 of them."""
    flat = mask.ravel()
    changes = np.flatnonzero(np.diff(flat, prepend=False))
    return np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()


def _write_labels(xml: "_Xml", vocabulary: Vocabulary, options: Options) -> None:
    kind = {"polygons": "polygon", "masks": "mask"}[options.shapes]
    with xml.element("meta"), xml.element("task"), xml.element("labels"):
        for name, colour in zip(vocabulary.names, vocabulary.hex_colours, strict=True):
            with xml.element("label"):
                xml.line("name", name)
                xml.line("color", colour)
                xml.line("type", kind)
                xml.line("attributes", "")


def _write_image(
    xml: "_Xml", number: int, entry: Entry, image: LabelledImage, vocabulary: Vocabulary, options: Options
) -> None:
    size = {"width": image.width, "height": image.height}
    with xml.element("image", id=number - 1, name=entry.name, **size):
        groups = itertools.count(1)
        chosen, masks = image.chosen(vocabulary, options), options.shapes == "masks"
        outlines = [[]] * len(chosen) if masks else rings_of_segments(image, chosen, options)
        for segment, rings in zip(chosen, outlines, strict=True):
            shared = {"label": vocabulary.names[segment.label], "source": "auto", "occluded": 0, "z_order": 0}
            if masks:
                x, y, w, h = segment.box
                runs = ", ".join(map(str, row_runs(segment.mask)))
                with xml.element("mask", **shared, rle=runs, left=x, top=y, width=w, height=h):
                    pass
                continue
            if len(rings) > 1:
                shared["group_id"] = next(groups)
            for ring in rings:
                points = ";".join(f"{x},{y}" for x, y in plain(ring))
                with xml.element("polygon", **shared, points=points):
                    pass


class _Xml:
    """Elements, one a line, indented."""

    def __init__(self, generator: XMLGenerator):
        self._generator = generator
        self._depth = 0
        generator.startDocument()

    def line(self, name: str, text: str) -> None:
        """An element that holds text."""
        self._generator.characters("  " * self._depth)
        self._generator.startElement(name, AttributesImpl({}))
        self._generator.characters(xml_text(text))
        self._generator.endElement(name)
        self._generator.characters("\n")

    @contextmanager
    def element(self, tag: str, /, **attributes: Any) -> Iterator[None]:
        """An element that holds those made in the block."""
        self._generator.characters("  " * self._depth)
        valid = {key: xml_text(str(value)) for key, value in attributes.items()}
        self._generator.startElement(tag, AttributesImpl(valid))
        self._generator.characters("\n")
        self._depth += 1
        yield
        self._depth -= 1
        self._generator.characters("  " * self._depth)
        self._generator.endElement(tag)
        self._generator.characters("\n")
