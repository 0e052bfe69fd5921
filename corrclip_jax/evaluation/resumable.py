"""An evaluation that may be broken off at any moment, by a signal or by force, and goes on where it was."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import numpy as np

from corrclip_jax.evaluation.counts import StateError, Store, Tally, after
from corrclip_jax.evaluation.loading import Unreadable
from corrclip_jax.evaluation.scorer import BatchCounts, Scorer
from corrclip_jax.io.files import atomic_file
from corrclip_jax.runtime import distributed
from corrclip_jax.viz.overlay import label_image

SIGNALS = (signal.SIGTERM, signal.SIGINT)
GRACE = 5.0
"""Seconds that a batch under way has to end in, after a signal, before the run ends without it."""

_TICK = 0.2


class Stopped(Exception):
    """A signal has ended the run; what was counted is on disk. `number` is the signal's."""

    def __init__(self, number: int):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number = number


@dataclass
class Run:
    """Scores all pictures that are not counted yet, and writes down how far it is.

    `state` is the folder of the counts, None where they are not kept; they are written every `save_every` pictures
    and every `save_seconds`. `predictions` is a folder for label maps, if they are wanted. `settings` are what the
    counts depend on (plain JSON types); a run with others does not go on from them.
    """

    scorer: Scorer
    settings: dict[str, Any]
    state: Path | None = None
    predictions: Path | None = None
    save_every: int = 200
    save_seconds: float = 60.0
    base: Tally = field(init=False)
    tally: Tally = field(init=False)
    total: int = field(init=False)

    def __post_init__(self):
        data = self.scorer.dataset
        empty = Tally.empty(data.count, len(self.scorer.variants), len(data.classes))
        self._store = None if self.state is None else Store(self.state)
        self.base = empty if self._store is None else _begin(self._store, empty, self.settings)
        self.tally = Tally.empty(data.count, len(self.scorer.variants), len(data.classes))
        todo = np.flatnonzero(~self.base.counted).tolist()
        self._todo = self.scorer.batches(todo, jax.process_index(), jax.process_count())
        if jax.process_index() == 0:
            self.tally.broken |= self.scorer.unreadable
        self.total = sum(len(batch.indices) for batch in self._todo) + len(self.tally.broken)
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._failure: BaseException | None = None
        self._started = self._saved_at = time.perf_counter()
        self._unsaved = 0

    def __call__(self, watch: Callable[["Run"], object] = lambda run: None) -> Tally:
        """Score, then give the counts of all processes and of former runs; `watch` is called every now and then.

        Raises:
          Stopped: by SIGTERM or SIGINT, within `GRACE` and the time it takes to write.
        """
        worker = threading.Thread(target=self._work, name="evaluation", daemon=True)
        received: list[int] = []

        def remember(number: int, frame: FrameType | None) -> None:
            received.append(number)
            self._stop.set()

        self._started = self._saved_at = time.perf_counter()
        # The work is a thread's, so that this one hears of signals while a program is compiled or runs.
        with _handled(remember):
            worker.start()
            while worker.is_alive() and not received:
                worker.join(_TICK)
                watch(self)
            if received:
                worker.join(GRACE)
                self.save()
                if worker.is_alive():
                    # Python would wait for the device before it ended.
                    leave(received[0])
                raise Stopped(received[0])
        watch(self)
        if self._failure is not None:
            raise self._failure
        self.save()
        parts = [Tally.from_bytes(data) for data in distributed.gather(self.tally.to_bytes())]
        return after(self.base, parts)

    @property
    def so_far(self) -> Tally:
        """What former runs and this process have counted."""
        with self._lock:
            return self.base + self.tally

    @property
    def done(self) -> int:
        """Pictures that this process has counted, or found broken, in this run."""
        return int(self.tally.counted.sum()) + len(self.tally.broken)

    @property
    def seconds(self) -> float:
        """This run's time so far, compilation left out."""
        return max(time.perf_counter() - self._started - self.scorer.programs.compile_seconds, 1e-9)

    def save(self) -> None:
        """Write down how far this process is."""
        with self._lock:
            self.tally.seconds = self.seconds
            if self._store is not None:
                self._store.save(self.tally, jax.process_index())
            self._unsaved, self._saved_at = 0, time.perf_counter()

    def _work(self) -> None:
        try:
            for outcome in self.scorer(self._todo, keep_labels=self.predictions is not None):
                self._take(outcome)
                late = time.perf_counter() - self._saved_at > self.save_seconds
                if self._unsaved >= self.save_every or (late and self._unsaved):
                    self.save()
                if self._stop.is_set():
                    break
        except BaseException as error:
            self._failure = error

    def _take(self, outcome: BatchCounts | Unreadable) -> None:
        if isinstance(outcome, BatchCounts):
            self._write_predictions(outcome)
        with self._lock:
            if isinstance(outcome, BatchCounts):
                self.tally.add(outcome)
                self._unsaved += len(outcome.indices)
            else:
                self.tally.broken[outcome.index] = outcome.message

    def _write_predictions(self, scored: BatchCounts) -> None:
        if self.predictions is None or scored.labels is None:
            return
        names = [synonyms[0] for synonyms in self.scorer.dataset.classes]
        for index, labels in zip(scored.indices, scored.labels, strict=True):
            with atomic_file(self.predictions / f"{self.scorer.dataset.stem(index)}.png") as partial:
                label_image(labels, names).save(partial)


def leave(number: int) -> None:
    """End the process at once, with the exit code of a signal."""
    os._exit(128 + number)


def _begin(store: Store, empty: Tally, settings: dict[str, Any]) -> Tally:
    """What former runs have counted, on all processes; the first one reads it and begins a new generation."""
    message = b""
    base = empty
    if jax.process_index() == 0:
        try:
            base = store.read(empty, settings)
            base.broken = {}  # tried again: they may have been mended
            generation = store.begin(base, settings)
            message = json.dumps({"generation": generation}).encode()
        except (StateError, OSError) as error:
            message = json.dumps({"error": str(error)}).encode()
    told = json.loads(distributed.from_first(message))
    if "error" in told:
        raise StateError(told["error"])
    store.generation = told["generation"]
    return Tally.from_bytes(distributed.from_first(base.to_bytes()))


@contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Signals go to a handler meanwhile; outside the main thread Python has no say in them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
