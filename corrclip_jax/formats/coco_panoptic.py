"""COCO panoptic: a PNG of segment ids for each image, and one file that describes the segments."""

from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from corrclip_jax.formats.coco import write_file
from corrclip_jax.formats.images import Entry, Images, LabelledImage, Options, Vocabulary
from corrclip_jax.formats.target import Target

FILE, FOLDER = "annotations/panoptic_default.json", "annotations/panoptic_default"


def write(target: Target, vocabulary: Vocabulary, images: Images, options: Options, mark: str) -> None:
    """Write the PNGs, and last the file with all segments. Id 0 is a pixel of no segment.

    Raises:
      OutputError: if a file cannot be written.
    """

    def described(image_id: int, entry: Entry, image: LabelledImage) -> list[dict[str, Any]]:
        name = f"{entry.stem}.png"
        ids, segments = panoptic(image, vocabulary, options)
        if not target.is_done(f"{FOLDER}/{name}", entry.mark):
            with target.writing(f"{FOLDER}/{name}", entry.mark) as png:
                Image.fromarray(id_colours(ids)).save(png, optimize=True)
        return [{"image_id": image_id, "file_name": name, "segments_info": segments}]

    if target.is_done(FILE, mark):
        target.current.update(f"{FOLDER}/{entry.stem}.png" for entry in images.entries)
    write_file(target, FILE, mark, images, _categories(vocabulary), described)


def panoptic(
    image: LabelledImage, vocabulary: Vocabulary, options: Options
) -> tuple[Int[np.ndarray, "H W"], list[dict[str, Any]]]:
    """The map of segment ids, from 1 on, and the description of each segment."""
    ids, described = np.zeros((image.height, image.width), np.int64), []
    for number, segment in enumerate(image.chosen(vocabulary, options), start=1):
        x, y, w, h = segment.box
        ids[y : y + h, x : x + w][segment.mask] = number
        one = {
            "id": number,
            "category_id": segment.label + 1,
            "area": segment.area,
            "bbox": list(segment.box),
            "iscrowd": 0,
        }
        if segment.probability is not None:
            one["score"] = round(segment.probability, 4)
        described.append(one)
    return ids, described


def id_colours(ids: Int[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """Ids as panopticapi keeps them in RGB: R + 256 G + 65536 B."""
    return np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=-1).astype(np.uint8)


def _categories(vocabulary: Vocabulary) -> list[dict[str, Any]]:
    return [
        {"id": number, "name": name, "supercategory": "", "isthing": 1, "color": list(colour)}
        for number, (name, colour) in enumerate(
            zip(vocabulary.names, vocabulary.colours, strict=True), start=1
        )
    ]
