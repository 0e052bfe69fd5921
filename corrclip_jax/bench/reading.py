"""Throughput of the host in an evaluation: decoding images, mapping labels, padding batches; without a model.

`python -m corrclip_jax.bench.reading [--photos 400]` writes JPEG images and label files of PASCAL VOC's size
(500 x 375, and as many bytes) and reads them in the same way as `corrclip evaluate`.
"""

import argparse
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from corrclip_jax.config import MethodConfig
from corrclip_jax.datasets.benchmarks import open_folders
from corrclip_jax.evaluation.loading import padded_examples, read_example, read_sizes
from corrclip_jax.inference.buckets import plan_batches, plan_buckets
from corrclip_jax.inference.stream import stream

_BATCH = 16


def write(folder: Path, count: int) -> None:
    """Write images of smooth noise with grain, and label files with 21 classes."""
    for name in ("photos", "labels"):
        (folder / name).mkdir()
    for index in range(count):
        size = (500, 375) if index % 4 else (375, 500)
        draw_photo(index, size).save(folder / "photos" / f"{index:05d}.jpg", quality=90)
        labels = Image.fromarray(np.random.default_rng(index).integers(0, 21, (6, 8), dtype=np.uint8))
        labels.resize(size, Image.Resampling.NEAREST).save(folder / "labels" / f"{index:05d}.png")


def draw_photo(seed: int, size: tuple[int, int]) -> Image.Image:
    """An image (width, height) of smooth noise with grain: its JPEG is about as large as that of a real photo."""
    rng = np.random.default_rng(seed)
    width, height = size
    coarse = Image.fromarray(rng.integers(0, 256, (height // 12, width // 12, 3), dtype=np.uint8))
    grain = rng.integers(-12, 13, (height, width, 3))
    photo = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC)).astype(int) + grain
    return Image.fromarray(photo.clip(0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.8))


def main() -> None:
    """Write the files, read them three times, print the rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=400)
    count = parser.parse_args().photos
    method = MethodConfig()
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), count)
        kilobytes = sum(file.stat().st_size for file in Path(name, "photos").iterdir()) / count / 1e3
        data = open_folders(Path(name, "photos"), Path(name, "labels"), [[str(k)] for k in range(21)])
        for _ in range(3):
            start, cpu = time.perf_counter(), time.process_time()
            sizes, _ = read_sizes(data)
            headers = time.perf_counter() - start
            buckets = plan_buckets(sizes.values(), method)
            batches = plan_batches(list(sizes.values()), buckets, method, _BATCH)
            padded = stream(batches, partial(read_example, data), padded_examples)
            done = sum(len(batch.indices) for batch, _, _ in padded)
            wall, used = time.perf_counter() - start, time.process_time() - cpu
            print(
                f"{done} photos of {kilobytes:.0f} kB: {done / wall:.0f} a second (sizes took {headers:.2f} s of "
                f"{wall:.2f} s), {1000 * used / done:.1f} ms of processor time a photo"
            )


if __name__ == "__main__":
    main()
