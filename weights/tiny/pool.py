"""Pictures drawn ahead for training: `python weights/tiny/pool.py FOLDER`.

Small crops (56 x 56) and whole scenes (168 x 168) with their truth, in shards that several processes draw. Existing
shards are kept. All three recipes read the same pool.
"""

import argparse
import functools
import multiprocessing
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from corrclip_jax.datasets.scenes.generate import FIRST_THING, Scene, Thing, train_crop, train_scene
from corrclip_jax.datasets.scenes.words import BACKGROUNDS, COLOURS, MATERIALS, SHAPES

CROPS_PER_SHARD, SCENES_PER_SHARD = 4000, 500
NAMES = tuple(list(table) for table in (SHAPES, COLOURS, MATERIALS))
AREAS = list(BACKGROUNDS)
_SLOTS = 10  # the most things a scene has


class Pool(NamedTuple):
    """N pictures of one size; `things` are numbers of shape, colour, material, `areas` of backgrounds; -1: none."""

    images: np.ndarray
    instances: np.ndarray
    things: np.ndarray
    areas: np.ndarray

    def scene(self, index: int) -> Scene:
        """Picture `index` as it was drawn."""
        rows = [row for row in self.things[index] if row[0] >= 0]
        things = [Thing(*(names[i] for names, i in zip(NAMES, row, strict=True))) for row in rows]
        areas = tuple(AREAS[i] for i in self.areas[index] if i >= 0)
        return Scene(self.images[index], self.instances[index].astype(np.int32), areas, tuple(things))


def encode(scene: Scene) -> tuple[np.ndarray, ...]:
    """One picture as the row of a pool."""
    things = np.full((_SLOTS, 3), -1, np.int8)
    for row, thing in zip(things, scene.things, strict=False):
        row[:] = [names.index(name) for names, name in zip(NAMES, thing, strict=True)]
    areas = np.full(FIRST_THING - 1, -1, np.int8)
    areas[: len(scene.areas)] = [AREAS.index(name) for name in scene.areas]
    return scene.image, scene.instances.astype(np.uint8), things, areas


def draw_shard(folder: Path, job: tuple[str, int]) -> None:
    """Draw one shard unless it is there."""
    kind, shard = job
    file = folder / f"{kind}-{shard:03}.npz"
    if file.exists():
        return
    draw, size = {"crops": (train_crop, CROPS_PER_SHARD), "scenes": (train_scene, SCENES_PER_SHARD)}[kind]
    rows = [encode(draw(seed)) for seed in range(shard * size, (shard + 1) * size)]
    columns = dict(zip(Pool._fields, map(np.stack, zip(*rows, strict=True)), strict=True))
    unfinished = file.with_suffix(".part.npz")
    np.savez(unfinished, **columns)
    unfinished.rename(file)


def load(folder: Path, kind: str) -> Pool:
    """All shards of a kind."""
    files = sorted(folder.glob(f"{kind}-[0-9][0-9][0-9].npz"))
    if not files:
        raise FileNotFoundError(
            f"there are no {kind} in {folder}. Draw them: python weights/tiny/pool.py {folder}"
        )
    shards = [np.load(file) for file in files]
    return Pool(*(np.concatenate([shard[name] for shard in shards]) for name in Pool._fields))


@functools.cache
def load_halved(folder: Path, kind: str) -> Pool:
    """All shards of a kind, half as large, as the method shows pictures to CLIP; read once, not to be changed."""
    pool = load(folder, kind)
    images = np.empty((len(pool.images), *(n // 2 for n in pool.images.shape[1:3]), 3), np.uint8)
    for out, image in zip(images, pool.images, strict=True):
        out[:] = halved(image)
    return pool._replace(images=images, instances=np.ascontiguousarray(pool.instances[:, ::2, ::2]))


def halved(image: np.ndarray) -> np.ndarray:
    """A picture [H, W, 3] of half the size: means of 2 x 2 pixels."""
    height, width = (n // 2 for n in image.shape[:2])
    return ((image.reshape(height, 2, width, 2, 3).sum((1, 3), dtype=np.uint16) + 2) // 4).astype(np.uint8)


def main() -> None:
    """Draw the pool."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--crops", type=int, default=80_000)
    parser.add_argument("--scenes", type=int, default=10_000)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    jobs = [("scenes", i) for i in range(args.scenes // SCENES_PER_SHARD)]
    jobs += [("crops", i) for i in range(args.crops // CROPS_PER_SHARD)]
    with multiprocessing.get_context("spawn").Pool(args.processes) as workers:
        for done, _ in enumerate(workers.imap_unordered(functools.partial(draw_shard, args.folder), jobs), 1):
            print(f"{done} of {len(jobs)} shards", flush=True)


if __name__ == "__main__":
    main()
