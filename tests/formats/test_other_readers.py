"""Formats read back by Datumaro, Label Studio's SDK and LabelMe, in an environment of their own.

`CORRCLIP_READERS` is the Python of that environment (see CONTRIBUTING.md); without it this file is not collected.
"""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from annotation_results import painted, save_results
from drawn_masks import MASKS
from pycocotools import mask as coco_mask

from corrclip_jax.formats.export import export_results
from corrclip_jax.formats.images import Options

# pycocotools has arrays of before NumPy 2.
pytestmark = [
    pytest.mark.process,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]

CLASSES = ["background", "кошка", "two", *(f"class {k}" for k in range(3, 300))]
FORMATS = {
    "polygons": ["coco", "cvat", "label-studio", "coco-panoptic", "labelme"],
    "masks": ["coco", "cvat", "label-studio"],
}


def maps():
    """Label maps by the names of their photos, without suffix: a class, the background, one corner of class 299."""
    found = {}
    for index, mask in enumerate(MASKS.values()):
        labels = np.where(mask, index % 2 + 1, 0)
        if labels.size > 12:  # one image is empty
            labels[-1, -1] = 299
        found[f"{'abc'[index % 3]}/photo {index} é"] = labels
    return found


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """What the programs have read of all formats, by format and image."""
    folder = tmp_path_factory.mktemp("annotations")
    named = {f"{name}.png": labels for name, labels in maps().items()}
    results = save_results(folder / "out", folder / "photos", named, CLASSES, chances=True)
    for kind, formats in FORMATS.items():
        done = export_results(results, formats, folder / kind, Options(shapes=kind, tolerance=0.0))
        assert not done.failed
    command = [
        os.environ["CORRCLIP_READERS"],
        str(Path(__file__).parents[1] / "other_readers.py"),
        str(folder),
    ]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads((folder / "read.json").read_text("utf-8"))


@pytest.mark.parametrize(
    "what",
    ["cvat polygons", "cvat masks", "coco polygons", "coco masks", "coco-panoptic",
     "label-studio polygons", "label-studio masks", "labelme"],
)  # fmt: skip
def test_the_software_reads_every_label_map_back(read, what):
    images = {name.removeprefix("/data/local-files/?d=photos/").removesuffix(".png"): found
              for name, found in read[what].items()}  # fmt: skip
    assert images.keys() == maps().keys()
    for name, labels in maps().items():
        masks = [coco_mask.decode(one["mask"]).astype(bool) for one in images[name]]
        numbers = [CLASSES.index(one["label"]) for one in images[name]]
        assert np.array_equal(painted(masks, numbers, labels.shape), np.where(labels == 0, -1, labels)), name
        if not what.startswith(("label-studio", "labelme")):
            assert {number: extent(images[name], CLASSES[number]) for number in numbers} == {
                number: bounds(labels == number) for number in numbers
            }


def extent(annotations, label):
    """Area, left, top, right and bottom of all annotations of a class, as a reader gives them.

    Together, since a hole of one column is cut through the middle of its pixels.
    """
    found = [one for one in annotations if one["label"] == label]
    x, y, w, h = np.array([one["box"] for one in found]).T
    area = sum(one["area"] for one in found)
    return [area, x.min(), y.min(), (x + w).max(), (y + h).max()]


def bounds(mask):
    """The same of a mask."""
    y, x = np.nonzero(mask)
    return [mask.sum(), x.min(), y.min(), x.max() + 1, y.max() + 1]
