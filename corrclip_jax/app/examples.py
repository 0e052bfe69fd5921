"""Examples of the web page: generated scenes, which the model `tiny` knows, with their class names."""

from pathlib import Path

import numpy as np
from PIL import Image

from corrclip_jax.datasets.scenes.generate import draw

_SIZE, _SCALE = (336, 448), 2.0
_CLASSES = {
    14: "brick, sky, grass, sand, flower, water, heart, wood, star, road, snow, arrow",
    9: "brick, sky, grass, sand, water, star, ring, cross, moon, triangle, circle, square",
    18: "sky, grass, sand, road; street, snow, water, flower, heart, star, wood, brick",
}
"""The classes that are asked for, by the seed of a scene."""


def write_examples(folder: Path) -> list[tuple[Path, str]]:
    """Draw the scenes.

    Returns:
      Their files, and the text of the class names for each.
    """
    found = []
    for number, (seed, classes) in enumerate(_CLASSES.items(), start=1):
        scene = draw(np.random.default_rng([7, seed]), _SIZE, (4, 8), scale=_SCALE)
        path = folder / f"scene-{number}.png"
        Image.fromarray(scene.image).save(path)
        found.append((path, classes))
    return found
