"""Training pictures for CLIP, with captions of their parts.

Half are mosaics of four small crops, half are windows of whole scenes; first come mosaics alone, of crops with one
thing. Four parts of each picture, instances or rectangles, have a caption of their own.
"""

import dataclasses
import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pool as pools

from corrclip_jax.config import CLIPConfig
from corrclip_jax.datasets import captions
from corrclip_jax.datasets.words import BACKGROUNDS, COLOURS, MATERIALS, SHAPES
from corrclip_jax.tokenizer import Tokenizer

PARTS = 4
# Colour, material and background tell most pictures apart, so that shapes would be learnt last. Therefore this
# share of the captions name things by shape alone, and the same share leave the background out.
SHARE, EASY_SHARE = 0.5, 0.8
# The share of parts that are an instance, as the method's regions are; the others are rectangles.
OUTLINES = 0.6
TAGS = (*SHAPES, *BACKGROUNDS, *COLOURS, *MATERIALS)
VOCABULARY = Path(__file__).parent / "vocabulary" / "tokenizer.json"


class Batch(NamedTuple):
    """B pictures with four parts each. `true` says which caption is true of which part."""

    images: np.ndarray  # uint8 [B, S, S, 3]
    parts: np.ndarray  # bool [B, 4, h, w], on the patch grid
    tokens: np.ndarray  # int32 [4 B, T]
    true: np.ndarray  # bool [4 B, 4 B], part x caption
    tags: np.ndarray  # bool [4 B, len(TAGS)], the words that are true of each part


@dataclasses.dataclass(frozen=True)
class BatchMaker:
    """`maker(step)` is the batch of a step; other processes call it."""

    folder: Path
    config: CLIPConfig
    batch: int
    seed: int
    easy_steps: int = 0

    def __call__(self, step: int) -> Batch:
        """Draw the pictures of a step from the pool."""
        crops, scenes, tokenizer = _load(self.folder)
        easy = step < self.easy_steps
        choice = _single(self.folder) if easy else np.arange(len(crops.images))
        rng = np.random.default_rng([self.seed, step])
        side, patch = self.config.vision.image_size, self.config.vision.patch_size
        grid = side // patch
        rows = []
        for index in range(self.batch):
            image, parts, seen = (
                _mosaic(rng, crops, choice, side, grid)
                if easy or index % 2
                else _window(rng, scenes, side, patch)
            )
            if rng.random() < 0.5:
                image, parts = image[:, ::-1], parts[:, :, ::-1]
            rows.append((image, parts, seen))
        seen = [part for row in rows for part in row[2]]
        said = [_say(rng, part, EASY_SHARE if easy else SHARE) for part in seen]
        return Batch(
            np.stack([row[0] for row in rows]),
            np.stack([row[1] for row in rows]),
            tokenizer([caption.text for caption in said], self.config.text.context_length),
            captions.is_true([caption.facts for caption in said], [captions.facts(part) for part in seen]),
            np.stack([_tags(part) for part in seen]),
        )


@functools.cache
def _load(folder: Path) -> tuple[pools.Pool, pools.Pool, Tokenizer]:
    return pools.load(folder, "crops"), pools.load(folder, "scenes"), Tokenizer.load(VOCABULARY)


@functools.cache
def _single(folder: Path) -> np.ndarray:
    """The crops with one thing."""
    return np.flatnonzero((_load(folder)[0].things[:, :, 0] >= 0).sum(1) == 1)


def _say(rng: np.random.Generator, seen: captions.Contents, share: float) -> captions.Caption:
    """A caption of a part; a share of them name shapes alone, a share no background."""
    if seen.things and rng.random() < share:
        seen = seen._replace(areas=())
    return captions.caption(seen, rng, bare=share)


def _tags(seen: captions.Contents) -> np.ndarray:
    words = {*seen.areas, *(word for thing in seen.things for word in thing)}
    return np.array([tag in words for tag in TAGS])


def _mosaic(rng: np.random.Generator, crops: pools.Pool, choice: np.ndarray, side: int, grid: int):
    """Four crops of a choice side by side; a part is a crop or one instance in it."""
    half, cells = side // 2, grid // 2
    image, parts, seen = np.zeros((side, side, 3), np.uint8), np.zeros((PARTS, grid, grid), bool), []
    for part, index in enumerate(rng.choice(choice, PARTS)):
        y, x = divmod(part, 2)
        rows, columns = slice(y * cells, (y + 1) * cells), slice(x * cells, (x + 1) * cells)
        image[y * half : (y + 1) * half, x * half : (x + 1) * half] = crops.images[index][:half, :half]
        crop = crops.scene(int(index))
        if rng.random() < OUTLINES:
            parts[part, rows, columns], inside = _outline(rng, crop, crop.instances[:half, :half], cells)
        else:
            parts[part, rows, columns], inside = True, captions.contents(crop)
        seen.append(inside)
    return image, parts, seen


def _window(rng: np.random.Generator, scenes: pools.Pool, side: int, patch: int):
    """A window of a scene; the parts are the whole, and three times an instance or a rectangle."""
    scene = scenes.scene(int(rng.integers(len(scenes.images))))
    grid = side // patch
    top, left = (int(rng.integers(extent - side + 1)) for extent in scene.instances.shape)
    visible = scene.instances[top : top + side, left : left + side]
    parts, seen = np.zeros((PARTS, grid, grid), bool), []
    for part in range(PARTS):
        if part and rng.random() < OUTLINES:
            parts[part], inside = _outline(rng, scene, visible, grid)
        else:
            y0, x0, y1, x1 = (0, 0, grid, grid) if part == 0 else _rectangle(rng, visible, grid, patch)
            parts[part, y0:y1, x0:x1] = True
            box = (top + y0 * patch, left + x0 * patch, top + y1 * patch, left + x1 * patch)
            inside = captions.contents(scene, box)
        seen.append(inside)
    return scene.image[top : top + side, left : left + side], parts, seen


def _outline(rng: np.random.Generator, scene, instances: np.ndarray, grid: int):
    """The patches [grid, grid] of which an instance, rather a thing than an area, fills half, and what it is."""
    ids = np.unique(instances)
    things = ids[ids >= pools.FIRST_THING]
    chosen = int(rng.choice(things if len(things) and rng.random() < 0.8 else ids))
    side = instances.shape[0] // grid
    filled = (instances == chosen).reshape(grid, side, grid, side).mean((1, 3))
    part = filled >= min(0.5, filled.max())
    if chosen >= pools.FIRST_THING:
        return part, captions.Contents((scene.things[chosen - pools.FIRST_THING],), ())
    return part, captions.Contents((), (scene.areas[chosen - 1],))


def _rectangle(
    rng: np.random.Generator, instances: np.ndarray, grid: int, patch: int
) -> tuple[int, int, int, int]:
    """Top, left, bottom, right in patches."""
    height, width = (int(n) for n in rng.integers(2, 9, size=2))
    y, x = (int(rng.integers(grid - n + 1)) for n in (height, width))
    things = np.unique(instances[instances >= pools.FIRST_THING])
    if len(things) and rng.random() < 0.5:
        ys, xs = np.nonzero(instances == rng.choice(things))
        # About as large as the thing, a patch more or less on each side.
        edges = np.array([ys.min(), xs.min(), ys.max() + 1, xs.max() + 1]) / patch
        y, x, bottom, right = edges + rng.uniform(-0.7, 0.7, 4)
        y, x = (int(np.clip(round(n), 0, grid - 2)) for n in (y, x))
        height, width = (int(np.clip(round(n), m + 2, grid)) - m for n, m in ((bottom, y), (right, x)))
    return y, x, y + height, x + width
