"""Buckets of image sizes and batches planned from them: few compiled programs, little padding.

    buckets = plan_buckets(sizes, config.method, most=4)              # sizes: (height, width) of every image
    batches = plan_batches(sizes, buckets, config.method, 8)          # which images run together
    for batch, images, out in stream(batches, read, run):             # read(index), run(batch, images)
        ...

A bucket is the shape of a padded batch and the most windows of an image in it: one program of `segment(sizes=)`
with `config.method.max_windows = bucket.windows`. Windows are computed only where an image has them (see
`method.windows_padded`), so a large bucket wastes only padding pixels, which cost little beside a window in the
networks.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from corrclip_jax.config import MethodConfig
from corrclip_jax.method.windows import plan_windows
from corrclip_jax.method.windows_padded import chunk_sizes, window_shape

Size = tuple[int, int]
MOST_BUCKETS = 4  # programs for images that are planned together
# Buckets are joined while that costs at most this share of the total, even where more buckets are allowed.
_NEGLIGIBLE = 0.02
# Sizes are first rounded up until at most this many distinct ones are left to join.
_MOST_CELLS = 400


@dataclass(frozen=True)
class Bucket:
    """Images that one program serves: up to `height` x `width` pixels and `windows` windows."""

    height: int
    width: int
    windows: int

    @property
    def shape(self) -> Size:
        """Height and width of the padded batch."""
        return self.height, self.width

    def holds(self, size: Size, method: MethodConfig) -> bool:
        """Whether an image of `size` (height, width) fits: pixels, number of windows, and their padding."""
        return (
            size[0] <= self.height
            and size[1] <= self.width
            and windows_of(size, method) <= self.windows
            and window_shape(size, method) == window_shape(self.shape, method)
        )

    @property
    def cost(self) -> int:
        """What an image costs besides its windows, unitless: every window's logits at every pixel, and masks."""
        return self.height * self.width * (self.windows + 2)


class Batch(NamedTuple):
    """Images, by their indices in the list of sizes, that run together through the program of `bucket`.

    All batches of a bucket have the same `batch_size`; a batch of fewer images is padded with images of size 0.
    """

    bucket: Bucket
    indices: tuple[int, ...]
    batch_size: int


@lru_cache(maxsize=1 << 16)
def windows_of(size: Size, method: MethodConfig) -> int:
    """How many windows an image of `size` (height, width) has."""
    plan = plan_windows(size[0], size[1], method)
    return len(plan.y.starts) * len(plan.x.starts)


def plan_buckets(sizes: Iterable[Size], method: MethodConfig, most: int = MOST_BUCKETS) -> tuple[Bucket, ...]:
    """Buckets, at most `most`, that hold all images at little cost; the cheapest first.

    Images so narrow that their windows are padded get one bucket for each shape of padded window; only where there
    are more such shapes than `most` are there more buckets.

    Raises:
      ValueError: no images, an image without pixels, or `most` below 1.
    """
    counts = Counter((int(height), int(width)) for height, width in sizes)
    if not counts or min(map(min, counts)) < 1 or most < 1:
        raise ValueError(
            f"plan_buckets needs at least one image, of at least 1 x 1 pixel, and most of at least 1. Got "
            f"{len(counts)} sizes, most={most}, smallest side {min(map(min, counts), default=None)}."
        )
    shapes: dict[Size, Counter[Size]] = {}
    for size, number in counts.items():
        shapes.setdefault(window_shape(size, method), Counter())[size] = number
    wide = (method.window + -method.window % method.window_multiple,) * 2
    found: list[Bucket] = []
    for shape, members in shapes.items():
        limit = max(1, most - len(shapes) + 1) if shape == wide else 1
        found += _join(members, method, limit)
    return tuple(sorted(found, key=lambda bucket: (bucket.cost, bucket.shape)))


