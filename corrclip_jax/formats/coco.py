"""COCO instances: one file, with polygons or run-length encoded masks."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath
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
from corrclip_jax.formats.photos import by_name, link_photos
from corrclip_jax.formats.polygons import Ring, ring_area
from corrclip_jax.formats.segments import Segment
from corrclip_jax.formats.target import JsonList, Target, compact_json
from corrclip_jax.io import coco_rle

FILE = "annotations/instances_default.json"
_INFO = {"description": "Labels by corrclip_jax", "version": "1.0"}


def write(target: Target, vocabulary: Vocabulary, images: Images, options: Options, mark: str) -> None:
    """Write one file with all images; ids count from 1, also those of categories, in the order of the classes.

    Raises:
      OutputError: if it cannot be written.
    """
    numbers = itertools.count(1)

    def described(image_id: int, entry: Entry, image: LabelledImage) -> Iterator[dict[str, Any]]:
        for annotation in annotations(image, vocabulary, options):
            yield {"id": next(numbers), "image_id": image_id, **annotation}

    write_file(target, FILE, mark, images, categories(vocabulary), described)


def write_file(
    target: Target,
    name: str,
    mark: str,
    images: Images,
    categories: list[dict[str, Any]],
    described: Callable[[int, Entry, LabelledImage], Iterable[dict[str, Any]]],
) -> None:
    """Write a file of COCO's layout image by image, with links to the photos, unless it is up to date.

    Args:
      target: the folder.
      name: of the file.
      mark: what the file is made from.
      images: the results.
      categories: the list of categories.
      described: an image's id, entry and content to its items in the list of annotations.

    Raises:
      OutputError: if it cannot be written.
    """
    link_photos(target, images, by_name)
    if target.is_done(name, mark):
        return
    with target.writing(name, mark, images) as path, path.open("wb") as file:
        file.write(b'{"info":' + compact_json(_INFO) + b',\n"licenses":[],\n"categories":')
        file.write(compact_json(categories) + b',\n"annotations":[')
        listed, written = [], JsonList(file)
        for image_id, entry, image in images.loaded():
            for item in described(image_id, entry, image):
                written.add(item)
            listed.append(_image_record(image_id, entry))
        file.write(b'],\n"images":[')
        records = JsonList(file)
        for record in listed:
            records.add(record)
        file.write(b"]}\n")


def categories(vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """The categories, with their synonyms."""
    return [
        {"id": number, "name": names[0], "supercategory": "", "synonyms": list(names[1:])}
        for number, names in enumerate(vocabulary.classes, start=1)
    ]


def _image_record(image_id: int, entry: Entry) -> dict[str, Any]:
    """An item of the list of images."""
    name = str(PurePosixPath(entry.name))
    return {"id": image_id, "file_name": name, "width": entry.width, "height": entry.height}


def annotations(image: LabelledImage, vocabulary: Vocabulary, options: Options) -> list[dict[str, Any]]:
    """The annotations of an image without their ids: areas and boxes are those of the polygons or masks written."""
    found, chosen = [], image.chosen(vocabulary, options)
    for segment, shape in zip(chosen, _shapes(chosen, image, options), strict=True):
        annotation = {
            "category_id": segment.label + 1,
            "iscrowd": 0,
            **shape,
            "region": segment.region,
        }
        if segment.probability is not None:
            annotation["score"] = round(segment.probability, 4)
        found.append(annotation)
    return found


def _shapes(segments: list[Segment], image: LabelledImage, options: Options) -> list[dict[str, Any]]:
    if options.shapes == "polygons":
        return [_polygons(rings) for rings in rings_of_segments(image, segments, options)]
    size = (image.height, image.width)
    return [
        {
            "segmentation": coco_rle.encode_within(one.mask, one.box[:2], size),
            "area": one.area,
            "bbox": list(one.box),
        }
        for one in segments
    ]


def _polygons(rings: list[Ring]) -> dict[str, Any]:
    x0, y0 = (min(ring[:, axis].min() for ring in rings) for axis in (0, 1))
    x1, y1 = (max(ring[:, axis].max() for ring in rings) for axis in (0, 1))
    return {
        "segmentation": [[value for corner in plain(ring) for value in corner] for ring in rings],
        "area": round(sum(ring_area(ring) for ring in rings), 3),
        "bbox": [round(float(value), 3) for value in (x0, y0, x1 - x0, y1 - y0)],
    }
