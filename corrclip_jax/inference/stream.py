"""Batches in a stream: the host reads ahead in threads and fetches results while the device runs the next batch."""

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


def on_canvas(
    arrays: Sequence[Shaped[np.ndarray, "..."]], batch: Batch, fill: int = 0
) -> Shaped[np.ndarray, "slots height width *channels"]:
    """A batch's photos or maps (or whatever has their size) in the top left corners of one canvas each."""
    first = arrays[0]
    out = np.full((batch.slots, *batch.bucket.side, *first.shape[2:]), fill, first.dtype)
    for canvas, array in zip(out, arrays, strict=False):
        canvas[: array.shape[0], : array.shape[1]] = array
    return out


def sizes_of(arrays: Sequence[Shaped[np.ndarray, "..."]], batch: Batch) -> Int[np.ndarray, "slots 2"]:
    """`segment`'s `sizes` of a batch; what fills it up has size 0."""
    out = np.zeros((batch.slots, 2), np.int32)
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
    """Work through batches while the host reads ahead and results of the batch before come back.

    Args:
      batches: what to do, in this order.
      read: a photo by its place (decoding, region maps ...), called in `workers` threads, as many as there are
        cores by default, for `ahead` batches in advance. What it raises is raised here.
      run: starts a batch on what `read` gave for its places and returns device arrays without waiting for them.

    Yields:
      A batch, what was read for it, and its results on the host, while the next batch runs. Where the device fails
      (for want of memory, say: then with advice), the `JaxRuntimeError` stands in the results' place, and the next
      batches go on.
    """
    todo = iter(batches)
    waiting: deque[tuple[Batch, list]] = deque()
    pool = ThreadPoolExecutor(workers or os.cpu_count(), thread_name_prefix="corrclip-read")

    def read_on(count: int) -> None:
        for batch in islice(todo, count):
            waiting.append((batch, [pool.submit(read, place) for place in batch.places]))

    def or_failure(function: Callable, *args: Any) -> Any:
        try:
            return function(*args)
        except jax.errors.JaxRuntimeError as error:
            return with_advice(error)

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
