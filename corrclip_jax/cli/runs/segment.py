"""The work of `corrclip segment`: all photos, whatever happens to one of them, and the account of it."""

import importlib.metadata
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
from rich.markup import escape
from rich.table import Table

from corrclip_jax._version import __version__
from corrclip_jax.cli.runs.output_names import Job
from corrclip_jax.cli.shared.console import FAILED, INTERRUPTED
from corrclip_jax.inference.segmentation import Segmentation
from corrclip_jax.inference.segmenter import Failure, Segmenter
from corrclip_jax.io.files import OutputError
from corrclip_jax.io.photos import PhotoError
from corrclip_jax.io.region_maps import RegionError, region_file
from corrclip_jax.runtime.memory import exhausted
from corrclip_jax.viz.legend import percent

_TOP_CLASSES = 3


class Done(NamedTuple):
    """What the account keeps of a photo's result."""

    photo: Path
    width: int
    height: int
    shares: dict[str, float]
    seconds: float


@dataclass
class Work:
    """Segments photos and keeps account.

    `region_maps` is a folder of region maps, None where the model finds its own. `details` and `timings` (seconds)
    stand in every photo's description.
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
        self, jobs: Sequence[Job], announce: Callable[[Job, bool], None], finish: Callable[[], None]
    ) -> None:
        """Do all jobs, those of like sizes together; `announce` hears of each that starts, and whether that takes a
        compilation, `finish` of each one's end.

        A photo or region map that cannot be used, or one too large for the memory, is noted and the rest go on. A
        result that cannot be written, and Ctrl-C, end the work; what was written stays.
        """
        outcomes: dict[int, Done | str] = {}
        try:
            self._work(jobs, outcomes, announce, finish)
        except OutputError as error:
            outcomes[len(jobs)] = f"{error} Stopped there."
        except KeyboardInterrupt:
            outcomes[len(jobs)] = "Stopped by Ctrl-C."
            self.exit_code = INTERRUPTED
        for place in sorted(outcomes):
            outcome = outcomes[place]
            if isinstance(outcome, Done):
                self.done.append(outcome)
            else:
                self.failed.append(outcome)
        self.exit_code = self.exit_code or (FAILED if self.failed else 0)

    def _work(
        self,
        jobs: Sequence[Job],
        outcomes: dict[int, "Done | str"],
        announce: Callable[[Job, bool], None],
        finish: Callable[[], None],
    ) -> None:
        """Outcomes by the jobs' places: what was done, or why nothing was."""
        maps: dict[int, Path | None] = {}
        for place, job in enumerate(jobs):
            try:
                maps[place] = None if self.region_maps is None else region_file(self.region_maps, job.photo)
            except RegionError as error:
                outcomes[place] = str(error)
                finish()
        places = list(maps)

        def tell(indices: Sequence[int], compiles: bool) -> None:
            for index in indices:
                announce(jobs[places[index]], compiles)

        results = self.segmenter.stream(
            [jobs[place].photo for place in places], self.classes, regions=list(maps.values()), on_start=tell
        )
        for index, result in results:
            job = jobs[places[index]]
            if isinstance(result, Segmentation):
                outcomes[places[index]] = self._save(job, result)
            else:
                outcomes[places[index]] = _reason(job, result)
            finish()

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
    return f"{job.photo} is too large for the memory. Make it smaller."


def describe(segmenter: Segmenter, regions: str, model: dict[str, Any]) -> dict[str, Any]:
    """What made a result, as plain JSON types: `model` (name, sources), settings, versions, device."""
    config = segmenter.config
    device = jax.devices()[0]
    return {
        "model": model,
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
        "versions": {"corrclip_jax": __version__, "python": platform.python_version()}
        | {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "flax", "numpy", "pillow")},
    }


def summary_table(done: Sequence[Done]) -> Table:
    """The results at a glance: a line a photo."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("Photo", overflow="fold")
    table.add_column("Size", justify="right", no_wrap=True)
    table.add_column("Largest classes")
    table.add_column("Seconds", justify="right", no_wrap=True)
    for one in done:
        top = ", ".join(f"{name} {percent(share)}" for name, share in list(one.shares.items())[:_TOP_CLASSES])
        more = f", {len(one.shares) - _TOP_CLASSES} more" if len(one.shares) > _TOP_CLASSES else ""
        size = f"{one.width} x {one.height}"
        table.add_row(escape(str(one.photo)), size, escape(top + more), f"{one.seconds:.1f}")
    return table
