"""Results as `corrclip segment` writes them, of label maps that a test gives."""

from pathlib import Path

import numpy as np
from PIL import Image

from corrclip_jax.inference.segmentation import Segmentation


def save_results(folder, photos, maps, classes, *, chances=False, regions=None):
    """Write a result for each label map and a grey photo for it; names are those of the photos below `photos`.

    Returns the paths of the descriptions.
    """
    made = []
    for index, (name, labels) in enumerate(maps.items()):
        photo = photos / name
        photo.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.full((*labels.shape, 3), 128, np.uint8)
        Image.fromarray(pixels).save(photo)
        known = None
        if chances:
            known = np.random.default_rng(index).random((len(classes), 4, 5)).astype(np.float16)
        result = Segmentation(
            pixels, labels.astype(np.int32), np.ones(labels.shape, np.float32),
            np.zeros(labels.shape, np.int32) if regions is None else regions[name].astype(np.int32),
            tuple((one,) if isinstance(one, str) else tuple(one) for one in classes), 0.1, False, None, known,
        )  # fmt: skip
        made.append(result.save(folder, f"{index}", {"photo": str(photo), "path": str(photo)})[-1])
    return made


def painted(masks, labels, shape):
    """The label map of masks; -1 elsewhere."""
    found = np.full(shape, -1)
    for mask, label in zip(masks, labels, strict=True):
        assert (found[mask] == -1).all(), "annotations overlap"
        found[mask] = label
    return found


def readable(path):
    """The text of a file."""
    return Path(path).read_text("utf-8")
