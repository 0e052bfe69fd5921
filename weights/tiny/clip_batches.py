"""Training pictures for CLIP, with captions of their parts.

First come small crops of one part each, then windows of whole scenes with four: instances, as the method's regions
are, rectangles, or all there is to see.
"""

import dataclasses
import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pool as pools
from teacher import outline

from corrclip_jax.config import CLIPConfig
from corrclip_jax.datasets.scenes import captions
from corrclip_jax.datasets.scenes.generate import Scene
from corrclip_jax.datasets.scenes.words import BACKGROUNDS, COLOURS, MATERIALS, SHAPES
from corrclip_jax.text.tokenizer import Tokenizer

PARTS = 4  # of a window
# Colour, material and background tell most pictures apart, so that shapes would be learnt last. Therefore this
# share of the captions name things by shape alone, and the same share leave the background out.
SHARE, CROP_SHARE = 0.5, 0.8
OUTLINES = 0.75  # the share of a window's parts that are an instance
WHOLE = 0.1  # the share of crops that are seen whole
TAGS = (*SHAPES, *BACKGROUNDS, *COLOURS, *MATERIALS)
VOCABULARY = Path(__file__).parent / "vocabulary" / "tokenizer.json"


class Batch(NamedTuple):
    """B pictures with R parts each. `true` says which caption is true of which part."""

    images: np.ndarray  # uint8 [B, S, S, 3]
    corners: np.ndarray  # int32 [B, 2], which patch (row, column) of the tower's grid the first one is
    parts: np.ndarray  # bool [B, R, h, w], on the patch grid
    tokens: np.ndarray  # int32 [R B, T]
    true: np.ndarray  # bool [R B, R B], part x caption
    tags: np.ndarray  # bool [R B, len(TAGS)], the words that are true of each part


@dataclasses.dataclass(frozen=True)
class BatchMaker:
    """`maker(step)` is the batch of a step, `crops` of them before `crop_steps`, then `windows`.

    Other processes call it.
    """

    folder: Path
    config: CLIPConfig
    crops: int
    windows: int
    crop_steps: int
    seed: int

    def __call__(self, step: int) -> Batch:
        """Draw the pictures of a step from the pool."""
        crops, scenes, tokenizer = _load(self.folder)
        rng = np.random.default_rng([self.seed, step])
        side, patch = self.config.vision.image_size, self.config.vision.patch_size
        small = step < self.crop_steps
        rows = []
        for _ in range(self.crops if small else self.windows):
            image, parts, seen = _crop(rng, crops, patch) if small else _window(rng, scenes, side, patch)
            if rng.random() < 0.5:
                image, parts = image[:, ::-1], parts[:, :, ::-1]
            corner = rng.integers((side - image.shape[0]) // patch + 1, size=2)
            rows.append((image, corner.astype(np.int32), parts, seen))
        *arrays, seen = zip(*rows, strict=True)
        seen = [part for parts in seen for part in parts]
        said = [_say(rng, part, CROP_SHARE if small else SHARE) for part in seen]
        return Batch(
            *map(np.stack, arrays),
            tokenizer([caption.text for caption in said], self.config.text.context_length),
            captions.is_true([caption.facts for caption in said], [captions.facts(part) for part in seen]),
            np.stack([_tags(part) for part in seen]),
        )


@functools.cache
def _load(folder: Path) -> tuple[pools.Pool, pools.Pool, Tokenizer]:
    return pools.load_halved(folder, "crops"), pools.load_halved(folder, "scenes"), Tokenizer.load(VOCABULARY)


def _say(rng: np.random.Generator, seen: captions.Contents, share: float) -> captions.Caption:
    """A caption of a part; a share of them name shapes alone, a share no background."""
    if seen.things and rng.random() < share:
        seen = seen._replace(areas=())
    return captions.caption(seen, rng, bare=share)


def _tags(seen: captions.Contents) -> np.ndarray:
    words = {*seen.areas, *(word for thing in seen.things for word in thing)}
    return np.array([tag in words for tag in TAGS])


def _crop(rng: np.random.Generator, crops: pools.Pool, patch: int):
    """A small crop; its part is an instance or the whole."""
    crop = crops.scene(int(rng.integers(len(crops.images))))
    grid = crop.image.shape[0] // patch
    if rng.random() < WHOLE:
        return crop.image, np.ones((1, grid, grid), bool), [captions.contents(crop)]
    part, inside = _instance(rng, crop, crop.instances, patch)
    return crop.image, part[None], [inside]


def _window(rng: np.random.Generator, scenes: pools.Pool, side: int, patch: int):
    """A window of a scene; the parts are the whole, and three times an instance or a rectangle."""
    scene = scenes.scene(int(rng.integers(len(scenes.images))))
    grid = side // patch
    top, left = (int(rng.integers(extent - side + 1)) for extent in scene.instances.shape)
    visible = scene.instances[top : top + side, left : left + side]
    parts, seen = np.zeros((PARTS, grid, grid), bool), []
    for part in range(PARTS):
        if part and rng.random() < OUTLINES:
            parts[part], inside = _instance(rng, scene, visible, patch)
        else:
            y0, x0, y1, x1 = (0, 0, grid, grid) if part == 0 else _rectangle(rng, visible, grid, patch)
            parts[part, y0:y1, x0:x1] = True
            box = (top + y0 * patch, left + x0 * patch, top + y1 * patch, left + x1 * patch)
            inside = captions.contents(scene, box)
        seen.append(inside)
    return scene.image[top : top + side, left : left + side], parts, seen


def _instance(rng: np.random.Generator, scene: Scene, instances: np.ndarray, patch: int):
    """The patches of an instance, rather a thing than an area, and what it is."""
    ids = np.unique(instances)
    things = ids[ids >= pools.FIRST_THING]
    chosen = int(rng.choice(things if len(things) and rng.random() < 0.8 else ids))
    part = outline(instances == chosen, patch)
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
