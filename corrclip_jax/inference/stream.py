"""Stream of batches: threads read ahead, and results are fetched while the device runs the next batch."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

import jax
import numpy as np
from jaxtyping import Int, Shaped

from corrclip_jax.inference.buckets import Batch
from corrclip_jax.runtime.memory import with_advice


def padded_batch(
    arrays: Sequence[Shaped[np.ndarray, "..."]], batch: Batch, fill: int = 0
) -> Shaped[np.ndarray, "batch_size height width *channels"]:
    """A batch's images or maps (arrays of their sizes), each in the top left corner of its row."""
    first = arrays[0]
    out = np.full((batch.batch_size, *batch.bucket.shape, *first.shape[2:]), fill, first.dtype)
    for row, array in zip(out, arrays, strict=False):
        row[: array.shape[0], : array.shape[1]] = array
    return out


def sizes_of(arrays: Sequence[Shaped[np.ndarray, "..."]], batch: Batch) -> Int[np.ndarray, "batch_size 2"]:
    """`segment`'s `sizes` of a batch; rows of padding have size 0."""
    out = np.zeros((batch.batch_size, 2), np.int32)
    out[: len(arrays)] = [array.shape[:2] for array in arrays]
    return out


def stream(
    batches: Iterable[Batch],
    read: Callable[[int], Any],
    run: Callable[[Batch, list[Any]], Any],
    *,
    ahead: int = 2,
    workers: int | None = None,
) -> Iterator[tuple[Batch, list[Any], Any]]:
    """Run batches in order; threads read the next ones, and a batch starts before the previous one is fetched.

    Args:
      batches: what to run.
      read: reads an image (decoding, region maps ...) by its index, for `ahead` batches in advance, in `workers`
        threads (default: the number of cores). What it raises is raised here.
      run: starts a batch on what `read` returned for its indices; returns device arrays without waiting for them.

    Yields:
      A batch, what was read for it, and its results on the host, while the next batch runs. If the device fails,
      the `JaxRuntimeError` takes the results' place (with advice, if memory ran out), and the next batches run.
    """
    todo = iter(batches)
    waiting: deque[tuple[Batch, list]] = deque()
    pool = ThreadPoolExecutor(workers or os.cpu_count(), thread_name_prefix="corrclip-read")

    def read_on(count: int) -> None:
        for batch in islice(todo, count):
            waiting.append((batch, [pool.submit(read, index) for index in batch.indices]))

    def or_failure(function: Callable, *args: Any) -> Any:
        try:
            return function(*args)
        except jax.errors.JaxRuntimeError as error:
            return with_advice(error)
        except MemoryError as error:
            return with_advice(
                jax.errors.JaxRuntimeError(f"RESOURCE_EXHAUSTED: Out of memory on the host: {error}")
            )

    def fetched(batch: Batch, items: list, out: Any) -> tuple[Batch, list[Any], Any]:
        return batch, items, out if isinstance(out, Exception) else or_failure(jax.device_get, out)

    try:
        read_on(ahead)
        running: tuple[Batch, list, Any] | None = None
        while waiting:
            batch, futures = waiting.popleft()
            items = [future.result() for future in futures]
            read_on(1)
            started = (batch, items, or_failure(run, batch, items))
            if running is not None:
                yield fetched(*running)
            running = started
        if running is not None:
            yield fetched(*running)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
