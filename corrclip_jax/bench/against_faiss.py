"""Exact search of a bank, timed beside `faiss.IndexFlatIP` on the same cores, with the same neighbours.

`python -m corrclip_jax.bench.against_faiss [--entries 1000000] [--width 1024] [--queries 32]` needs
the extra `bench`. Keys are random float16; faiss holds them as float32, which takes twice the
memory. For one core: `taskset -c 0 env OMP_NUM_THREADS=1 python -m ...`.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from corrclip_jax.method.bank import Bank, search

_RUNS = 3
_ROWS = 1 << 16  # that are drawn or given to faiss at a time


def random_keys(entries: int, width: int) -> Float[np.ndarray, "{entries} {width}"]:
    """Keys of lengths of about 0.8, float16."""
    rng = np.random.default_rng(0)
    keys = np.empty((entries, width), np.float16)
    scale = np.float32(0.8 / np.sqrt(width))
    for first in range(0, entries, _ROWS):
        part = keys[first : first + _ROWS]
        part[:] = scale * rng.standard_normal(part.shape, np.float32)
    return keys


def faiss_index(keys: Float[np.ndarray, "N C"]) -> Any:
    """The keys at unit length in faiss' flat index of inner products.

    Raises:
      ImportError: where faiss is not installed.
    """
    import faiss

    index = faiss.IndexFlatIP(keys.shape[1])
    for first in range(0, len(keys), _ROWS):
        part = keys[first : first + _ROWS].astype(np.float32)
        index.add(part / (np.linalg.norm(part, axis=1, keepdims=True) + 1e-12))
    return index


def timed(function: Callable[[], Any]) -> tuple[float, float, Any]:
    """Wall time and processor time of the fastest of some runs, in seconds, and the result."""
    best = (float("inf"), float("inf"), None)
    for _ in range(_RUNS):
        start, processor = time.perf_counter(), time.process_time()
        result = jax.block_until_ready(function())
        best = min(
            best, (time.perf_counter() - start, time.process_time() - processor, result), key=lambda x: x[0]
        )
    return best


def main() -> None:
    """Search with both and print the times."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--queries", type=int, default=32)
    parser.add_argument("--neighbours", type=int, default=20)
    options = parser.parse_args()
    keys = random_keys(options.entries, options.width)
    queries = np.random.default_rng(1).standard_normal((options.queries, options.width)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    on_device: Any = jax.device_put((keys, queries))
    bank, regions = Bank(on_device[0], {}), on_device[1]
    program = jax.jit(search, static_argnums=2).lower(bank, regions, options.neighbours).compile()
    ours, processor, (ids, _) = timed(lambda: program(bank, regions))
    index = faiss_index(keys)
    theirs, their_processor, (_, their_ids) = timed(lambda: index.search(queries, options.neighbours))
    print(f"corrclip_jax: {ours:.2f} s, {processor:.2f} s of processor time")
    print(f"faiss.IndexFlatIP: {theirs:.2f} s, {their_processor:.2f} s of processor time")
    equal = np.mean(np.asarray(ids) == their_ids)
    print(f"{ours / theirs:.2f} of the time of faiss, {equal:.4f} of the neighbours equal")


if __name__ == "__main__":
    main()
