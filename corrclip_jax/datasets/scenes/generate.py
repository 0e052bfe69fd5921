"""Generated scenes with exact truth: things of many shapes, colours and materials on textured backgrounds.

A scene follows from its seed alone. `val_scene(0)` .. `val_scene(199)` are the fixed validation split,
`unseen_scene(0)` .. the split of combinations that training never shows (see `words`).
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int32, UInt8
from PIL import Image, ImageFilter

from corrclip_jax.datasets.scenes import textures
from corrclip_jax.datasets.scenes.shapes import coverage
from corrclip_jax.datasets.scenes.words import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT_MATERIALS,
    HELD_OUT_PAIRS,
    INVISIBLE,
    MATERIALS,
    SHAPES,
)

Combinations = Literal["seen", "unseen"]
# The part of an image that a thing touches, how much it covers of each pixel, and its paint.
_Placed = tuple[tuple[slice, slice], np.ndarray, np.ndarray]

SCENE_SIDE = 168
VAL_SCENES = 200
UNSEEN_SCENES = 100
FIRST_THING = 3  # instance ids: 1 and 2 are the areas of background, things follow

_TRAIN, _VAL, _UNSEEN = 0, 1, 2
_MAX_THINGS = 10
_LEAST_RADIUS = 12.0
_VISIBLE = 0.55  # no thing may hide more of another than this leaves
_SHAPE_IDS = {name: index for index, name in enumerate(SHAPES)}
_BACKGROUND_IDS = {name: len(SHAPES) + index for index, name in enumerate(BACKGROUNDS)}
_PAIR_IDS = {pair: index for index, pair in enumerate(HELD_OUT_PAIRS)}


class Thing(NamedTuple):
    """One object of a scene, in words."""

    shape: str
    colour: str
    material: str


@dataclass(frozen=True)
class Scene:
    """A picture and its truth.

    `instances` are 1 and 2 for the areas of background, then 3 and on for the things, in the order of `things`
    (a later thing lies upon an earlier one).
    """

    image: UInt8[np.ndarray, "H W 3"]
    instances: Int32[np.ndarray, "H W"]
    areas: tuple[str, ...]
    things: tuple[Thing, ...]

    @property
    def labels(self) -> Int32[np.ndarray, "H W"]:
        """The class of every pixel, a number of `words.CLASSES`: the thing's shape, or the background."""
        return self._by_instance([_SHAPE_IDS[thing.shape] for thing in self.things], 0)

    @property
    def unseen_labels(self) -> Int32[np.ndarray, "H W"]:
        """The class of every pixel, a number of `words.UNSEEN_CLASSES`; for scenes of unseen combinations."""
        shift = len(HELD_OUT_PAIRS) - len(SHAPES)
        return self._by_instance([_PAIR_IDS[thing.colour, thing.shape] for thing in self.things], shift)

    def _by_instance(self, things: list[int], shift: int) -> np.ndarray:
        areas = [_BACKGROUND_IDS[area] + shift for area in self.areas]
        table = [-1, *areas, *[-1] * (FIRST_THING - 1 - len(areas)), *things]
        return np.asarray(table, np.int32)[self.instances]


def train_scene(seed: int, size: tuple[int, int] = (SCENE_SIDE, SCENE_SIDE)) -> Scene:
    """A scene for training, of the combinations that training may show; `size` is (height, width)."""
    return draw(np.random.default_rng([_TRAIN, seed]), size)


def train_crop(seed: int, side: int = 56) -> Scene:
    """A small picture for training: background alone, or one to three things upon it, as large as in a scene."""
    rng = np.random.default_rng([_TRAIN, seed, side])
    count = int(rng.choice(4, p=[0.15, 0.5, 0.25, 0.1]))
    return draw(rng, (side, side), (count, count), areas=1 if rng.random() < 0.8 else 2)


def val_scene(index: int) -> Scene:
    """Scene `index` (0 to 199) of the validation split: most are square, every fourth is not."""
    if not 0 <= index < VAL_SCENES:
        raise ValueError(f"the validation split has the scenes 0 to {VAL_SCENES - 1}. Got {index}.")
    return draw(np.random.default_rng([_VAL, index]), val_size(index))


def unseen_scene(index: int) -> Scene:
    """Scene `index` (0 to 99) of the split in which every thing is of a held-out pair of colour and shape."""
    if not 0 <= index < UNSEEN_SCENES:
        raise ValueError(
            f"the split of unseen combinations has the scenes 0 to {UNSEEN_SCENES - 1}. Got {index}."
        )
    return draw(np.random.default_rng([_UNSEEN, index]), val_size(index), combinations="unseen")


def val_size(index: int) -> tuple[int, int]:
    """Height and width of a scene of either split."""
    return {1: (168, 224), 3: (216, 168)}.get(index % 8, (SCENE_SIDE, SCENE_SIDE))


