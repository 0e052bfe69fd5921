"""View of a result for the page: photo, map of labels and probabilities, legend, as JSON types."""

from typing import Any

import numpy as np
from jaxtyping import Float, Integer, UInt8
from PIL import Image

from corrclip_jax.inference.segmentation import Segmentation
from corrclip_jax.viz.data_uri import data_uri
from corrclip_jax.viz.overlay import class_shares
from corrclip_jax.viz.palette import class_colours, is_background

LONGEST = 1280
"""Longest side of the view in pixels; the files have all pixels."""


def view_of(result: Segmentation) -> dict[str, Any]:
    """What the page draws.

    Returns:
      `width`, `height`; `photo`, a JPEG, and `map`, a PNG, as data URIs (see `packed_map`); `classes`: `name`,
      `synonyms`, `colour` (RGB), `share` of the pixels, `clear` for a background that is not tinted.
    """
    height, width = result.labels.shape
    scale = min(1.0, LONGEST / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    rows = np.minimum((np.arange(size[1]) + 0.5) * height / size[1], height - 1).astype(int)
    columns = np.minimum((np.arange(size[0]) + 0.5) * width / size[0], width - 1).astype(int)
    picked = np.ix_(rows, columns)
    photo = Image.fromarray(result.photo)
    shares = class_shares(result.labels, len(result.classes))
    colours = class_colours(result.class_names).tolist()
    return {
        "width": size[0],
        "height": size[1],
        "photo": data_uri(photo if photo.size == size else photo.resize(size), "jpeg", quality=90),
        "map": data_uri(Image.fromarray(packed_map(result.labels[picked], result.scores[picked])), "png"),
        "classes": [
            {
                "name": names[0],
                "synonyms": list(names[1:]),
                "colour": colours[label],
                "share": float(shares[label]),
                "clear": is_background(names[0]),
            }
            for label, names in enumerate(result.classes)
        ],
    }


def packed_map(
    labels: Integer[np.ndarray, "H W"], scores: Float[np.ndarray, "H W"]
) -> UInt8[np.ndarray, "H W 3"]:
    """Labels, low byte in red and high byte in green, and probabilities 0..1 as 0..255 in blue."""
    return np.stack([labels & 0xFF, labels >> 8, np.rint(np.clip(scores, 0.0, 1.0) * 255)], axis=-1).astype(
        np.uint8
    )
