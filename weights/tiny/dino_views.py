"""Views of scenes for DINO: two large and some small squares of each, and which patches show the same spot."""

import dataclasses
import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pool as pools
from PIL import Image

LARGE, SMALL = 40, 20  # sides of the views
SMALL_VIEWS = 2


class Batch(NamedTuple):
    """Views of B scenes. `match[b, v]` holds, for each patch of large view v, the patch of the other one, or -1."""

    large: np.ndarray  # uint8 [B, 2, L, L, 3]
    small: np.ndarray  # uint8 [B, V, s, s, 3]
    match: np.ndarray  # int32 [B, 2, P]


@dataclasses.dataclass(frozen=True)
class BatchMaker:
    """`maker(step)` is the batch of a step; other processes call it."""

    folder: Path
    patch: int
    batch: int
    seed: int

    def __call__(self, step: int) -> Batch:
        """Draw views from the pool's scenes."""
        scenes = _load(self.folder)
        rng = np.random.default_rng([self.seed, step])
        rows = [self._views(rng, scenes[int(i)]) for i in rng.integers(len(scenes), size=self.batch)]
        return Batch(*map(np.stack, zip(*rows, strict=True)))

    def _views(self, rng: np.random.Generator, image: np.ndarray):
        photo = Image.fromarray(image)
        extent = image.shape[0]
        boxes = [_box(rng, extent, 64, 112) for _ in range(2)]
        large = [_view(rng, photo, box, LARGE) for box in boxes]
        small = [_view(rng, photo, _box(rng, extent, 28, 56), SMALL) for _ in range(SMALL_VIEWS)]
        places = [
            patch_places(box, flip, LARGE // self.patch) for box, (_, flip) in zip(boxes, large, strict=True)
        ]
        match = [matching(places[v], boxes[1 - v], large[1 - v][1], LARGE // self.patch) for v in range(2)]
        return np.stack([view for view, _ in large]), np.stack([view for view, _ in small]), np.stack(match)


@functools.cache
def _load(folder: Path) -> np.ndarray:
    return pools.load(folder, "scenes").images


def _box(rng: np.random.Generator, extent: int, least: int, most: int) -> tuple[float, float, float]:
    """Left, top and side of a square."""
    side = rng.uniform(least, most)
    left, top = rng.uniform(0, extent - side, 2)
    return left, top, side


def _view(rng: np.random.Generator, photo: Image.Image, box, side: int) -> tuple[np.ndarray, bool]:
    """A square of a photo, perhaps mirrored, its light and contrast changed, and whether it is mirrored."""
    left, top, extent = box
    cut = photo.resize((side, side), Image.Resampling.BILINEAR, box=(left, top, left + extent, top + extent))
    flip = bool(rng.random() < 0.5)
    pixels = np.asarray(cut, np.float32)[:, :: -1 if flip else 1]
    pixels = (pixels - 128) * rng.uniform(0.75, 1.25) + 128 + rng.uniform(-25, 25) + rng.uniform(-8, 8, 3)
    return np.clip(pixels, 0, 255).astype(np.uint8), flip


def patch_places(box, flip: bool, grid: int) -> np.ndarray:
    """Where the centres of a view's patches lie in the scene: (x, y) [P, 2]."""
    left, top, extent = box
    y, x = np.divmod(np.arange(grid * grid), grid)
    x = grid - 1 - x if flip else x
    return np.stack([left + (x + 0.5) * extent / grid, top + (y + 0.5) * extent / grid], axis=1)


def matching(places: np.ndarray, box, flip: bool, grid: int) -> np.ndarray:
    """The patch of another view at each place, -1 where the view does not reach."""
    left, top, extent = box
    x, y = np.floor((places - [left, top]) * grid / extent).astype(int).T
    inside = (x >= 0) & (x < grid) & (y >= 0) & (y < grid)
    return np.where(inside, y * grid + (grid - 1 - x if flip else x), -1).astype(np.int32)
