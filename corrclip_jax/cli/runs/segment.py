"""The work of `corrclip segment`: label all photos, and record which were done and which failed."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
from rich.markup import escape
from rich.table import Table

from corrclip_jax.cli.runs.output_names import Job
from corrclip_jax.cli.shared.console import FAILED, INTERRUPTED
from corrclip_jax.cli.shared.tables import add_numbers, plain_table
from corrclip_jax.inference.segmentation import Segmentation
from corrclip_jax.inference.segmenter import Failure, Segmenter
from corrclip_jax.io.files import OutputError
from corrclip_jax.io.photos import PhotoError
from corrclip_jax.io.region_maps import RegionError, region_file
from corrclip_jax.params.model_folder import sources_of
from corrclip_jax.runtime.environment import versions
from corrclip_jax.runtime.memory import exhausted
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
    """Segments photos and records the outcomes.

    Attributes:
      segmenter: the model.
      classes: class names, each with its synonyms.
      out: folder for the results.
      region_maps: a folder of region maps, or None if the model finds the regions.
      details: go into the description of every photo.
      timings: seconds of what was done once, also in every description.
      done: photos with a result.
      failed: messages about the others.
      exit_code: of the program.
    """

    segmenter: Segmenter
    classes: Sequence[Sequence[str]]
    out: Path
    region_maps: Path | None
    details: dict[str, Any]
    timings: dict[str, float]
    done: list[Done] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    exit_code: int = 0

    def run(
        self, jobs: Sequence[Job], on_start: Callable[[Job, bool], None], on_done: Callable[[], None]
    ) -> None:
        """Do all jobs, those of similar sizes together.

        A photo or region map that cannot be used, or a photo that is too large for the memory, is recorded as
        failed, and the others continue. A result that cannot be written, or Ctrl-C, stops the run; results that
        are written already are kept.

        Args:
          jobs: photos and the names of their results.
          on_start: called with each job as it starts, and whether a program has to be compiled first.
          on_done: called at the end of each job.
        """
        outcomes: dict[int, Done | str] = {}
        try:
            self._work(jobs, outcomes, on_start, on_done)
        except OutputError as error:
            outcomes[len(jobs)] = f"{error} Stopped there."
        except KeyboardInterrupt:
            outcomes[len(jobs)] = "Stopped by Ctrl-C."
            self.exit_code = INTERRUPTED
        for index in sorted(outcomes):
            outcome = outcomes[index]
            if isinstance(outcome, Done):
                self.done.append(outcome)
            else:
                self.failed.append(outcome)
        self.exit_code = self.exit_code or (FAILED if self.failed else 0)

    def _work(
        self,
        jobs: Sequence[Job],
        outcomes: dict[int, "Done | str"],
        on_start: Callable[[Job, bool], None],
        on_done: Callable[[], None],
    ) -> None:
        """Fill `outcomes`, by the index of the job: a result, or the reason why there is none."""
        maps: dict[int, Path | None] = {}
        for index, job in enumerate(jobs):
            try:
                maps[index] = None if self.region_maps is None else region_file(self.region_maps, job.photo)
            except RegionError as error:
                outcomes[index] = str(error)
                on_done()
        usable = list(maps)

        def start(positions: Sequence[int], compiles: bool) -> None:
            for position in positions:
                on_start(jobs[usable[position]], compiles)

        photos = [jobs[index].photo for index in usable]
        results = self.segmenter.stream(photos, self.classes, regions=list(maps.values()), on_start=start)
        for position, result in results:
            index = usable[position]
            if isinstance(result, Segmentation):
                outcomes[index] = self._save(jobs[index], result)
            else:
                outcomes[index] = _reason(jobs[index], result)
            on_done()

    def _save(self, job: Job, result: Segmentation) -> Done:
        rounded = {
            name: round(seconds, 4) for name, seconds in {**self.timings, "segment": result.seconds}.items()
        }
        details = {
            "photo": str(job.photo),
            "seconds": rounded | {"segment_includes_compilation": result.compiled},
            **self.details,
        }
        result.save(self.out, job.stem, details)
        height, width = result.labels.shape
        return Done(job.photo, width, height, result.shares, result.seconds)


def _reason(job: Job, failure: Failure) -> str:
    if isinstance(failure, PhotoError | RegionError):
        return str(failure)
    if not exhausted(failure):
        raise failure
    return f"{job.photo} is too large for the memory. Scale it down."


def describe(segmenter: Segmenter, regions: str) -> dict[str, Any]:
    """How a result was made, as plain JSON types: name and sources of the model, settings, device, versions."""
    config = segmenter.config
    device = jax.devices()[0]
    return {
        "model": {"name": config.name, "sources": sources_of(config)},
        "settings": {
            "regions": regions,
            "points_per_side": config.regions.points_per_side if regions == "sam2" else None,
            "background_threshold": config.method.background_threshold,
            "dtype": config.dtype,
            "resize_short": config.method.resize_short,
            "window": config.method.window,
            "stride": config.method.stride,
        },
        "device": f"{device.platform}: {device.device_kind}",
        "versions": versions("corrclip_jax", "python", "jax", "jaxlib", "flax", "numpy", "pillow"),
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
        table.add_row(escape(str(one.photo)), size, escape(top + more), f"{one.seconds:.1f}")
    return table
