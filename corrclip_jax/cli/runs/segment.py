"""The work of `corrclip segment`: label photos, and record which were done and which failed."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

from rich.markup import escape
from rich.table import Table

from corrclip_jax.cli.runs.output_names import Job
from corrclip_jax.cli.runs.plan import Task
from corrclip_jax.cli.shared.console import note
from corrclip_jax.cli.shared.progress import Progress
from corrclip_jax.cli.shared.tables import add_numbers, plain_table
from corrclip_jax.config import takes_points
from corrclip_jax.conversion.published import source_or_folder
from corrclip_jax.inference.not_finite import NotFiniteError, not_finite
from corrclip_jax.inference.segmentation import Segmentation
from corrclip_jax.inference.segmenter import Failure, Segmenter
from corrclip_jax.io.files import OutputError, check_writable
from corrclip_jax.io.own_files import OwnFiles
from corrclip_jax.io.photos import PhotoError
from corrclip_jax.io.region_maps import RegionError
from corrclip_jax.params.model_folder import sources_of
from corrclip_jax.runtime.environment import device_name, versions
from corrclip_jax.runtime.memory import exhausted, too_large
from corrclip_jax.viz.legend import percent

_TOP_CLASSES = 3


class Done(NamedTuple):
    """Summary of a photo's result: sizes in pixels, shares of the classes (0..1), seconds."""

    photo: Path
    width: int
    height: int
    shares: dict[str, float]
    seconds: float


