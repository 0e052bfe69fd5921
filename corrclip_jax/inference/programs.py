"""Programs of a model: compiled once a key, run over batches, in smaller batches where memory runs out.

The engine under labels (`label_runner`), regions (`region_runner`) and scores (`evaluation.scorer`):

    programs = Programs(params, SEGMENT_LIMIT, identity=("labels", config))
    batches = plan_batches(sizes, buckets, config.method, programs.batch_size)
    for pieces in programs.run(batches, read, start):                 # read(index), start(batch, items)
        ...

where `start` puts a batch on the device and returns `programs(key, make, *arrays)`.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import jax

from corrclip_jax.inference.buckets import Batch, Bucket, Size
from corrclip_jax.inference.stream import stream
from corrclip_jax.runtime.kept_traces import compile_kept
from corrclip_jax.runtime.memory import exhausted


class BatchLimit(NamedTuple):
    """The most images that one device gets at once, and the most pixels of their padded batch."""

    images: int
    pixels: int


SEGMENT_LIMIT = BatchLimit(images=8, pixels=1 << 23)
"""Of programs that run CLIP and a backbone of similarities."""


class Piece(NamedTuple):
    """A batch, or a part of one that was too large for the memory, after it has run.

    Attributes:
      batch: the images that ran together.
      items: what was read for them, in the order of `batch.indices`.
      out: what `start` returned, on the host; or the `JaxRuntimeError` of a device that failed.
      seconds: run time, without compilation and without what overlapped the piece before it.
      compiled: whether a program was compiled for it.
    """

    batch: Batch
    items: list[Any]
    out: Any
    seconds: float
    compiled: bool

    def results(
        self, ran: Callable[[Any], bool] = lambda item: not isinstance(item, Exception)
    ) -> Iterator[tuple[int, Any, int | Exception | None]]:
        """Each image's index, what was read for it, and the row of `out` that is its result.

        Args:
          ran: whether `start` gave an image, by what was read for it, a row.

        Yields:
          In place of a row the error that was read, None for another image without a row, or that of the device.
        """
        row = 0
        for index, item in zip(self.batch.indices, self.items, strict=True):
            if not ran(item):
                yield index, item, item if isinstance(item, Exception) else None
            elif isinstance(self.out, Exception):
                yield index, item, self.out
            else:
                yield index, item, row
                row += 1


class _TooLarge(Exception):
    """A batch that is known not to fit, and is therefore not tried."""


class Programs:
    """The compiled programs of one tree of parameters, and the batch sizes that the memory allows."""

    def __init__(
        self,
        params: Any,
        limit: BatchLimit,
        *,
        identity: Any,
        devices: int = 1,
        images_per_device: int | None = None,
    ):
        """Keep the parameters; nothing is compiled yet.

        Args:
          params: the first argument of every program.
          limit: bounds a batch on accelerators; on CPUs, one image keeps all cores busy.
          identity: what makes the functions, but for a call's key (see `compile_kept`).
          devices: how many devices share a batch.
          images_per_device: in place of what `limit` gives.
        """
        self._compiled_seconds = 0.0
        self._compiling_since: float | None = None
        self._params, self._limit, self._devices, self._identity = params, limit, devices, identity
        self._images_per_device = images_per_device
        self._compiled: dict[tuple, Callable] = {}
        self._largest: dict[Bucket, int] = {}
        self._last: Any = None

    @property
    def compile_seconds(self) -> float:
        """How long compilation took, tracing included; one that is going on counts, too."""
        since = self._compiling_since
        return self._compiled_seconds + (0.0 if since is None else time.perf_counter() - since)

    @property
    def is_compiling(self) -> bool:
        """Whether a program is being compiled, in any thread."""
        return self._compiling_since is not None

    @property
    def count(self) -> int:
        """How many programs have been compiled."""
        return len(self._compiled)

    def batch_size(self, bucket: Bucket, count: int) -> int:
        """The batch size of `count` images of a bucket, a multiple of the devices.

        What the memory allows; for few images the next power of two a device, so that few programs serve any count.
        """
        most = self._devices * (self._images_per_device or images_per_device(bucket.shape, self._limit))
        most = min(most, self._largest.get(bucket, most))
        return min(most, self._devices << (-(-count // self._devices) - 1).bit_length())

    def __call__(self, key: Any, make: Callable[[], Callable], *arrays: Any, **named: Any) -> Any:
        """Run the function that `make` returns on parameters and arrays; compiled at its first call.

        Args:
          key: stands for the function, values as in `identity`. Arrays of other shapes compile it again.
          make: called only to trace.
          arrays: trees of arrays.
          named: trees of arrays as keyword arguments.

        Raises:
          jax.errors.JaxRuntimeError: RESOURCE_EXHAUSTED, if a batch is too large for the memory, among others.
        """
        full = _full_key(key, arrays, named)
        if full not in self._compiled:
            with suppress(jax.errors.JaxRuntimeError):  # raised where its results are fetched
                jax.block_until_ready(self._last)  # so that what runs is timed without the compilation
            self._compiling_since = start = time.perf_counter()
            try:
                self._compiled[full] = self._compile(key, make, *arrays, **named)
            finally:
                self._compiling_since = None
                self._compiled_seconds += time.perf_counter() - start
        self._last = self._compiled[full](self._params, *arrays, **named)
        return self._last

    def _compile(self, key: Any, make: Callable[[], Callable], *arrays: Any, **named: Any) -> Callable:
        """The function compiled for arrays like these; as it is where JAX must not compile (`jax_disable_jit`)."""
        if jax.config.values["jax_disable_jit"]:
            return make()
        return compile_kept(make, (self._identity, key), self._params, *arrays, **named)

    def _clock(self) -> float:
        """Seconds, without those of compilation."""
        return time.perf_counter() - self.compile_seconds

    def compiles(self, key: Any, *arrays: Any, **named: Any) -> bool:
        """Whether a call with this key and these arrays would compile."""
        return _full_key(key, arrays, named) not in self._compiled

    def run(
        self,
        batches: Iterable[Batch],
        read: Callable[[int], Any],
        start: Callable[[Batch, list[Any]], Any],
        *,
        ahead: int = 2,
    ) -> Iterator[list[Piece]]:
        """Run batches in order, each while the next `ahead` are read; for `read` and `start` (`run`) see `stream`.

        Where memory runs out, the batch is halved until it fits or is one image a device, and later batches of its
        bucket are no larger. Results of an image do not depend on the batch size.

        Yields:
          For each batch one piece, or the pieces that it was split into.
        """
        started: deque[tuple[float, bool]] = deque()
        parts_of_batches: deque[int] = deque()
        finished: list[Piece] = []
        seen, end = 0, 0.0

        def parts() -> Iterator[Batch]:
            for batch in batches:
                split = self._split(batch)
                parts_of_batches.append(len(split))
                yield from split

        def timed(batch: Batch, items: list[Any]) -> Any:
            begin, before = self._clock(), self.count
            try:
                return start(batch, items) if batch.batch_size <= self._most(batch) else _TooLarge()
            finally:
                started.append((begin, self.count > before))

        for batch, items, out in stream(parts(), read, timed, ahead=ahead):
            begin, compiled = started.popleft()
            if exhausted(out) and batch.batch_size > self._devices:
                half = self._devices * (batch.batch_size // self._devices // 2)
                self._largest[batch.bucket] = min(half, self._most(batch))
                out = _TooLarge()
            if isinstance(out, _TooLarge):
                known = dict(zip(batch.indices, items, strict=True))
                finished += next(self.run([batch], known.__getitem__, start))
                end = self._clock()
            else:
                begin, end = max(begin, end), self._clock()
                finished.append(Piece(batch, items, out, end - begin, compiled))
            seen += 1
            if seen == parts_of_batches[0]:
                yield finished
                parts_of_batches.popleft()
                finished, seen = [], 0

    def _most(self, batch: Batch) -> int:
        """The largest size that batches of this one's bucket may have, as far as is known."""
        return self._largest.get(batch.bucket, batch.batch_size)

    def _split(self, batch: Batch) -> list[Batch]:
        """The batch, in parts where it is known to be too large."""
        most = self._most(batch)
        if batch.batch_size <= most:
            return [batch]
        firsts = range(0, len(batch.indices), most)
        return [Batch(batch.bucket, batch.indices[first : first + most], most) for first in firsts]


def images_per_device(shape: Size, limit: BatchLimit) -> int:
    """How many images [H, W] a device takes at once: on CPUs one, else what the limit allows."""
    if jax.default_backend() == "cpu":
        return 1
    return max(1, min(limit.images, limit.pixels // (shape[0] * shape[1])))


def _full_key(key: Any, arrays: tuple, named: dict[str, Any]) -> tuple:
    leaves, tree = jax.tree.flatten((arrays, named))
    return key, tree, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
