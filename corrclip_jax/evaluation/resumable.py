"""Resumable evaluation: survives SIGTERM, SIGINT and SIGKILL, and continues from the counts on disk."""

import dataclasses
import json
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, TypeAlias

import jax
import numpy as np

from corrclip_jax.evaluation import metrics
from corrclip_jax.evaluation.batch_counts import BatchCounts
from corrclip_jax.evaluation.counts import Counts, CountsFolder, StateError, combined
from corrclip_jax.evaluation.kept_labels import KeptLabels
from corrclip_jax.evaluation.loading import Unreadable
from corrclip_jax.evaluation.output import Output
from corrclip_jax.evaluation.provenance import Provenance
from corrclip_jax.evaluation.scorer import Scorer
from corrclip_jax.inference.buckets import Batch
from corrclip_jax.runtime import distributed
from corrclip_jax.runtime.signals import handled

MOST_SHOWN = 8
"""The number of the worst images whose label maps are kept for the report, and of the best."""

STATE = "state"
"""The folder of the counts, in that of the results."""

GRACE_SECONDS = 5.0
"""How long the batch that is running may take to end after a signal; then the run ends without it."""

_TICK = 0.2

Progress: TypeAlias = Callable[["ResumableEvaluation"], object]
"""A callback with the state of a run: `done` of `total` images, `seconds`, `so_far`."""


class Stopped(Exception):
    """The run was ended by a signal; its counts are on disk.

    Attributes:
      number: the signal.
      counted: how many images are counted, former runs included.
      running: whether the device is still at work on a batch, for which Python would wait at its exit.
    """

    def __init__(self, number: int, counted: int, running: bool):
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.number, self.counted, self.running = number, counted, running