def draw(
    rng: np.random.Generator,
    size: tuple[int, int],
    things: tuple[int, int] = (3, _MAX_THINGS),
    areas: int | None = None,
    combinations: Combinations = "seen",
    scale: float = 1.0,
) -> Scene:
    """Draw one scene.

    Args:
      rng: where all chance comes from.
      size: (height, width) in pixels.
      things: the least and the greatest number of things; fewer are drawn where there is no room.
      areas: how many areas of background, 1 or 2; by chance if None.
      combinations: "seen" leaves out all held-out pairs, "unseen" draws things of held-out pairs only.
      scale: pixels a scene unit: things and textures grow with it.
    """
    height, width = size
    areas = areas or int(rng.integers(1, 3))
    names = tuple(str(name) for name in rng.choice(list(BACKGROUNDS), areas, replace=False))
    canvas = textures.background(rng, names[0], height, width, scale)
    instances = np.ones(size, np.int32)
    if areas == 2:
        below = np.arange(height)[:, None] > _horizon(rng, height, width, scale)
        canvas = np.where(below[..., None], textures.background(rng, names[1], height, width, scale), canvas)
        instances[below] = 2

    drawn: list[Thing] = []
    sizes: list[int] = []
    wanted = int(rng.integers(things[0], things[1] + 1))
    # Many things are small ones; the largest a picture can take leave room for each other.
    largest = min(40.0 - 2.0 * wanted, 0.46 * min(size) / scale)
    for _ in range(4 * wanted):
        if len(drawn) == wanted:
            break
        thing = choose(rng, names, combinations)
        radius = scale * rng.uniform(_LEAST_RADIUS, max(largest, _LEAST_RADIUS))
        centre = (rng.uniform(0.06, 0.94) * height, rng.uniform(0.06, 0.94) * width)
        placed = place(rng, thing, radius, centre, canvas, scale)
        if placed is None or not _fits(instances, placed, sizes, scale):
            continue
        window, cover, paint = placed
        canvas[window] += cover[..., None] * (paint - canvas[window])
        instances[window][cover >= 0.5] = FIRST_THING + len(drawn)
        drawn.append(thing)
        sizes.append(int((cover >= 0.5).sum()))
    return Scene(_photograph(rng, canvas), instances, names, tuple(drawn))


def choose(rng: np.random.Generator, areas: tuple[str, ...], combinations: Combinations) -> Thing:
    """A thing that may stand on these areas."""
    while True:
        if combinations == "unseen":
            colour, shape = HELD_OUT_PAIRS[int(rng.integers(len(HELD_OUT_PAIRS)))]
        else:
            colour, shape = (str(rng.choice(list(names))) for names in (COLOURS, SHAPES))
        material = str(rng.choice(list(MATERIALS)))
        held_out = (colour, shape) in HELD_OUT_PAIRS or any(
            (material, area) in HELD_OUT_MATERIALS for area in areas
        )
        if any((colour, area) in INVISIBLE for area in areas):
            continue
        if combinations == "unseen" or not held_out:
            return Thing(shape, colour, material)


def place(
    rng: np.random.Generator, thing: Thing, radius: float, centre: Any, canvas: np.ndarray, scale: float
) -> _Placed | None:
    """Draw a thing; None where less than 0.6 of it lies within the image."""
    angle = rng.uniform(-np.pi, np.pi)
    cover, top, left = coverage(thing.shape, radius, angle, rng.uniform(0.85, 1.18), centre)
    side = len(cover)
    middle = (centre[0] - top, centre[1] - left)
    paint = textures.material(rng, thing.material, thing.colour, side, middle, radius, angle, scale)
    rows = slice(max(0, -top), min(side, canvas.shape[0] - top))
    columns = slice(max(0, -left), min(side, canvas.shape[1] - left))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return None
    inside = cover[rows, columns]
    if inside.sum() < 0.6 * cover.sum():
        return None
    window = (slice(rows.start + top, rows.stop + top), slice(columns.start + left, columns.stop + left))
    return window, inside, paint[rows, columns]


def _fits(instances: np.ndarray, placed: _Placed, sizes: list[int], scale: float) -> bool:
    """Whether what lies below a new thing stays visible."""
    window, cover, _ = placed
    mask = cover >= 0.5
    if mask.sum() < 120 * scale**2:
        return False
    hidden = np.bincount(instances[window][mask], minlength=FIRST_THING + len(sizes))[FIRST_THING:]
    if not hidden.any():
        return True
    total = np.bincount(instances.reshape(-1), minlength=FIRST_THING + len(sizes))[FIRST_THING:]
    return bool(((total - hidden)[hidden > 0] >= _VISIBLE * np.asarray(sizes)[hidden > 0]).all())


def _horizon(
    rng: np.random.Generator, height: int, width: int, scale: float
) -> Float[np.ndarray, "1 {width}"]:
    """Where the lower background begins, for each column: a line that slopes and waves."""
    slope = rng.uniform(-0.25, 0.25) * (np.arange(width) - width / 2)
    waves = rng.uniform(0, 4) * scale * textures.noise(rng, 1, width, 1.0, 30 * scale)
    return (rng.uniform(0.3, 0.7) * height + slope)[None] + waves


def _photograph(rng: np.random.Generator, canvas: np.ndarray) -> UInt8[np.ndarray, "H W 3"]:
    """Uneven light, blur and noise."""
    lit = np.clip(canvas * textures.light(rng, *canvas.shape[:2]), 0, 255)
    image = Image.fromarray(lit.astype(np.uint8))
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 0.9)))
    grain = rng.uniform(0, 7) * rng.standard_normal(canvas.shape, dtype=np.float32)
    return np.clip(np.asarray(image, np.float32) + grain, 0, 255).astype(np.uint8)
