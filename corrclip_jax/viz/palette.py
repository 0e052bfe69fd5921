"""Colours of classes: a class index always has the same colour, however many classes there are."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Float, UInt8

_FIRST = (
    (230, 73, 82), (63, 136, 230), (84, 178, 92), (245, 173, 56), (150, 92, 214), (45, 184, 190),
    (236, 118, 178), (166, 124, 82), (178, 204, 70), (94, 108, 150),
)  # fmt: skip
_LIGHTNESS, _CHROMA = (0.50, 0.88), (0.06, 0.19)  # excludes black, white, grey and glaring colours
_BACKGROUND = (0, 0, 0)


def palette(count: int) -> UInt8[np.ndarray, "{count} 3"]:
    """`count` RGB colours [count, 3]: ten chosen by hand, then each the farthest in Oklab from all before it.

    A shorter palette is the beginning of a longer one. Among 256 colours any two differ by more than a just
    noticeable difference; after 1,024 the colours repeat.
    """
    colours = _spread(256 if count <= 256 else 1024)
    return colours[np.arange(count) % len(colours)]


def class_colours(class_names: Sequence[str]) -> UInt8[np.ndarray, "K 3"]:
    """Colours of classes, [K, 3]: those of the palette, and black for a class called "background"."""
    colours = palette(len(class_names))
    colours[[is_background(name) for name in class_names]] = _BACKGROUND
    return colours


def is_background(name: str) -> bool:
    """Whether a class is called "background"."""
    return name.strip().lower() == "background"


@lru_cache(maxsize=4)
def _spread(count: int) -> UInt8[np.ndarray, "{count} 3"]:
    steps = np.arange(8, 256, 8)
    candidates = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    lab = _oklab(candidates)
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    inside = (_LIGHTNESS[0] < lab[:, 0]) & (lab[:, 0] < _LIGHTNESS[1])
    inside &= (_CHROMA[0] < chroma) & (chroma < _CHROMA[1])
    candidates, lab = candidates[inside], lab[inside]
    chosen = [np.array(colour) for colour in _FIRST]
    distance = np.min([((lab - one) ** 2).sum(1) for one in _oklab(np.array(_FIRST))], axis=0)
    while len(chosen) < count:
        farthest = int(distance.argmax())
        chosen.append(candidates[farthest])
        distance = np.minimum(distance, ((lab - lab[farthest]) ** 2).sum(1))
    return np.array(chosen, np.uint8)


def _oklab(rgb: np.ndarray) -> Float[np.ndarray, "n 3"]:
    """sRGB 0..255 to Oklab (B. Ottosson, 2020)."""
    c = rgb / 255.0
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    cones = linear @ np.array(
        [
            [0.4122214708, 0.2119034982, 0.0883024619],
            [0.5363325363, 0.6806995451, 0.2817188376],
            [0.0514459929, 0.1073969566, 0.6299787005],
        ]
    )
    return np.cbrt(cones) @ np.array(
        [
            [0.2104542553, 1.9779984951, 0.0259040371],
            [0.7936177850, -2.4285922050, 0.7827717662],
            [-0.0040720468, 0.4505937099, -0.8086757660],
        ]
    )
