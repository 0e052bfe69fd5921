"""Label runner: images of any sizes to labels through few compiled programs, the next ones read meanwhile."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias, cast

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float16, Float32, Int32, Integer, UInt8

from corrclip_jax.config import Config, with_fields
from corrclip_jax.inference.buckets import Batch, Bucket, Size
from corrclip_jax.inference.growing_buckets import GrowingBuckets
from corrclip_jax.inference.not_finite import check_labels
from corrclip_jax.inference.programs import SEGMENT_LIMIT, Piece, Programs
from corrclip_jax.inference.segmentation import RegionSupport
from corrclip_jax.inference.stream import padded_batch, sizes_of
from corrclip_jax.io.region_maps import count_regions
from corrclip_jax.method.bank import Bank
from corrclip_jax.method.sample_points import points_per_side
from corrclip_jax.method.segment import make_segment
from corrclip_jax.runtime.sharding import over_images
from corrclip_jax.text.embedding import TextEmbedding

_MANY = 1 << 20  # more than any batch

OnStart: TypeAlias = Callable[[Sequence[int], bool], object]
"""Called with the indices of the images that run next, and whether that compiles a program."""


class Request(NamedTuple):
    """An image and its region map, None where regions are to be found."""

    photo: UInt8[np.ndarray, "H W 3"]
    regions: Integer[np.ndarray, "H W"] | None


class Outcome(NamedTuple):
    """One image's results (see `segment.Result`), its share of the run time, and whether a program was compiled.

    `probabilities` are those of the vocabulary's classes at evenly spaced points (see
    `segment.class_probabilities`), None if none were asked for; `support` is what a bank said about its regions,
    None without a bank.
    """

    labels: Int32[np.ndarray, "H W"]
    scores: Float32[np.ndarray, "H W"]
    regions: Int32[np.ndarray, "H W"]
    seconds: float
    compiled: bool
    probabilities: Float16[np.ndarray, "K h w"] | None
    support: RegionSupport | None


class LabelRunner:
    """A model with its compiled programs, one for each bucket of sizes.

    The devices of a `mesh` share the images and the rows of the bank. Probabilities are given at `points` points
    along the longer side of an image, or not at all. With `headroom` programs serve later images that are somewhat
    larger, too, which takes up to twice the memory where an image has very many windows.
    """

    def __init__(
        self,
        config: Config,
        params: Mapping[str, Any],
        mesh: Mesh | None = None,
        bank: Bank | None = None,
        *,
        points: int | None,
        headroom: bool = True,
    ):
        self.config = config
        self._points = points
        self._bank = {} if bank is None else {"bank": bank}
        devices = 1 if mesh is None else mesh.size
        self.programs = Programs(params, SEGMENT_LIMIT, identity=("labels", config, points), devices=devices)
        self._mesh = mesh
        self._buckets = GrowingBuckets(config.method, headroom=headroom)
        self._expected: dict[Bucket, int] = {}

    def expect(self, sizes: Sequence[Size]) -> None:
        """Plan programs and batch sizes for images that come in several calls.

        Labels are then those of one call with all images.

        Args:
          sizes: height and width of every image of all calls.
        """
        self._buckets.add(sizes)
        for batch in self._buckets.plan(sizes, 1):
            self._expected[batch.bucket] = self._expected.get(batch.bucket, 0) + 1

    def work(
        self,
        sizes: Sequence[Size],
        with_map: Sequence[bool],
        read: Callable[[int], Request | Exception],
        text: TextEmbedding,
        on_start: OnStart = lambda indices, compiles: None,
        *,
        of_many: bool = False,
    ) -> Iterator[tuple[int, Any, Outcome | Exception]]:
        """Label images.

        Args:
          sizes: height and width of every image.
          with_map: which images have a region map of their own.
          read: reads an image by its index, in threads; an error that it returns is passed on.
          text: the classes.
          on_start: called before images run.
          of_many: more images of these sizes will follow in other calls: few are filled up to a whole batch, so
            that these calls share a program.

        Yields:
          An image's index, what was read, and its results; or, in place of the results, `read`'s error, a
          `NotFiniteError`, or the `JaxRuntimeError` of a device that failed. Where memory runs out, batches are
          halved first.
        """

        def start(batch: Batch, items: list[Request | Exception]) -> tuple | None:
            good = [item for item in items if not isinstance(item, Exception)]
            if not good:
                return None
            maps = [item.regions for item in good if item.regions is not None]
            photos = [item.photo for item in good]
            regions = padded_batch(maps, batch) if maps else None
            cap = region_cap(max(map(count_regions, maps)), self.config) if maps else 0
            key = cap, batch.bucket.windows
            host = padded_batch(photos, batch), sizes_of(photos, batch), regions
            images, true_sizes, regions = jax.device_put(host, self._mesh and over_images(self._mesh))
            named = {"sizes": true_sizes, "regions": regions, **self._bank}
            on_start(batch.indices, self.programs.compiles(key, images, text, **named))
            return self.programs(key, partial(self._program, *key), images, text, **named)

        for pieces in self.programs.run(self._plan(sizes, with_map, of_many), read, start):
            for piece in pieces:
                yield from _outcomes(piece, self._points)

    def together(self, size: Size) -> int:
        """How many images of a size (height, width) run at once, as far as is known."""
        self._buckets.add([size])
        return self._buckets.plan([size], self._whole_batch)[0].batch_size

    def _whole_batch(self, bucket: Bucket, count: int) -> int:
        return self.programs.batch_size(bucket, _MANY)

    def _plan(self, sizes: Sequence[Size], with_map: Sequence[bool], of_many: bool) -> list[Batch]:
        """Batches of images with and of images without a map, in old buckets where those suffice."""
        self._buckets.add(sizes)
        batch_size = self._whole_batch if of_many else self._batch_size
        batches = []
        for kind in (False, True):
            indices = [index for index, one in enumerate(with_map) if one == kind]
            chosen = [sizes[index] for index in indices]
            planned = self._buckets.plan(chosen, batch_size)
            batches += [batch._replace(indices=tuple(indices[k] for k in batch.indices)) for batch in planned]
        return batches

    def _batch_size(self, bucket: Bucket, count: int) -> int:
        return self.programs.batch_size(bucket, max(count, self._expected.get(bucket, 0)))

    def _program(self, cap: int, windows: int) -> Callable:
        """The function for images of at most `windows` windows and given region maps of at most `cap` regions.

        A `cap` of 0 finds regions. A region is a token in every block of the image tower, so a cap close to the
        number of regions saves much time.
        """
        caps = {"max_windows": windows} | ({"max_regions": cap} if cap else {})
        config = with_fields(self.config, method=caps)
        return make_segment(config, mesh=self._mesh, probability_points=self._points)


def region_cap(count: int, config: Config) -> int:
    """A cap on regions that serves many images: 16, 64, 256 ... and at most the configured one."""
    cap = 16
    while cap < count:
        cap *= 4
    return min(cap, config.method.max_regions)


def _outcomes(piece: Piece, points: int | None) -> Iterator[tuple[int, Any, Outcome | Exception]]:
    """Each image's results, at its own size."""
    for index, item, row in piece.results():
        if not isinstance(row, int):
            yield index, item, cast(Exception, row)
            continue
        height, width = item.photo.shape[:2]
        result, chances = piece.out, None
        if points is not None:
            result, everywhere = piece.out
            rows, columns = points_per_side(np.array([height, width]), points)
            chances = everywhere[row, :, :rows, :columns]
        labels, scores, regions = (array[row, :height, :width].copy() for array in result[:3])
        if error := check_labels(labels):
            yield index, item, error
            continue
        support = RegionSupport.of(regions, *(array[row] for array in result[3:])) if result[3:] else None
        seconds = piece.seconds / len(piece.items)
        yield index, item, Outcome(labels, scores, regions, seconds, piece.compiled, chances, support)
