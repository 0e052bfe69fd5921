"""What a score leaves out: pixels without class, classes that no image holds, images without a scored pixel."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from corrclip_jax.datasets.dataset import Dataset, some
from corrclip_jax.evaluation.counts import Counts
from corrclip_jax.viz.legend import percent

_MASK = 255  # "belongs to the class" in binary masks, "left out" by default in label files


def left_out(dataset: Dataset, counts: Counts) -> dict[str, Any]:
    """The facts, as plain JSON types.

    Returns:
      share_of_pixels: the share of the pixels that is left out, 0..1; None if no image was counted.
      numbers: the numbers in label files that are left out.
      classes: the names of the classes that no image holds.
      images: the names of the images of which no pixel is scored.
    """
    true = counts.matrices[0].sum(axis=1)
    blank = np.flatnonzero(counts.counted & np.isnan(counts.scores)).tolist()
    return {
        "share_of_pixels": round(1 - int(true.sum()) / counts.pixels, 6) if counts.pixels else None,
        "numbers": list(dataset.left_out),
        "classes": [dataset.class_names[index] for index in np.flatnonzero(true == 0).tolist()],
        "images": [dataset.stem(index) for index in blank],
    }


def sentences(facts: dict[str, Any], classes: Sequence[str]) -> list[str]:
    """The facts of `left_out` for people, and what may be wrong with the label files; `classes` are all names."""
    share, lines = facts["share_of_pixels"], []
    if share is None:
        return ["No image was counted."]
    if share:
        numbers = f" ({', '.join(map(str, facts['numbers']))})" if facts["numbers"] else ""
        all_of = "All pixels" if share == 1 else f"{percent(share)} of the pixels"
        lines.append(f"{all_of} are left out{numbers}.")
    if facts["images"] and share != 1:
        lines.append(f"No pixel is scored in {len(facts['images'])} images: {some(facts['images'])}.")
    if facts["classes"] and share != 1:
        lines.append(f"No image holds: {some(facts['classes'], 10)}.")
    held = len(classes) - len(facts["classes"])
    if held and classes[0] in facts["classes"] and 0 not in facts["numbers"]:
        lines.append("If the classes are numbered from 1 in these label files, give --first-id 1.")
    if share and _MASK in facts["numbers"] and held < 2 and len(classes) > 1:
        lines.append(
            f"If {_MASK} marks a class in these label files, as in masks of 0 and {_MASK}, write the number of the "
            f"class in its place: {_MASK} is left out (--ignored)."
        )
    return lines
