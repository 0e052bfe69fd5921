"""Datumaro, Label Studio's SDK and LabelMe read annotations; run by `formats/test_other_readers.py`.

They need older packages than this one, so they are installed elsewhere (`other_readers.txt`), and nothing of this
package is imported here. `python other_readers.py FOLDER` writes FOLDER/read.json: by reader and kind of shapes, by
image, each annotation with its label, and its mask as COCO RLE; area and box where the reader gives them.
"""

import contextlib
import json
import sys
from pathlib import Path
from unittest.mock import MagicMock
from urllib.parse import unquote

import numpy as np
from pycocotools import mask as coco

KINDS = ("polygons", "masks")


def main(folder):
    found = {}
    for kind in KINDS:
        found[f"cvat {kind}"] = datumaro_reads(folder / kind / "cvat" / "annotations.xml", "cvat")
        found[f"coco {kind}"] = datumaro_reads(folder / kind / "coco", "coco_instances")
        found[f"label-studio {kind}"] = label_studio_reads(folder / kind / "label-studio")
    found["coco-panoptic"] = datumaro_reads(folder / "polygons" / "coco-panoptic", "coco_panoptic")
    found["labelme"] = labelme_reads(folder / "polygons" / "labelme")
    (folder / "read.json").write_text(json.dumps(found), "utf-8")


def datumaro_reads(path, importer):
    """What Datumaro's importer finds, boxes beside masks left out."""
    from datumaro import AnnotationType, Dataset

    dataset = Dataset.import_from(str(path), importer)
    names = [one.name for one in dataset.categories()[AnnotationType.label]]
    images = {}
    for item in dataset:
        size = item.media.size
        images[item.id] = [
            {
                "label": names[one.label],
                "mask": packed(one.image if one.type == AnnotationType.mask else filled(one.points, size)),
                "area": float(one.get_area()),
                "box": list(map(float, one.get_bbox())),
            }
            for one in item.annotations
            if one.type in (AnnotationType.mask, AnnotationType.polygon)
        ]
    return images


def label_studio_reads(folder):
    """What Label Studio's SDK decodes of predictions that it accepts for the labelling configuration."""
    from label_studio_sdk.converter.brush import decode_rle
    from label_studio_sdk.label_interface import LabelInterface

    interface = LabelInterface((folder / "labelling_config.xml").read_text("utf-8"))
    interface.validate()
    images = {}
    for task in json.loads((folder / "tasks.json").read_text("utf-8")):
        (prediction,) = task["predictions"]
        assert interface.validate_prediction(prediction), task["data"]
        found = images[unquote(task["data"]["image"])] = []
        for one in prediction["result"]:
            value, size = one["value"], (one["original_height"], one["original_width"])
            if one["type"] == "brushlabels":
                mask = decode_rle(value["rle"]).reshape(*size, 4)[..., 3] > 0
            else:
                mask = filled((np.array(value["points"]) / 100 * size[::-1]).ravel(), size)
            found.append({"label": value[one["type"]][0], "mask": packed(mask)})
    return images


def labelme_reads(folder):
    """What LabelMe loads, with the photo that a file points to."""
    for name in ("onnxruntime", "PyQt5"):  # of its assistant and its windows
        sys.modules[name] = MagicMock()
    from labelme._label_file import LabelFile

    images = {}
    for path in sorted(folder.rglob("*.json")):
        read = LabelFile(str(path))
        assert read.image_data
        content = json.loads(path.read_text("utf-8"))
        size = (content["imageHeight"], content["imageWidth"])
        images[path.relative_to(folder).with_suffix("").as_posix()] = [
            {"label": one["label"], "mask": packed(filled(np.array(one["points"]).ravel(), size))}
            for one in read.shapes
        ]
    return images


def filled(points, size):
    """The mask of a polygon's corners x, y, x, y ..."""
    return coco.decode(coco.merge(coco.frPyObjects([list(map(float, points))], *size)))


def packed(mask):
    """A mask as COCO RLE."""
    rle = coco.encode(np.asfortranarray(mask, np.uint8))
    return {"size": list(map(int, rle["size"])), "counts": rle["counts"].decode()}


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        main(Path(sys.argv[1]))
