"""LabelMe: a JSON file of polygons for each image, as LabelMe, AnyLabeling and X-AnyLabeling read it."""

import os
from pathlib import Path
from typing import Any

from corrclip_jax.formats.images import (
    Entry,
    Images,
    LabelledImage,
    Options,
    Vocabulary,
    plain,
    rings_of_segments,
)
from corrclip_jax.formats.target import Target
from corrclip_jax.io.files import json_bytes

_VERSION = "5.8.1"  # of LabelMe, whose later versions read it as well


def write(target: Target, vocabulary: Vocabulary, images: Images, options: Options, mark: str) -> None:
    """Write <name>.json for each image, which points to the photo.

    Raises:
      OutputError: if a file cannot be written.
    """
    for number, entry in enumerate(images.entries, start=1):
        name = f"{entry.stem}.json"
        if target.is_done(name, entry.mark):
            continue
        if (image := images.load(number, entry)) is not None:
            content = description(image, entry, target.own.folder / name, vocabulary, options)
            target.write(name, entry.mark, json_bytes(content))


def description(
    image: LabelledImage, entry: Entry, file: Path, vocabulary: Vocabulary, options: Options
) -> dict[str, Any]:
    """The content of the file of an image; the parts of one segment share a group."""
    shapes, chosen = [], image.chosen(vocabulary, options)
    outlines = rings_of_segments(image, chosen, options)
    for number, (segment, rings) in enumerate(zip(chosen, outlines, strict=True), start=1):
        for ring in rings:
            shape: dict[str, Any] = {
                "label": vocabulary.names[segment.label],
                "points": plain(ring),
                "group_id": number if len(rings) > 1 else None,
                "description": "",
                "shape_type": "polygon",
                "flags": {},
                "mask": None,
            }
            if segment.probability is not None:
                shape["score"] = round(segment.probability, 4)
            shapes.append(shape)
    photo = os.path.relpath(entry.photo.absolute(), file.parent.absolute())
    return {
        "version": _VERSION,
        "flags": {},
        "shapes": shapes,
        "imagePath": photo.replace(os.sep, "/"),
        "imageData": None,
        "imageHeight": image.height,
        "imageWidth": image.width,
    }
