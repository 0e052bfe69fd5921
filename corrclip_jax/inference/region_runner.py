"""Photos of any sizes to their regions, through few compiled programs: what `Segmenter.regions` stands on."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from corrclip_jax.config import Config
from corrclip_jax.inference.buckets import Batch, Bucket, Size, plan_batches, plan_buckets
from corrclip_jax.inference.photo_regions import Regions
from corrclip_jax.inference.stream import on_canvas, sizes_of, stream
from corrclip_jax.regions.sources import SOURCES, can_find, score_regions

_PROGRAMS = 4  # for the photos of one call
_PIXELS_PER_CALL, _PHOTOS_PER_CALL = 1 << 24, 16


class RegionRunner:
    """The configured source of regions with the programs that it has compiled."""

    def __init__(self, config: Config, params: Mapping[str, Any]):
        """Only the source's own tower of `params` is read; a source without one takes an empty tree.

        Raises:
          ValueError: where the source's network is missing.
        """
        source = SOURCES[config.regions.source]
        if not can_find(config, params):
            raise ValueError(
                f"no {source.title} to find regions with: config.{source.network} or params[{source.network!r}] is "
                "missing. Load a model that has it, or take another source."
            )
        self.config = config
        self._params = {} if source.network is None else {source.network: params[source.network]}
        self._program = jax.jit(partial(score_regions, config))

    def stream(
        self, sizes: Sequence[Size], read: Callable[[int], np.ndarray | Exception]
    ) -> Iterator[tuple[int, Regions | Exception]]:
        """The regions of photos of known sizes, (height, width); `read` gives a photo by its place, in threads.

        Yields a photo's place and its regions, or the error that `read` returned for it, or the `JaxRuntimeError`
        of a device that failed.
        """

        def run(batch: Batch, photos: list[np.ndarray | Exception]) -> Any:
            good = [photo for photo in photos if not isinstance(photo, Exception)]
            if not good:
                return None
            true_sizes = sizes_of(good, batch)
            return self._program(self._params, on_canvas(good, batch), true_sizes)

        for batch, photos, out in stream(self._plan(sizes), read, run):
            row = 0
            for place, photo in zip(batch.places, photos, strict=True):
                if isinstance(photo, Exception) or isinstance(out, Exception):
                    yield place, photo if isinstance(photo, Exception) else out
                    continue
                yield place, _regions(photo, jax.tree.map(lambda x, row=row: x[row], out))
                row += 1

    def _plan(self, sizes: Sequence[Size]) -> list[Batch]:
        if not sizes:
            return []
        method = self.config.method
        buckets = plan_buckets(sizes, method, _PROGRAMS)
        return plan_batches(sizes, buckets, method, _photos_together)


def _regions(photo: np.ndarray, out: tuple[np.ndarray, dict[str, np.ndarray]]) -> Regions:
    height, width = photo.shape[:2]
    found, scores = out
    found = np.ascontiguousarray(found[:height, :width])
    ids = np.unique(found)
    ids = ids[ids != 0]
    return Regions(photo, found, {name: values[ids] for name, values in scores.items()})


def _photos_together(bucket: Bucket, count: int) -> int:
    """Slots of a batch: what the memory takes, and no more than the power of two that `count` needs."""
    if jax.default_backend() == "cpu":
        return 1  # nothing gained: one photo keeps all cores busy
    most = max(1, min(_PHOTOS_PER_CALL, _PIXELS_PER_CALL // (bucket.height * bucket.width)))
    return min(most, 1 << (count - 1).bit_length())
