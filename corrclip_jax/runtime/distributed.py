"""Distributed runs: several processes of one program, on one or many machines, with `jax.distributed`."""

import os

import jax
import numpy as np
from jax.experimental import multihost_utils


def connect() -> None:
    """Connect to the other processes, which JAX finds under Slurm, Open MPI, Kubernetes and on Cloud TPU.

    Elsewhere set JAX_COORDINATOR_ADDRESS (host:port), JAX_NUM_PROCESSES and JAX_PROCESS_ID.

    Raises:
      ConnectionError: if JAX finds no other processes, or cannot reach them.
    """
    count, number = (os.environ.get(f"JAX_{name}") for name in ("NUM_PROCESSES", "PROCESS_ID"))
    try:
        jax.distributed.initialize(
            num_processes=None if count is None else int(count),
            process_id=None if number is None else int(number),
        )
    except (ValueError, RuntimeError) as error:
        raise ConnectionError(
            f"no cluster was found ({error}). Under Slurm, Open MPI, Kubernetes and on Cloud TPU it is detected "
            "automatically; elsewhere set JAX_COORDINATOR_ADDRESS=host:port, JAX_NUM_PROCESSES and JAX_PROCESS_ID."
        ) from error


def gather(data: bytes) -> list[bytes]:
    """All-gather: the bytes of every process, in the order of their indices. Alone, a list of one."""
    if jax.process_count() == 1:
        return [data]
    # As bytes, since JAX would convert 64-bit numbers to 32 bits.
    length = np.asarray(multihost_utils.process_allgather(np.array([len(data)], np.int32))).ravel()
    padded = np.zeros(int(length.max()), np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(padded)).reshape(len(length), -1)
    return [row[:size].tobytes() for row, size in zip(rows, length, strict=True)]


def from_first(data: bytes) -> bytes:
    """Broadcast: the bytes of process 0, on every process."""
    return gather(data if jax.process_index() == 0 else b"")[0]
