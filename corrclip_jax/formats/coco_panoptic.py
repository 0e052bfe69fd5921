"""COCO panoptic: a PNG of segment ids for each image, and one file that describes the segments."""

from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from corrclip_jax.formats.coco import INFO, image_record
from corrclip_jax.formats.images import Images, LabelledImage, Options, Vocabulary
from corrclip_jax.formats.photos import link_photos
from corrclip_jax.formats.target import JsonList, Target, compact_json

FILE, FOLDER = "annotations/panoptic_default.json", "annotations/panoptic_default"


def write(target: Target, vocabulary: Vocabulary, images: Images, options: Options, mark: str) -> None:
    """Write the PNGs, and last the file with all segments. Id 0 is a pixel of no segment.

    Raises:
      OutputError: if a file cannot be written.
    """
    link_photos(target.own.folder, images, (entry.name for entry in images.entries))
    if target.is_done(FILE, mark):
        return
    with target.writing(FILE, mark, images) as path, path.open("wb") as file:
        file.write(b'{"info":' + compact_json(INFO) + b',\n"licenses":[],\n"categories":')
        file.write(compact_json(_categories(vocabulary)) + b',\n"annotations":[')
        listed, written = [], JsonList(file)
        for image_id, entry, image in images.loaded():
            name = f"{entry.stem}.png"
            ids, segments = panoptic(image, vocabulary, options)
            if not target.is_done(f"{FOLDER}/{name}", entry.mark):
                with target.writing(f"{FOLDER}/{name}", entry.mark) as png:
                    Image.fromarray(id_colours(ids)).save(png, optimize=True)
            written.add({"image_id": image_id, "file_name": name, "segments_info": segments})
            listed.append(image_record(image_id, entry))
        file.write(b'],\n"images":[')
        records = JsonList(file)
        for record in listed:
            records.add(record)
        file.write(b"]}\n")


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
