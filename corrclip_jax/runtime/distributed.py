"""Several processes of one program, on one machine or many, by `jax.distributed`; alone it is the same code."""

import os

import jax
import numpy as np
from jax.experimental import multihost_utils


def connect() -> None:
    """Join the other processes: found by JAX itself under Slurm, Open MPI, Kubernetes and on Cloud TPU.

    Elsewhere the variables JAX_COORDINATOR_ADDRESS (host:port), JAX_NUM_PROCESSES and JAX_PROCESS_ID say so.

    Raises:
      RuntimeError: where JAX finds no other processes, or cannot reach them.
    """
    count, number = (os.environ.get(f"JAX_{name}") for name in ("NUM_PROCESSES", "PROCESS_ID"))
    try:
        jax.distributed.initialize(
            num_processes=None if count is None else int(count),
            process_id=None if number is None else int(number),
        )
    except ValueError as error:
        raise RuntimeError(
            f"no cluster was found ({error}). Under Slurm, Open MPI, Kubernetes or on Cloud TPU it is found by "
            "itself; elsewhere set JAX_COORDINATOR_ADDRESS=host:port, JAX_NUM_PROCESSES and JAX_PROCESS_ID."
        ) from error


def gather(data: bytes) -> list[bytes]:
    """The bytes of all processes, by their numbers, on each of them."""
    if jax.process_count() == 1:
        return [data]
    # In bytes nothing is rounded: JAX would make 32-bit numbers of 64-bit ones.
    length = np.asarray(multihost_utils.process_allgather(np.array([len(data)], np.int32))).ravel()
    padded = np.zeros(int(length.max()), np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(length), -1)
    return [row[:size].tobytes() for row, size in zip(rows, length, strict=True)]


def from_first(data: bytes) -> bytes:
    """What process 0 has, on all processes."""
    return gather(data if jax.process_index() == 0 else b"")[0]
