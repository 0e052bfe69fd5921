"""Many photos of many sizes: few compiled programs, full batches, a host that keeps ahead of the device.

    buckets = plan_buckets(sizes, config.method, most=4)              # sizes: (height, width) of every photo
    batches = plan_batches(sizes, buckets, config.method, 8)          # which photos go together
    for batch, photos, out in stream(batches, read, run):             # read(place), run(batch, photos)
        ...

A bucket is a canvas and the most windows of a photo on it: one program of `segment(sizes=)` with
`config.method.max_windows = bucket.windows`. Windows are computed only where a photo has them (see `canvas`), so
what a large bucket wastes are pixels of the canvas, which cost little beside a window in the towers.
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
# Buckets are joined as long as that costs so little of the whole, even where more would be allowed.
_NEGLIGIBLE = 0.02
# Sizes are first rounded up so that there are at most so many different ones to join.
_MOST_CELLS = 400


@dataclass(frozen=True)
class Bucket:
    """Photos that one program serves: up to `height` x `width` pixels and `windows` windows."""

    height: int
    width: int
    windows: int

    @property
    def side(self) -> Size:
        """Height and width of the canvas."""
        return self.height, self.width

    def holds(self, size: Size, method: MethodConfig) -> bool:
        """Whether a photo of `size` (height, width) fits: canvas, number of windows, and their padding."""
        return (
            size[0] <= self.height
            and size[1] <= self.width
            and windows_of(size, method) <= self.windows
            and window_shape(size, method) == window_shape(self.side, method)
        )

    @property
    def cost(self) -> int:
        """What a photo costs beside its windows, in no unit: every window's logits at every pixel, and masks."""
        return self.height * self.width * (self.windows + 2)


class Batch(NamedTuple):
    """Photos, by their places in the list of sizes, that go through the program of `bucket` together.

    Every batch of a bucket has `slots` places; the last may be filled up with nothing (size 0).
    """

    bucket: Bucket
    places: tuple[int, ...]
    slots: int


@lru_cache(maxsize=1 << 16)
def windows_of(size: Size, method: MethodConfig) -> int:
    """How many windows a photo of `size` (height, width) has."""
    plan = plan_windows(size[0], size[1], method)
    return len(plan.y.starts) * len(plan.x.starts)


def plan_buckets(sizes: Iterable[Size], method: MethodConfig, most: int = 4) -> tuple[Bucket, ...]:
    """Buckets, at most `most`, that hold all photos at little cost; the smallest canvas first.

    Photos so narrow that their windows are padded go by the padded window, a bucket each shape; there are more
    than `most` buckets only where there are that many shapes.

    Raises:
      ValueError: no photos, a photo without pixels, or `most` below 1.
    """
    counts = Counter((int(height), int(width)) for height, width in sizes)
    if not counts or min(map(min, counts)) < 1 or most < 1:
        raise ValueError(
            f"plan_buckets wants one photo or more, of 1 x 1 pixel or more, and most=1 or more. Got "
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
    return tuple(sorted(found, key=lambda bucket: (bucket.cost, bucket.side)))


def _join(counts: Counter[Size], method: MethodConfig, most: int) -> list[Bucket]:
    """Join the two buckets that cost least to join, again and again."""
    # Columns: height, width, windows; and how many photos.
    cells, photos = _cells(counts, method)
    while len(cells) > 1:
        joined = np.maximum(cells[:, None], cells[None])
        total = _cost(cells) @ photos
        extra = (
            _cost(joined) * (photos[:, None] + photos)
            - (_cost(cells) * photos)[:, None]
            - _cost(cells) * photos
        )
        extra[np.tril_indices(len(cells))] = np.inf
        i, j = np.unravel_index(np.argmin(extra), extra.shape)
        if len(cells) <= most and extra[i, j] > _NEGLIGIBLE * total:
            break
        cells[i], photos[i] = joined[i, j], photos[i] + photos[j]
        cells, photos = np.delete(cells, j, axis=0), np.delete(photos, j)
    return [Bucket(*map(int, cell)) for cell in cells]


def _cost(cells: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n"]:
    return cells[..., 0] * cells[..., 1] * (cells[..., 2] + 2)


def _cells(
    counts: Counter[Size], method: MethodConfig
) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, " n"]]:
    """The different sizes with their windows; where they are too many, like ones are joined."""
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


def roomy(bucket: Bucket, sizes: Sequence[Size], method: MethodConfig) -> Bucket:
    """A bucket with some room for photos to come: sides rounded up to an eighth, windows to a power of two.

    `sizes` are the photos it is for; where rounding would change the padding of their windows it stays as it is.
    """
    height, width = (-(-side // step) * step for side in bucket.side for step in [max(1, _power(side) // 8)])
    room = Bucket(height, width, 2 * _power(bucket.windows - 1) if bucket.windows > 1 else 1)
    return room if all(room.holds(size, method) for size in sizes) else bucket


def _power(number: int) -> int:
    """The largest power of two that is no larger."""
    return 1 << (number.bit_length() - 1)


def choose(size: Size, buckets: Iterable[Bucket], method: MethodConfig) -> Bucket | None:
    """The bucket in which a photo costs least; None where none holds it."""
    return min(
        (bucket for bucket in buckets if bucket.holds(size, method)),
        key=lambda bucket: (bucket.cost, bucket.side),
        default=None,
    )


def plan_batches(
    sizes: Sequence[Size],
    buckets: Iterable[Bucket],
    method: MethodConfig,
    slots: int | Callable[[Bucket, int], int],
) -> list[Batch]:
    """All photos in batches of `slots`, bucket by bucket, in their order.

    `slots` may be a function of the bucket and the number of photos in it.

    Raises:
      ValueError: for a photo that no bucket holds.
    """
    members: dict[Bucket, list[int]] = {}
    buckets = tuple(buckets)
    for place, size in enumerate(sizes):
        bucket = choose(size, buckets, method)
        if bucket is None:
            raise ValueError(
                f"no bucket holds photo {place} of {size[0]} x {size[1]}: {', '.join(map(str, buckets))}. Plan the "
                "buckets for all sizes."
            )
        members.setdefault(bucket, []).append(place)
    batches = []
    for bucket, places in members.items():
        together = slots if isinstance(slots, int) else slots(bucket, len(places))
        batches += [
            Batch(bucket, tuple(places[start : start + together]), together)
            for start in range(0, len(places), together)
        ]
    return batches


def wasted_windows(
    batches: Sequence[Batch], sizes: Sequence[Size], method: MethodConfig, at_once: int = 1
) -> float:
    """The share of the windows computed that belong to no photo, where up to `at_once` are computed together."""
    needed = computed = 0
    for batch in batches:
        large, small = chunk_sizes(batch.slots, batch.bucket.windows, at_once)
        here = sum(windows_of(sizes[place], method) for place in batch.places)
        needed += here
        computed += here // large * large - (-(here % large) // small) * small
    return 1 - needed / computed
