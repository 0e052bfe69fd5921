"""PNG label maps: the class of every pixel with a palette or as plain grey, and the colour table as JSON."""

from typing import Any

import numpy as np
from jaxtyping import Integer
from PIL import Image

from corrclip_jax.formats.images import VOID, Images, Options, Vocabulary
from corrclip_jax.formats.target import Target
from corrclip_jax.io.files import json_bytes
from corrclip_jax.viz.overlay import label_image

TABLE = "classes.json"


def write(target: Target, vocabulary: Vocabulary, images: Images, options: Options, mark: str) -> None:
    """Write <name>.png for each image, and the table of the classes.

    Raises:
      OutputError: if a file cannot be written.
    """
    for number, entry in enumerate(images.entries, start=1):
        name = f"{entry.stem}.png"
        if target.is_done(name, entry.mark):
            continue
        if (image := images.load(number, entry)) is not None:
            drawn = picture(image.labels(), vocabulary, raw=options.raw)
            with target.writing(name, entry.mark) as path:
                drawn.save(path, optimize=True)
    target.write(TABLE, "", json_bytes(colour_table(vocabulary)))


def picture(labels: Integer[np.ndarray, "H W"], vocabulary: Vocabulary, *, raw: bool = False) -> Image.Image:
    """A label map as an image: 8 bits, with a palette unless `raw`, or 16 bits grey for more than 255 classes.

    Pixels of no class have the largest value: 255, or 65,535.
    """
    wide = len(vocabulary.classes) > 255
    void = 0xFFFF if wide else 0xFF
    if raw or wide or (labels == VOID).any():
        values = np.where(labels == VOID, void, labels).astype(np.uint16 if wide else np.uint8)
        image = Image.fromarray(values)
        if not raw and not wide:
            image.putpalette(np.array(vocabulary.colours, np.uint8).tobytes())
        return image
    return label_image(labels, vocabulary.names)


def colour_table(vocabulary: Vocabulary) -> list[dict[str, Any]]:
    """Value, names and colour of every class."""
    return [
        {"value": value, "name": names[0], "synonyms": list(names[1:]), "colour": list(colour)}
        for value, (names, colour) in enumerate(zip(vocabulary.classes, vocabulary.colours, strict=True))
    ]
