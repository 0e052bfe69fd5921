"""Datumaro and Label Studio's SDK read what the formats write; they need older packages than this one, so by hand:

    python tests/other_readers.py write /tmp/annotations                 # in the development environment
    python -m venv /tmp/readers && /tmp/readers/bin/python -m pip install datumaro label-studio-sdk
    /tmp/readers/bin/python tests/other_readers.py read /tmp/annotations

Datumaro imports COCO instances, COCO panoptic and CVAT, as polygons and as masks; the SDK checks the predictions of
Label Studio's tasks against the labelling configuration and decodes brush masks. Every label map must come back.
"""

import json
import sys
from pathlib import Path
from urllib.parse import unquote

import numpy as np
from drawn_masks import MASKS

CLASSES = ["background", "кошка", "two", *(f"class {k}" for k in range(3, 300))]
KINDS = {
    "polygons": ["coco", "cvat", "label-studio", "coco-panoptic"],
    "masks": ["coco", "cvat", "label-studio"],
}


def maps():
    """Label maps by the names of their photos, without suffix."""
    found = {}
    for index, mask in enumerate(MASKS.values()):
        found[f"{'abc'[index % 3]}/photo {index} é"] = np.where(mask, index % 2 + 1, 0)
    return found


def write(folder):
    from annotation_results import save_results

    from corrclip_jax.formats.export import export_results
    from corrclip_jax.formats.images import Options

    named = {f"{name}.png": labels for name, labels in maps().items()}
    results = save_results(folder / "out", folder / "photos", named, CLASSES, chances=True)
    for kind, formats in KINDS.items():
        done = export_results(results, formats, folder / kind, Options(shapes=kind, tolerance=0.0))
        assert not done.failed, done.failed


def read(folder):
    import datumaro

    for kind in KINDS:
        cvat = folder / kind / "cvat" / "annotations.xml"
        compare(f"cvat, {kind}", datumaro.Dataset.import_from(str(cvat), "cvat"))
        compare(f"coco, {kind}", datumaro.Dataset.import_from(str(folder / kind / "coco"), "coco_instances"))
        read_label_studio(folder / kind / "label-studio", kind)
    panoptic = folder / "polygons" / "coco-panoptic"
    compare("coco-panoptic", datumaro.Dataset.import_from(str(panoptic), "coco_panoptic"))


def compare(what, dataset):
    """Compare all images of a data set of Datumaro with the maps."""
    from datumaro import AnnotationType
    from pycocotools import mask as coco

    expected = maps()
    for item in dataset:
        labels = expected.pop(item.id)
        found = np.zeros(labels.shape, int)
        for one in item.annotations:
            if one.type == AnnotationType.polygon:
                mask = coco.decode(coco.merge(coco.frPyObjects([one.points], *labels.shape))).astype(bool)
            elif one.type == AnnotationType.mask:
                mask = np.asarray(one.image).astype(bool)
            else:
                continue  # boxes of the same segments
            found[mask] = one.label
        assert np.array_equal(found, labels), (what, item.id)
    assert not expected, (what, list(expected))
    print(f"{what}: all label maps came back")


def read_label_studio(folder, kind):
    """Check tasks with Label Studio's SDK."""
    from label_studio_sdk.converter.brush import decode_rle
    from label_studio_sdk.label_interface import LabelInterface

    interface = LabelInterface((folder / "labelling_config.xml").read_text("utf-8"))
    interface.validate()
    names = list(interface.get_control("label").labels)
    expected = maps()
    for task in json.loads((folder / "tasks.json").read_text("utf-8")):
        name = unquote(task["data"]["image"].removeprefix("/data/local-files/?d="))
        labels = expected.pop(name.removesuffix(".png"))
        (prediction,) = task["predictions"]
        assert interface.validate_prediction(prediction)
        if kind == "masks":
            found = np.zeros(labels.shape, int)
            for one in prediction["result"]:
                pixels = decode_rle(one["value"]["rle"]).reshape(*labels.shape, 4)
                found[pixels[..., 3] > 0] = names.index(one["value"]["brushlabels"][0])
            assert np.array_equal(found, labels), name
    assert not expected
    print(f"label-studio, {kind}: all predictions are valid")


if __name__ == "__main__":
    {"write": write, "read": read}[sys.argv[1]](Path(sys.argv[2]))
