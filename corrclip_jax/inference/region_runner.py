"""Region runner: images of any sizes to their regions through few compiled programs, without class names."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import jax
import numpy as np
from jax.sharding import Mesh

from corrclip_jax.config import Config
from corrclip_jax.inference.buckets import Batch, Size
from corrclip_jax.inference.growing_buckets import GrowingBuckets
from corrclip_jax.inference.photo_reading import or_error, read_photo_of_size, read_photo_sizes
from corrclip_jax.inference.photo_regions import Regions
from corrclip_jax.inference.programs import BatchLimit, Piece, Programs
from corrclip_jax.inference.stream import padded_batch, sizes_of
from corrclip_jax.io.photos import PhotoError
from corrclip_jax.regions.sources import SOURCES, can_find, score_regions
from corrclip_jax.runtime.sharding import over_images, sharded

Failure: TypeAlias = PhotoError | jax.errors.JaxRuntimeError

_LIMIT = BatchLimit(images=16, pixels=1 << 24)


class RegionRunner:
    """The configured source of regions with its compiled programs."""

    def __init__(self, config: Config, params: Mapping[str, Any], mesh: Mesh | None = None):
        """Keep the source's own network of `params`; a source without one takes an empty tree.

        The devices of a `mesh` share the photos.

        Raises:
          ValueError: if the source's network is missing.
        """
        source = SOURCES[config.regions.source]
        if not can_find(config, params):
            raise ValueError(
                f"no {source.title} to find regions with: config.{source.network} or params[{source.network!r}] is "
                "missing. Load a model that has it, or choose another source."
            )
        self.config = config
        network = {} if source.network is None else {source.network: params[source.network]}
        devices = 1 if mesh is None else mesh.size
        self.programs = Programs(network, _LIMIT, identity=("regions", config), devices=devices)
        self._mesh = mesh
        # Without headroom: SLIC takes as long as its padded batch is large.
        self._buckets = GrowingBuckets(config.method, headroom=False)

    def stream(self, photos: Sequence[Any]) -> Iterator[tuple[int, Regions | Failure]]:
        """Find the regions of any number of photos with bounded memory: the next ones are read while some run.

        Args:
          photos: paths, PIL images, arrays uint8 [H, W, 3] or [H, W], of any sizes.

        Yields:
          A photo's index and its regions, in the order that needs few programs; or, in place of the regions, a
          `PhotoError`, or JAX's RESOURCE_EXHAUSTED for a photo too large for the memory.
        """
        sizes, failures = read_photo_sizes(photos)
        yield from failures.items()
        indices = list(sizes)

        def read(position: int) -> np.ndarray:
            index = indices[position]
            return read_photo_of_size(photos[index], sizes[index])

        def start(batch: Batch, images: list[np.ndarray | PhotoError]) -> Any:
            good = [image for image in images if isinstance(image, np.ndarray)]
            if not good:
                return None
            host = padded_batch(good, batch), sizes_of(good, batch)
            arrays = jax.device_put(host, self._mesh and over_images(self._mesh))
            return self.programs("regions", self._program, *arrays)

        for pieces in self.programs.run(self._plan(list(sizes.values())), or_error(read), start):
            for piece in pieces:
                yield from ((indices[position], found) for position, found in _found(piece))

    def _program(self) -> Callable[..., Any]:
        find = partial(score_regions, self.config)
        if self._mesh is None:
            return find
        divided = sharded(lambda params, _, images, sizes: find(params, images, sizes), self._mesh)
        return lambda params, images, sizes: divided(params, None, images, sizes)

    def _plan(self, sizes: Sequence[Size]) -> list[Batch]:
        self._buckets.add(sizes)
        return self._buckets.plan(sizes, self.programs.batch_size)


def _found(piece: Piece) -> Iterator[tuple[int, Regions | Failure]]:
    """Each image's regions, at its own size."""
    for index, image, row in piece.results():
        if not isinstance(row, int):
            yield index, row
            continue
        maps, scores = piece.out
        height, width = image.shape[:2]
        found = np.ascontiguousarray(maps[row, :height, :width])
        ids = np.unique(found)
        ids = ids[ids != 0]
        yield index, Regions(image, found, {name: values[row][ids] for name, values in scores.items()})
