"""Photos of any sizes through few compiled programs, while the next are read: what `Segmenter` stands on."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float32, Int32, Integer, UInt8

from corrclip_jax.config import Config, with_fields
from corrclip_jax.inference import buckets, stream
from corrclip_jax.inference.buckets import Batch, Bucket, Size
from corrclip_jax.io.region_maps import count_regions
from corrclip_jax.method.segment import make_segment
from corrclip_jax.runtime.memory import exhausted
from corrclip_jax.runtime.sharding import over_images
from corrclip_jax.text.embedding import TextEmbedding

# Photos go through the accelerator together, as many as have about this many pixels.
_PIXELS_PER_CALL, _PHOTOS_PER_CALL = 1 << 23, 8
# The most new programs for the photos of one call, and how much more than one of its own an old one may cost.
_PROGRAMS, _WORTH_A_PROGRAM = 4, 1.5

# Hears which photos, by their places, run next, and whether that takes a compilation.
Announce: TypeAlias = Callable[[Sequence[int], bool], object]


class Request(NamedTuple):
    """A photo and its region map, None where regions are to be found."""

    photo: UInt8[np.ndarray, "H W 3"]
    regions: Integer[np.ndarray, "H W"] | None


class Outcome(NamedTuple):
    """One photo's results (see `segment.Result`), its share of the run time, and whether that compiled."""

    labels: Int32[np.ndarray, "H W"]
    scores: Float32[np.ndarray, "H W"]
    regions: Int32[np.ndarray, "H W"]
    seconds: float
    compiled: bool


class LabelRunner:
    """A model with the programs that it has compiled, a bucket of sizes each.

    The devices of a `mesh` share the photos.
    """

    def __init__(self, config: Config, params: Mapping[str, Any], mesh: Mesh | None = None):
        self.config = config
        self._mesh = mesh
        self._params = params
        self._buckets: list[Bucket] = []
        self._planned: set[Size] = set()
        self._slots: dict[Bucket, int] = {}
        self._programs: dict[tuple[int, int], Any] = {}
        self._compiled: set[tuple] = set()

    @property
    def _devices(self) -> int:
        return 1 if self._mesh is None else self._mesh.size

    @property
    def programs(self) -> int:
        """How many programs have been compiled."""
        return sum(program._cache_size() for program in self._programs.values())

    def work(
        self,
        sizes: Sequence[Size],
        with_map: Sequence[bool],
        read: Callable[[int], Request | Exception],
        text: TextEmbedding,
        announce: Announce = lambda places, compiles: None,
    ) -> Iterator[tuple[int, Any, Outcome | Exception]]:
        """Label photos.

        Args:
          sizes: height and width of every photo.
          with_map: which photos have a region map of their own.
          read: a photo by its place, called in threads; an error that it returns is passed on.
          text: the classes.
          announce: hears what runs next.

        Yields:
          A photo's place, what was read, and its results; or in their place `read`'s error, or the
          `JaxRuntimeError` of a device that failed. Where memory is short, batches are halved first.
        """
        started: dict[Batch, tuple[float, bool]] = {}
        end = 0.0

        def run(batch: Batch, items: list[Request | Exception]) -> tuple | None:
            good = [item for item in items if not isinstance(item, Exception)]
            if not good:
                return None
            photos = [item.photo for item in good]
            maps = [item.regions for item in good if item.regions is not None]
            regions = stream.on_canvas(maps, batch) if maps else None
            cap = region_cap(max(map(count_regions, maps)), self.config) if maps else 0
            key = (batch.bucket, batch.slots, cap, text.features.shape)
            compiles = key not in self._compiled
            announce(batch.places, compiles)
            started[batch] = time.perf_counter(), compiles
            self._compiled.add(key)
            host = stream.on_canvas(photos, batch), stream.sizes_of(photos, batch), regions
            images, true_sizes, regions = jax.device_put(host, self._mesh and over_images(self._mesh))
            program = self._program(cap, batch.bucket.windows)
            return tuple(program(self._params, images, text, sizes=true_sizes, regions=regions))

        for batch, items, out in stream.stream(self._plan(sizes, with_map), read, run):
            if exhausted(out) and batch.slots > self._devices:
                self._slots[batch.bucket] = batch.slots // 2
                places = batch.places
                part = [sizes[place] for place in places], [with_map[place] for place in places]
                again = self.work(*part, items.__getitem__, text, announce)
                yield from ((places[index], item, found) for index, item, found in again)
                continue
            begin, compiled = started.get(batch, (0.0, False))
            begin, end = max(begin, end), time.perf_counter()
            row = 0
            for place, item in zip(batch.places, items, strict=True):
                if isinstance(item, Exception) or isinstance(out, Exception):
                    yield place, item, item if isinstance(item, Exception) else out
                    continue
                height, width = item.photo.shape[:2]
                labels, scores, regions = (array[row, :height, :width].copy() for array in out)
                seconds = (end - begin) / len(items)
                yield place, item, Outcome(labels, scores, regions, seconds, compiled)
                row += 1

    def _plan(self, sizes: Sequence[Size], with_map: Sequence[bool]) -> list[Batch]:
        """Batches of photos with and of photos without a map, in old buckets where those will do."""
        method = self.config.method
        unserved = [size for size in sizes if not self._is_served(size)]
        if unserved:
            for bucket in buckets.plan_buckets(unserved, method, _PROGRAMS):
                members = [size for size in set(unserved) if bucket.holds(size, method)]
                self._buckets.append(buckets.roomy(bucket, members, method))
            self._planned.update(unserved)
        batches = []
        for kind in (False, True):
            places = [place for place, one in enumerate(with_map) if one == kind]
            chosen = [sizes[place] for place in places]
            planned = buckets.plan_batches(chosen, self._buckets, method, self._photos_together)
            batches += [batch._replace(places=tuple(places[k] for k in batch.places)) for batch in planned]
        return batches

    def _is_served(self, size: Size) -> bool:
        if size in self._planned:
            return True
        method = self.config.method
        known = buckets.choose(size, self._buckets, method)
        own = buckets.roomy(Bucket(*size, buckets.windows_of(size, method)), [size], method)
        return known is not None and known.cost <= _WORTH_A_PROGRAM * own.cost

    def _photos_together(self, bucket: Bucket, count: int) -> int:
        """Slots of a batch: on every device as many as the memory takes, or the power of two that `count` needs."""
        devices = self._devices
        most = self._slots.get(bucket, devices * _photos_per_call(bucket.side))
        return min(most, devices << (-(-count // devices) - 1).bit_length())

    def _program(self, cap: int, windows: int) -> Callable:
        """The compiled function for photos of at most `windows` windows, and for given region maps of at most `cap`
        regions (0: none are given).

        A region is a token in every block of the image tower, so a cap near the number there is saves much time.
        """
        if (cap, windows) not in self._programs:
            caps = {"max_windows": windows} | ({"max_regions": cap} if cap else {})
            self._programs[cap, windows] = jax.jit(
                make_segment(with_fields(self.config, method=caps), mesh=self._mesh)
            )
        return self._programs[cap, windows]


def region_cap(count: int, config: Config) -> int:
    """A cap on regions that serves many photos: 16, 64, 256 ... and at most the configured one."""
    cap = 16
    while cap < count:
        cap *= 4
    return min(cap, config.method.max_regions)


def _photos_per_call(side: Size) -> int:
    if jax.default_backend() == "cpu":
        return 1  # nothing gained: one photo keeps all cores busy
    return max(1, min(_PHOTOS_PER_CALL, _PIXELS_PER_CALL // (side[0] * side[1])))
