"""The training loop that the three recipes share: batches made ahead, all devices, checkpoints, a log.

A batch is a pure function of (seed, step) and a checkpoint holds everything else, so a run that is broken off and
started again goes on as if it had never stopped.
"""

import csv
import multiprocessing
import re
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from optax import contrib

_AHEAD = 8  # batches that are being made while one is trained on
_LOG_EVERY = 20
_SAVE_MINUTES = 4
_BLOCK = re.compile(r"(res)?blocks_\d+|transformer")


def batches(make: Callable[[int], Any], first: int, last: int, processes: int) -> Iterator[Any]:
    """`make(first)` .. `make(last - 1)`, made ahead in other processes (in this one where `processes` is 0)."""
    if processes == 0:
        yield from map(make, range(first, last))
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as workers:
        waiting = deque(workers.submit(make, step) for step in range(first, min(first + _AHEAD, last)))
        for step in range(first, last):
            yield waiting.popleft().result()
            if step + _AHEAD < last:
                waiting.append(workers.submit(make, step + _AHEAD))


def schedule(peak: float, steps: int) -> optax.Schedule:
    """Warm-up over the first twentieth, at most 100 steps, then half a cosine to nothing."""
    return optax.warmup_cosine_decay_schedule(0.0, peak, min(max(1, steps // 20), 100), steps)


def adamw(peak: float, steps: int, decay: float) -> optax.GradientTransformation:
    """AdamW with clipped gradients; matrices decay, vectors and scalars do not."""
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(
            schedule(peak, steps),
            b2=0.98,
            weight_decay=decay,
            mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params),
        ),
    )


def muon(peak: float, steps: int, decay: float) -> optax.GradientTransformation:
    """Muon for the matrices within blocks, AdamW for all else, with the same schedule for both.

    Muon's steps are scaled to be as large as Adam's (`consistent_rms`). It needs fewer of them here.
    """

    def matrices(params: Any) -> Any:
        return jax.tree_util.tree_map_with_path(_as_matrix, params)

    return optax.chain(
        optax.clip_by_global_norm(1.0),
        contrib.muon(
            schedule(peak, steps),
            adam_b2=0.98,
            weight_decay=decay,
            adam_weight_decay=0.0,
            consistent_rms=0.2,
            muon_weight_dimension_numbers=matrices,
        ),
    )


def _as_matrix(path: tuple, leaf: jax.Array) -> contrib.MuonDimensionNumbers | None:
    """How a kernel within a block of pictures is a matrix; attention's have an axis of heads. None: it is not."""
    names = [str(getattr(part, "key", "")) for part in path]
    if names[-1] != "kernel" or "text" in names or not any(_BLOCK.match(name) for name in names):
        return None
    if leaf.ndim == 3 and names[-2] == "out":
        return contrib.MuonDimensionNumbers((0, 1), (2,))
    return contrib.MuonDimensionNumbers((0,), tuple(range(1, leaf.ndim))) if leaf.ndim in (2, 3) else None


def train(
    folder: Path,
    state: Any,
    update: Callable[[Any, Any], tuple[Any, dict]],
    make: Callable[[int], Any],
    steps: int,
    processes: int = 1,
) -> Any:
    """Run `state, metrics = update(state, batch)` for `steps` steps and give the last state back.

    Checkpoints lie in `folder`/checkpoints, the log is `folder`/log.csv. A batch is split over all devices along
    its first axis.
    """
    folder.mkdir(parents=True, exist_ok=True)
    devices = Mesh(np.array(jax.devices()), ("batch",))
    spread = NamedSharding(devices, PartitionSpec("batch"))
    state = jax.device_put(state, NamedSharding(devices, PartitionSpec()))
    update = jax.jit(update, donate_argnums=0)
    options = ocp.CheckpointManagerOptions(max_to_keep=2)
    with ocp.CheckpointManager((folder / "checkpoints").resolve(), options=options) as manager:
        first = manager.latest_step() or 0
        if first:
            state = manager.restore(first, args=ocp.args.StandardRestore(state))
        saved = begun = time.monotonic()
        for step, batch in enumerate(batches(make, first, steps, processes), first + 1):
            state, metrics = update(state, jax.device_put(batch, spread))
            if step % _LOG_EVERY == 0 or step == steps:
                _log(folder / "log.csv", step, (time.monotonic() - begun) / (step - first), metrics)
            if time.monotonic() - saved > 60 * _SAVE_MINUTES or step == steps:
                manager.save(step, args=ocp.args.StandardSave(state))
                manager.wait_until_finished()
                saved = time.monotonic()
    return state


def latest(folder: Path) -> dict:
    """The state in a run's last checkpoint, as nested dictionaries."""
    with ocp.CheckpointManager((folder / "checkpoints").resolve()) as manager:
        return manager.restore(manager.latest_step(), args=ocp.args.StandardRestore())


def _log(file: Path, step: int, seconds: float, metrics: dict) -> None:
    row = {"step": step, "seconds_a_step": round(seconds, 4)}
    row |= {name: round(float(value), 5) for name, value in metrics.items()}
    new = not file.exists()
    with file.open("a", newline="") as out:
        writer = csv.DictWriter(out, row)
        if new:
            writer.writeheader()
        writer.writerow(row)
    print(" ".join(f"{name} {value}" for name, value in row.items()), flush=True)
