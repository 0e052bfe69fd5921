"""The work of `corrclip segment`: photo by photo, whatever happens to one of them, and the account of it."""

import importlib.metadata
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
from rich.markup import escape
from rich.table import Table

import corrclip_jax
from corrclip_jax.cli.console import FAILED, INTERRUPTED
from corrclip_jax.cli.jobs import Job
from corrclip_jax.legend import percent
from corrclip_jax.output import OutputError
from corrclip_jax.photos import PhotoError, read_photo
from corrclip_jax.region_files import RegionError, region_file
from corrclip_jax.segmenter import Segmenter

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
    """Segments photos one after the other and keeps account.

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
        """Do all jobs; `announce` hears of each, and whether its size is new, `finish` of its end.

        A photo or region map that cannot be used, or one too large for the memory, is noted and the rest go on. A
        result that cannot be written, and Ctrl-C, end the work; what was written stays.
        """
        sizes: set[tuple[int, ...]] = set()
        try:
            for job in jobs:
                try:
                    self._one(job, sizes, announce)
                except (PhotoError, RegionError) as error:
                    self.failed.append(str(error))
                except jax.errors.JaxRuntimeError as error:
                    if "RESOURCE_EXHAUSTED" not in str(error):
                        raise
                    self.failed.append(f"{job.photo} is too large for the memory. Make it smaller.")
                finish()
        except OutputError as error:
            self.failed.append(f"{error} Stopped there.")
        except KeyboardInterrupt:
            self.failed.append("Stopped by Ctrl-C.")
            self.exit_code = INTERRUPTED
            return
        self.exit_code = FAILED if self.failed else 0

    def _one(self, job: Job, sizes: set[tuple[int, ...]], announce: Callable[[Job, bool], None]) -> None:
        start = time.perf_counter()
        photo = read_photo(job.photo)
        maps = None if self.region_maps is None else region_file(self.region_maps, job.photo)
        read = time.perf_counter() - start
        announce(job, photo.shape not in sizes)
        sizes.add(photo.shape)
        result = self.segmenter(photo, self.classes, regions=maps)
        timings = self.timings | {"read": read, "segment": result.seconds}
        rounded = {name: round(seconds, 4) for name, seconds in timings.items()}
        details = {
            "photo": str(job.photo),
            "seconds": rounded | {"segment_includes_compilation": result.compiled},
            **self.details,
        }
        result.save(self.out, job.stem, details)
        height, width = result.labels.shape
        seconds = time.perf_counter() - start
        self.done.append(Done(job.photo, width, height, result.shares, seconds))


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
        "versions": {"corrclip_jax": corrclip_jax.__version__, "python": platform.python_version()}
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
