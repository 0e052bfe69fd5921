"""Outlines of things and their coverage of pixels. A unit outline lies within a circle of radius 1, y down."""

from functools import lru_cache

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw

_OVERSAMPLE = 4


def _polar(radius: np.ndarray, angle: np.ndarray) -> Float[np.ndarray, "N 2"]:
    return np.stack([radius * np.sin(angle), -radius * np.cos(angle)], axis=1)


def _circle(radius: float = 1.0, x: float = 0.0) -> Float[np.ndarray, "N 2"]:
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    return _polar(np.full(48, radius), angle) + np.array([x, 0.0])


def _heart() -> Float[np.ndarray, "N 2"]:
    t = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, -y - 2], axis=1) / 16.5


@lru_cache(maxsize=1)
def outlines() -> dict[str, tuple[Float[np.ndarray, "N 2"], ...]]:
    """Polygons (x, y) of every shape: the outline, then, for some, a hole."""
    turn = 2 * np.pi * np.arange(10) / 10
    petals = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    a, b = 0.34, 0.94  # half the width of the cross's arms, their length
    plus = [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a), (-b, -a),
            (-a, -a)]  # fmt: skip
    arrow = [
        (0, -1),
        (0.75, -0.15),
        (0.27, -0.15),
        (0.27, 0.95),
        (-0.27, 0.95),
        (-0.27, -0.15),
        (-0.75, -0.15),
    ]
    return {
        "circle": (_circle(),),
        "square": (np.array([(-1.0, -1), (1, -1), (1, 1), (-1, 1)]) * 0.84,),
        "triangle": (_polar(np.full(3, 1.0), 2 * np.pi * np.arange(3) / 3) * [1.05, 1.0],),
        "star": (_polar(np.where(np.arange(10) % 2, 0.42, 1.05), turn),),
        "cross": (np.array(plus),),
        "ring": (_circle(), _circle(0.55)),
        "moon": (_circle(), _circle(0.86, 0.52)),
        "heart": (_heart(),),
        "arrow": (np.array(arrow),),
        "flower": (_polar(0.72 + 0.28 * np.cos(6 * petals), petals),),
    }


def coverage(
    shape: str, radius: float, angle: float, stretch: float, centre: tuple[float, float]
) -> tuple[Float[np.ndarray, "h w"], int, int]:
    """How much of each pixel a shape covers, 0..1, in its bounding square, and the square's top and left.

    `centre` is (y, x) in pixels, `angle` in radians, `stretch` the ratio of the shape's two axes.
    """
    side = int(np.ceil(2.6 * radius)) + 3  # a square's corner, stretched, is the farthest
    top, left = round(centre[0]) - side // 2, round(centre[1]) - side // 2
    canvas = Image.new("L", (side * _OVERSAMPLE, side * _OVERSAMPLE))
    draw = ImageDraw.Draw(canvas)
    cos, sin = np.cos(angle), np.sin(angle)
    for index, outline in enumerate(outlines()[shape]):
        x, y = (outline * [radius * stretch**0.5, radius * stretch**-0.5]).T
        points = np.stack([x * cos - y * sin + centre[1] - left, x * sin + y * cos + centre[0] - top], axis=1)
        draw.polygon([tuple(point) for point in (points * _OVERSAMPLE).tolist()], fill=0 if index else 255)
    return np.asarray(canvas.reduce(_OVERSAMPLE), np.float32) / 255, top, left