def _join(counts: Counter[Size], method: MethodConfig, most: int) -> list[Bucket]:
    """Join, repeatedly, the two buckets that are cheapest to join."""
    # Columns: height, width, windows; and how many images.
    cells, images = _cells(counts, method)
    while len(cells) > 1:
        joined = np.maximum(cells[:, None], cells[None])
        total = _cost(cells) @ images
        extra = (
            _cost(joined) * (images[:, None] + images)
            - (_cost(cells) * images)[:, None]
            - _cost(cells) * images
        )
        extra[np.tril_indices(len(cells))] = np.inf
        i, j = np.unravel_index(np.argmin(extra), extra.shape)
        if len(cells) <= most and extra[i, j] > _NEGLIGIBLE * total:
            break
        cells[i], images[i] = joined[i, j], images[i] + images[j]
        cells, images = np.delete(cells, j, axis=0), np.delete(images, j)
    return [Bucket(*map(int, cell)) for cell in cells]


def _cost(cells: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n"]:
    return cells[..., 0] * cells[..., 1] * (cells[..., 2] + 2)


def _cells(
    counts: Counter[Size], method: MethodConfig
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, " n"]]:
    """The distinct sizes with their windows; where there are too many, similar ones are joined."""
    step = 1
    while True:
        cells: dict[Size, list[float]] = {}
        for (height, width), number in sorted(counts.items()):
            cell = cells.setdefault((-(-height // step), -(-width // step)), [0, 0, 0, 0])
            largest = map(max, cell, (height, width, windows_of((height, width), method)))
            cell[:] = [*largest, cell[3] + number]
        if len(cells) <= _MOST_CELLS:
            table = np.array(list(cells.values()), np.float64)
            return table[:, :3], table[:, 3]
        step *= 2


def with_headroom(bucket: Bucket, sizes: Sequence[Size], method: MethodConfig) -> Bucket:
    """The bucket with headroom for later images: sides rounded up to an eighth, windows to a power of two.

    `sizes` are the images it serves; where rounding would change the padding of their windows, it stays unchanged.
    """
    height, width = (-(-side // step) * step for side in bucket.shape for step in [max(1, _power(side) // 8)])
    room = Bucket(height, width, 2 * _power(bucket.windows - 1) if bucket.windows > 1 else 1)
    return room if all(room.holds(size, method) for size in sizes) else bucket


def _power(number: int) -> int:
    """The largest power of two that is no larger."""
    return 1 << (number.bit_length() - 1)


def cheapest_bucket(size: Size, buckets: Iterable[Bucket], method: MethodConfig) -> Bucket | None:
    """The bucket in which an image costs least; None if no bucket holds it."""
    return min(
        (bucket for bucket in buckets if bucket.holds(size, method)),
        key=lambda bucket: (bucket.cost, bucket.shape),
        default=None,
    )


def plan_batches(
    sizes: Sequence[Size],
    buckets: Iterable[Bucket],
    method: MethodConfig,
    batch_size: int | Callable[[Bucket, int], int],
) -> list[Batch]:
    """All images in batches of `batch_size`, bucket by bucket, in their order.

    `batch_size` may be a function of the bucket and the number of images in it.

    Raises:
      ValueError: for an image that no bucket holds.
    """
    members: dict[Bucket, list[int]] = {}
    buckets = tuple(buckets)
    for index, size in enumerate(sizes):
        bucket = cheapest_bucket(size, buckets, method)
        if bucket is None:
            raise ValueError(
                f"no bucket holds image {index} of {size[0]} x {size[1]}: {', '.join(map(str, buckets))}. Plan the "
                "buckets for all sizes."
            )
        members.setdefault(bucket, []).append(index)
    batches = []
    for bucket, indices in members.items():
        together = batch_size if isinstance(batch_size, int) else batch_size(bucket, len(indices))
        batches += [
            Batch(bucket, tuple(indices[start : start + together]), together)
            for start in range(0, len(indices), together)
        ]
    return batches


def wasted_windows(
    batches: Sequence[Batch], sizes: Sequence[Size], method: MethodConfig, at_once: int = 1
) -> float:
    """The share of computed windows that belong to no image, where up to `at_once` are computed together."""
    needed = computed = 0
    for batch in batches:
        large, small = chunk_sizes(batch.batch_size, batch.bucket.windows, at_once)
        here = sum(windows_of(sizes[index], method) for index in batch.indices)
        needed += here
        computed += here // large * large - (-(here % large) // small) * small
    return 1 - needed / computed
