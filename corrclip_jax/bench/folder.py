"""How fast a folder goes: equal sizes beside mixed ones, few photos beside many, one device beside several.

`python -m corrclip_jax.bench.folder [--photos 50 200] [--model tiny]` writes JPEG photos, all of 500 x 375 and of
sizes as PASCAL VOC has them, and labels both folders with `Segmenter.stream`, in turns. Reading and decoding belong
to the time, compilation does not: photos of all sizes run once before. A photo has windows by its shape, so that
rates of equal and of mixed sizes are compared by the window. For simulated devices:

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python -m corrclip_jax.bench.folder --devices 8
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from corrclip_jax.bench.reading import draw_photo
from corrclip_jax.inference.buckets import Size, windows_of
from corrclip_jax.inference.segmentation import Segmentation
from corrclip_jax.inference.segmenter import Segmenter

EQUAL: tuple[Size, ...] = ((375, 500),)
MIXED: tuple[Size, ...] = (
    *((375, 500),) * 8, *((500, 375),) * 4, *((333, 500),) * 3, (500, 333), (334, 500), (332, 500), (281, 500),
    (500, 281), (400, 500), (354, 500), (500, 400), (500, 500), (360, 480), (480, 360), (240, 320), (206, 500),
)  # fmt: skip
"""Height and width, as often as VOC has the like; any 28 photos in a row hold all of them."""
_CLASSES = ["red disc", "blue star", ["sky", "cloud"], "grass", "water"]


class Taken(NamedTuple):
    """What a number of photos took: seconds, processor seconds of all threads, and how many windows they have."""

    photos: int
    windows: int
    seconds: float
    processor_seconds: float


def write(folder: Path, sizes: Sequence[Size], count: int) -> list[Path]:
    """Photos of these sizes (height, width), over and over."""
    folder.mkdir()
    paths = [folder / f"{index:05d}.jpg" for index in range(count)]
    for index, (path, (height, width)) in enumerate(zip(paths, itertools.cycle(sizes), strict=False)):
        draw_photo(index, (width, height)).save(path, quality=90)
    return paths


def label(segmenter: Segmenter, paths: Sequence[Path]) -> Taken:
    """Label photos once.

    Raises:
      RuntimeError: for a photo that could not be labelled.
    """
    start, cpu = time.perf_counter(), time.process_time()
    windows = 0
    for place, result in segmenter.stream(paths, _CLASSES):
        if not isinstance(result, Segmentation):
            raise RuntimeError(f"{paths[place]} could not be labelled.") from result
        height, width = result.labels.shape
        windows += windows_of((height, width), segmenter.config.method)
    return Taken(len(paths), windows, time.perf_counter() - start, time.process_time() - cpu)


def compare(segmenter: Segmenter, folder: Path, counts: Sequence[int]) -> Iterator[tuple[str, Taken]]:
    """Each number of photos of equal and of mixed sizes, in turns; programs are compiled before."""
    kinds = {
        name: write(folder / name, sizes, max(counts)) for name, sizes in (("equal", EQUAL), ("mixed", MIXED))
    }
    for paths in kinds.values():
        label(segmenter, paths[: max(len(MIXED), min(counts))])
    for count in sorted(counts):
        for name, paths in kinds.items():
            yield name, label(segmenter, paths[:count])


def main() -> None:
    """Write, label, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--regions", default=None)
    parser.add_argument("--devices", type=int, default=1)
    wish = parser.parse_args()
    mesh = None
    if wish.devices > 1:
        mesh = jax.sharding.Mesh(np.array(jax.devices()[: wish.devices]), ("photos",))
    segmenter = Segmenter(wish.model, regions=wish.regions, mesh=mesh)
    rates: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        for kind, taken in compare(segmenter, Path(name), wish.photos):
            rate = rates.setdefault(taken.photos, {})[kind] = taken.windows / taken.seconds
            print(
                f"{taken.photos} photos, {kind} sizes, {wish.devices} devices: "
                f"{1000 * taken.seconds / taken.photos:.0f} ms and "
                f"{1000 * taken.processor_seconds / taken.photos:.0f} ms of processor time a photo, "
                f"{taken.windows / taken.photos:.2f} windows a photo, {rate:.2f} windows a second"
            )
            if kind == "mixed":
                share = rate / rates[taken.photos]["equal"]
                print(f"{taken.photos} photos: mixed sizes reach {share:.3f} of equal ones")


if __name__ == "__main__":
    main()