@dataclass
class ResumableEvaluation:
    """Scores all images that have not been counted yet, and saves the counts regularly.

    Attributes:
      scorer: what labels and counts.
      provenance: what the counts belong to; a run of another one does not resume them.
      output: the folder of the results, which holds the counts; None to keep none.
      save_every: images after which the counts are saved.
      save_seconds: seconds after which they are saved.
      base: the counts of former runs.
      counts: those of this run, on this process.
      made: the hardware and the versions that counted last.
      total: how many images this process has to label: those that are not counted and those whose label map is
        wanted and not there.
      kept: label maps of the worst and best images, None without `output`.
    """

    scorer: Scorer
    provenance: Provenance
    output: Output | None = None
    save_every: int = 200
    save_seconds: float = 60.0
    base: Counts = field(init=False)
    counts: Counts = field(init=False)
    made: dict[str, Any] = field(init=False)
    total: int = field(init=False)
    kept: KeptLabels | None = field(init=False)

    def __post_init__(self) -> None:
        data = self.scorer.dataset
        empty = Counts.empty(data.count, len(self.scorer.variants), len(data.classes))
        state = None if self.output is None else self.output.folder / STATE
        self._folder = None if state is None else CountsFolder(state)
        if self._folder is None:
            self.base, self.made = empty, self.provenance.made
        else:
            self.base, self.made = _begin(self._folder, empty, self.provenance)
        self.kept = None if state is None else KeptLabels(state, MOST_SHOWN, self.base.scores)
        self.counts = Counts.empty(data.count, len(self.scorer.variants), len(data.classes))
        self._todo: list[Batch] = []
        self._again: list[Batch] = []
        self.total = self._labelled_again = 0
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._failure: BaseException | None = None
        self._started = self._saved_at = time.perf_counter()
        self._unsaved = 0

    def prepare(self, on_step: Callable[[str], object] = lambda step: None) -> None:
        """Plan the batches; does nothing if former runs have done everything. `on_step` gets what begins."""
        todo, again = np.flatnonzero(~self.base.counted).tolist(), self._without_prediction()
        if not todo and not again:
            return
        self.scorer.prepare(on_step)
        share = jax.process_index(), jax.process_count()
        self._todo, self._again = (self.scorer.batches(indices, *share) for indices in (todo, again))
        if jax.process_index() == 0:
            unreadable = self.scorer.unreadable.items()
            self.counts.unreadable |= {
                index: text for index, text in unreadable if not self.base.counted[index]
            }
        batches = [*self._todo, *self._again]
        self.total = sum(len(batch.indices) for batch in batches) + len(self.counts.unreadable)

    def __call__(self, progress: Progress = lambda run: None) -> Counts:
        """Score, and return the counts of all processes and of former runs.

        Args:
          progress: called several times a second and once at the end. What it raises ends the run, after the counts
            are saved.

        Raises:
          Stopped: by SIGTERM or SIGINT, at most `GRACE_SECONDS` later plus the time that saving takes. Signals are
            handled in the main thread only.
        """
        worker = threading.Thread(target=self._work, name="evaluation", daemon=True)
        received: list[int] = []

        def remember(number: int, frame: FrameType | None) -> None:
            received.append(number)
            self._stop.set()

        self._started = self._saved_at = time.perf_counter()
        # A thread scores, so that this one can handle signals while a program is compiled or runs.
        with handled(remember, signal.SIGTERM, signal.SIGINT):
            worker.start()
            try:
                while worker.is_alive() and not received:
                    worker.join(_TICK)
                    progress(self)
            except BaseException:
                self._end(worker)
                raise
            if received:
                self._end(worker)
                raise Stopped(received[0], int(self.so_far.counted.sum()), worker.is_alive())
        progress(self)
        if self._failure is not None:
            raise self._failure
        self.save()
        parts = [Counts.from_bytes(data) for data in distributed.gather(self.counts.to_bytes())]
        return combined(self.base, parts)

    @property
    def so_far(self) -> Counts:
        """The counts of former runs and of this process."""
        with self._lock:
            return self.base + self.counts

    @property
    def done(self) -> int:
        """Images that this process has labelled, or found unreadable, in this run."""
        return int(self.counts.counted.sum()) + len(self.counts.unreadable) + self._labelled_again

    @property
    def before(self) -> int:
        """Images that former runs have counted."""
        return int(self.base.counted.sum())

    @property
    def seconds(self) -> float:
        """This run's time so far, without compilation."""
        return max(time.perf_counter() - self._started - self.scorer.programs.compile_seconds, 1e-9)

    def save(self) -> None:
        """Write the counts of this process."""
        with self._lock:
            self.counts.seconds = self.seconds if self.total else 0.0
            if self._folder is not None:
                self._folder.save(self.counts, jax.process_index())
            self._unsaved, self._saved_at = 0, time.perf_counter()

    def _end(self, worker: threading.Thread) -> None:
        """Give the running batch `GRACE_SECONDS` to end, and save."""
        self._stop.set()
        worker.join(GRACE_SECONDS)
        self.save()

    def _work(self) -> None:
        try:
            for outcome in self.scorer(self._todo, keep_labels=self.output is not None):
                self._take(outcome)
                late = time.perf_counter() - self._saved_at > self.save_seconds
                if self._unsaved >= self.save_every or (late and self._unsaved):
                    self.save()
                if self._stop.is_set():
                    return
            for outcome in self.scorer(self._again, keep_labels=True):
                if isinstance(outcome, BatchCounts):
                    self._write_predictions(outcome)
                self._labelled_again += len(outcome.indices) if isinstance(outcome, BatchCounts) else 1
                if self._stop.is_set():
                    return
        except BaseException as error:
            self._failure = error

    def _take(self, outcome: BatchCounts | Unreadable) -> None:
        if isinstance(outcome, BatchCounts):
            self._write_predictions(outcome)
            if self.kept is not None and outcome.labels is not None:
                for index, areas, labels in zip(outcome.indices, outcome.areas, outcome.labels, strict=True):
                    self.kept.offer(index, metrics.mean_area_iou(areas), labels)
        with self._lock:
            if isinstance(outcome, BatchCounts):
                self.counts.add(outcome)
                self._unsaved += len(outcome.indices)
            else:
                self.counts.unreadable[outcome.index] = outcome.message

    def _write_predictions(self, batch: BatchCounts) -> None:
        if self.output is None or not self.output.wants_predictions or batch.labels is None:
            return
        for index, labels in zip(batch.indices, batch.labels, strict=True):
            self.output.write_prediction(index, labels)
            self.counts.predicted[index] = True

    def _without_prediction(self) -> list[int]:
        """Images that former runs have counted, whose label map is wanted and not there."""
        if self.output is None or not self.output.wants_predictions:
            return []
        counted, written = np.flatnonzero(self.base.counted).tolist(), self.base.predicted
        return [index for index in counted if not (written[index] and self.output.has_prediction(index))]


def _begin(folder: CountsFolder, empty: Counts, provenance: Provenance) -> tuple[Counts, dict[str, Any]]:
    """The counts of former runs and what made them, on all processes; the first one begins a new generation."""
    message = b""
    base = empty
    if jax.process_index() == 0:
        try:
            base, made = folder.read(empty, provenance)
            base.unreadable = {}  # tried again: they may have been repaired
            if base.counted.all():
                provenance = dataclasses.replace(provenance, made=made)
            generation = folder.begin(base, provenance)
            message = json.dumps({"generation": generation, "made": provenance.made}).encode()
        except (StateError, OSError) as error:
            message = json.dumps({"error": str(error)}).encode()
    received = json.loads(distributed.from_first(message))
    if "error" in received:
        raise StateError(received["error"])
    folder.generation = received["generation"]
    return Counts.from_bytes(distributed.from_first(base.to_bytes())), received["made"]
