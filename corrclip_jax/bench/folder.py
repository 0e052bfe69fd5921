"""Throughput over a folder of images: equal or mixed sizes, few or many images, one device or several.

`python -m corrclip_jax.bench.folder [--photos 50 200] [--model tiny]` writes two folders of JPEG files, one
with images of 500 x 375 only and one with the sizes of PASCAL VOC, and labels both with `Segmenter.stream`,
alternately. The time includes reading and decoding but not compilation: images of all sizes run once before.
The number of windows depends
on an image's shape, so equal and mixed sizes are compared by windows per second. With simulated devices:

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
"""Height and width, with the frequencies of PASCAL VOC; any 28 images in a row contain all of them."""
_CLASSES = ["red disc", "blue star", ["sky", "cloud"], "grass", "water"]


class Timing(NamedTuple):
    """Wall time and processor time (of all threads) in seconds, for so many images with so many windows."""

    photos: int
    windows: int
    seconds: float
    processor_seconds: float


def write(folder: Path, sizes: Sequence[Size], count: int) -> list[Path]:
    """Write `count` JPEG files, cycling through these sizes (height, width)."""
    folder.mkdir()
    paths = [folder / f"{index:05d}.jpg" for index in range(count)]
    for index, (path, (height, width)) in enumerate(zip(paths, itertools.cycle(sizes), strict=False)):
        draw_photo(index, (width, height)).save(path, quality=90)
    return paths


def label(segmenter: Segmenter, paths: Sequence[Path]) -> Timing:
    """Label images once and time it.

    Raises:
      RuntimeError: if an image could not be labelled.
    """
    start, cpu = time.perf_counter(), time.process_time()
    windows = 0
    for index, result in segmenter.stream(paths, _CLASSES):
        if not isinstance(result, Segmentation):
            raise RuntimeError(f"{paths[index]} could not be labelled.") from result
        height, width = result.labels.shape
        windows += windows_of((height, width), segmenter.config.method)
    return Timing(len(paths), windows, time.perf_counter() - start, time.process_time() - cpu)


def compare(segmenter: Segmenter, folder: Path, counts: Sequence[int]) -> Iterator[tuple[str, Timing]]:
    """Time each number of images with equal and with mixed sizes, alternately, after compilation."""
    kinds = {
        name: write(folder / name, sizes, max(counts)) for name, sizes in (("equal", EQUAL), ("mixed", MIXED))
    }
    for paths in kinds.values():
        label(segmenter, paths[: max(len(MIXED), min(counts))])
    for count in sorted(counts):
        for name, paths in kinds.items():
            yield name, label(segmenter, paths[:count])


def main() -> None:
    """Write the images, label them, print the rates."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--regions", default=None)
    parser.add_argument("--devices", type=int, default=1)
    options = parser.parse_args()
    mesh = None
    if options.devices > 1:
        mesh = jax.sharding.Mesh(np.array(jax.devices()[: options.devices]), ("photos",))
    segmenter = Segmenter(options.model, regions=options.regions, mesh=mesh)
    rates: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        for kind, timing in compare(segmenter, Path(name), options.photos):
            rate = rates.setdefault(timing.photos, {})[kind] = timing.windows / timing.seconds
            print(
                f"{timing.photos} photos, {kind} sizes, {options.devices} devices: "
                f"{1000 * timing.seconds / timing.photos:.0f} ms and "
                f"{1000 * timing.processor_seconds / timing.photos:.0f} ms of processor time a photo, "
                f"{timing.windows / timing.photos:.2f} windows a photo, {rate:.2f} windows a second"
            )
            if kind == "mixed":
                share = rate / rates[timing.photos]["equal"]
                print(f"{timing.photos} photos: mixed sizes reach {share:.3f} of equal ones")


if __name__ == "__main__":
    main()