@dataclass
class Work:
    """Segments photos and records the outcomes, which another thread may read meanwhile.

    Attributes:
      classes: class names, each with its synonyms.
      out: folder for the results.
      model: a name or a folder.
      regions: a source of regions, or a folder of region maps.
      options: more keyword arguments of `Segmenter`.
      notes: what was noted while a photo was read, by its path.
      hints: printed once the model is loaded.
      overwrite: replace files that this program did not write.
      outcomes: by the position of a task: its result, or the reason why there is none.
    """

    classes: Sequence[Sequence[str]]
    out: Path
    model: str
    regions: str
    options: Mapping[str, Any]
    notes: Mapping[str, list[str]] = field(default_factory=dict)
    hints: Sequence[str] = ()
    overwrite: bool = False
    outcomes: dict[int, Done | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._own = OwnFiles(self.out)

    @property
    def done(self) -> list[Done]:
        """The photos with a result, in order."""
        return [one for _, one in sorted(self.outcomes.items()) if isinstance(one, Done)]

    @property
    def failed(self) -> list[str]:
        """Messages about the others, in order."""
        return [one for _, one in sorted(self.outcomes.items()) if isinstance(one, str)]

    def labelled(self, tasks: Sequence[Task]) -> list[Job]:
        """The jobs of those tasks that have a result, in order."""
        return [
            tasks[position].job for position, one in sorted(self.outcomes.items()) if isinstance(one, Done)
        ]

    def run(self, tasks: Sequence[Task], total: int, progress: Progress, stop: Event) -> None:
        """Load the model and do all tasks, those of similar sizes together.

        A photo or region map that cannot be used, a photo that is too large for the memory, or a result that cannot
        be written is recorded as failed, and the others continue. If nothing can be written at all, the run ends.

        Args:
          tasks: photos, their region maps and the names of their results.
          total: how many photos there are, those included that were done before.
          progress: shows what is done and counts.
          stop: ends the run before the next photo.
        """
        segmenter, timings = self._load(progress)
        details = describe(segmenter, self.regions)
        progress.phase("Photos", total=total, done=total - len(tasks))

        def start(positions: Sequence[int], compiles: bool) -> None:
            while_compiling = " (compiling for its size)" if compiles else ""
            progress.show(f"{tasks[positions[0]].job.photo.name}{while_compiling}")

        sources = [task.source for task in tasks]
        maps = [task.region_map for task in tasks]
        for position, result in segmenter.stream(sources, self.classes, regions=maps, on_start=start):
            self.outcomes[position] = self.outcome(tasks[position], result, details, timings)
            progress.advance()
            if stop.is_set() or not self._can_continue(position):
                return

    def _load(self, progress: Progress) -> tuple[Segmenter, dict[str, float]]:
        """The model with the embedded class names, and the seconds that both took."""
        progress.phase(f"Loading {self.model}")
        start = time.perf_counter()
        source, _ = source_or_folder(self.regions)
        segmenter = Segmenter(self.model, regions=source, **self.options)
        loaded = time.perf_counter()
        for hint in self.hints:
            note(hint)
        progress.phase(f"Encoding {len(self.classes)} class names")
        segmenter.embed(self.classes)
        return segmenter, {"load": loaded - start, "text": time.perf_counter() - loaded}

    def outcome(
        self,
        task: Task,
        result: Segmentation | Failure,
        details: dict[str, Any],
        timings: dict[str, float],
    ) -> Done | str:
        """Write the files of a result.

        Args:
          task: the photo and the names of its results.
          result: its labels, or why there are none.
          details: how they were made, for the description.
          timings: seconds of what came before, by name.

        Returns:
          A summary, or why there are no files.
        """
        if not isinstance(result, Segmentation):
            return _reason(task, result)
        seconds = {**timings, "segment": result.seconds}
        content = {
            "photo": str(task.job.photo),
            "path": str(task.job.photo.absolute()),
            "seconds": {name: round(value, 4) for name, value in seconds.items()},
            **details,
        }
        if notes := self.notes.get(str(task.job.photo)):
            content["notes"] = list(notes)
        try:
            result.save(
                self._own,
                task.job.stem,
                content,
                made=task.made,
                overwrite=self.overwrite,
                probabilities=task.job.probabilities,
            )
        except OutputError as error:
            return _Unwritten(str(error))
        except MemoryError:
            return too_large(task.job.photo)
        height, width = result.labels.shape
        return Done(task.job.photo, width, height, result.shares, result.seconds)

    def _can_continue(self, position: int) -> bool:
        """Whether results can still be written, after one could not."""
        outcome = self.outcomes[position]
        if isinstance(outcome, _Unwritten):
            try:
                check_writable(self.out)
            except OutputError:
                self.outcomes[position] = f"{outcome} Stopped there."
                return False
        return True


class _Unwritten(str):
    """Why a result could not be written."""


def _reason(task: Task, failure: Failure) -> str:
    if isinstance(failure, NotFiniteError):
        return str(not_finite(task.job.photo))
    if isinstance(failure, PhotoError | RegionError):
        return str(failure)
    if not exhausted(failure):
        raise failure
    return too_large(task.job.photo)


def describe(segmenter: Segmenter, regions: str) -> dict[str, Any]:
    """How a result was made, as plain JSON types: name and sources of the model, settings, device, versions."""
    config = segmenter.config
    has_points = takes_points(config.regions.source)
    return {
        "model": {"name": config.name, "sources": sources_of(config)},
        "settings": {
            "regions": regions,
            "points_per_side": config.regions.points_per_side if has_points else None,
            "background_threshold": config.method.background_threshold,
            "dtype": config.dtype,
            "resize_short": config.method.resize_short,
            "window": config.method.window,
            "stride": config.method.stride,
        },
        "device": device_name(),
        "versions": versions(),
    }


def summary_table(done: Sequence[Done]) -> Table:
    """One line per photo: size, largest classes, seconds."""
    table = plain_table("Photo", gap=3)
    add_numbers(table, "Size")
    table.add_column("Largest classes")
    add_numbers(table, "Seconds")
    for one in done:
        top = ", ".join(f"{name} {percent(share)}" for name, share in list(one.shares.items())[:_TOP_CLASSES])
        more = f", {len(one.shares) - _TOP_CLASSES} more" if len(one.shares) > _TOP_CLASSES else ""
        size = f"{one.width} x {one.height}"
        photo = str(one.photo).encode("utf-8", "backslashreplace").decode()
        table.add_row(escape(photo), size, escape(top + more), f"{one.seconds:.1f}")
    return table
