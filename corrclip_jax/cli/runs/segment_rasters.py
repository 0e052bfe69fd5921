"""The work of `corrclip segment` on rasters: each one segmented, those that fail listed at the end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import typer
from rich.markup import escape

from corrclip_jax.cli.runs.output_names import Job, plan_jobs
from corrclip_jax.cli.shared.console import (
    FAILED,
    UsageError,
    complain,
    messages,
    note,
    result_as_json,
)
from corrclip_jax.cli.shared.interrupts import run_interruptibly
from corrclip_jax.cli.shared.options import class_names, parse_bands, region_source
from corrclip_jax.cli.shared.progress import Progress
from corrclip_jax.cli.shared.raster_options import PRESETS, RasterOptions, parse_stretch
from corrclip_jax.hub.model_marks import model_mark
from corrclip_jax.io.files import OutputError, check_writable

if TYPE_CHECKING:
    from corrclip_jax.inference.segmenter import Segmenter


def run(
    groups: Sequence[Sequence[Path]],
    out: Path,
    options: RasterOptions,
    classes: tuple[str | None, Path | None],
    model: tuple[str, str | None, dict[str, Any]],
    bands: str | None,
    refused: Mapping[str, Any],
    overwrite: bool,
) -> None:
    """Segment all rasters; those that fail are listed at the end.

    Args:
      groups: the files of each raster.
      out: the folder of the results.
      options: of rasters.
      classes: --classes and --classes-file.
      model: its name, the source of regions, and more arguments of `Segmenter`.
      bands: --bands.
      refused: options that rasters do not have, by name.
      overwrite: make everything again.
    """
    if wrong := [name for name, value in refused.items() if value]:
        raise UsageError(f"{', '.join(wrong)} is for photos, not for rasters.")
    regions = region_source(model[0], model[1], "rasters")
    names, settings = _class_names(classes, options), _settings(options, bands)
    if any(len(group) == 1 and group[0].resolve().parent == out.resolve() for group in groups):
        raise UsageError(f"{out} holds the raster. Choose another folder with --out.")
    jobs = plan_jobs([group[0] for group in groups], out)
    check_writable(out)
    work = Work(names, out, (model[0], regions, model[2]), options, settings, overwrite)
    with Progress() as progress:
        try:
            run_interruptibly(lambda stop: work.run(groups, jobs, progress, stop))
        except KeyboardInterrupt:
            progress.stop()
            messages().print(
                f"The tiles that are done are kept in {escape(str(out))}: the same command continues."
            )
            raise
    where = f" -> {escape(str(out))}" if work.done else ""
    messages().print(f"{len(work.done)} of {len(groups)} rasters segmented{where}", soft_wrap=True)
    for line in work.failed:
        complain(line)
    result_as_json({"rasters": work.done, "out": str(out), "failed": work.failed})
    if work.failed:
        raise typer.Exit(FAILED)


@dataclass
class Work:
    """Segments rasters and records the outcomes.

    Attributes:
      classes: class names, each with its synonyms.
      out: folder for the results.
      model: its name, the source of regions, and more arguments of `Segmenter`.
      options: of rasters.
      settings: more arguments of `Raster`.
      overwrite: make everything again.
      done: a description of each result.
      failed: messages about the others.
    """

    classes: Sequence[Sequence[str]]
    out: Path
    model: tuple[str, str, Mapping[str, Any]]
    options: RasterOptions
    settings: Mapping[str, Any]
    overwrite: bool
    done: list[dict[str, Any]] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def run(
        self, groups: Sequence[Sequence[Path]], jobs: Sequence[Job], progress: Progress, stop: Event
    ) -> None:
        """Load the model and segment all rasters, until `stop` is set."""
        from corrclip_jax.inference.raster_tiles import Stopped
        from corrclip_jax.inference.segmenter import Segmenter
        from corrclip_jax.io.rasters import RasterError

        name, regions, more = self.model
        progress.phase(f"Loading {name}")
        segmenter = Segmenter(name, regions=regions, **more)
        mark = model_mark(name, regions)
        for group, job in zip(groups, jobs, strict=True):
            try:
                self.done.append(self._segment(segmenter, mark, group, job, progress, stop))
            except Stopped:
                return
            except (RasterError, OutputError) as error:
                self.failed.append(str(error))

    def _segment(
        self,
        segmenter: "Segmenter",
        mark: str,
        group: Sequence[Path],
        job: Job,
        progress: Progress,
        stop: Event,
    ) -> dict[str, Any]:
        from corrclip_jax.inference.raster_tiles import Tiling
        from corrclip_jax.inference.rasters import segment_raster
        from corrclip_jax.io.rasters import Raster

        preset = self.options.preset and PRESETS[self.options.preset]
        vector = self.options.vector
        raster = Raster(group, **self.settings)
        result = segment_raster(
            segmenter,
            raster,
            self.classes,
            self.out,
            stem=job.stem,
            tiling=Tiling(self.options.tile or 1024, self.options.zoom or (preset.zoom if preset else 1.0)),
            vector=None if vector is None else vector.value,
            made={"model": mark},
            overwrite=self.overwrite,
            on_step=_Steps(job.photo.name, progress).show,
            stop=stop.is_set,
        )
        for text in raster.notes:
            note(f"{raster} {text}")
        return {
            "raster": str(raster),
            "files": [str(path) for path in result.paths],
            "pixels": result.pixels,
            "nodata": result.nodata,
            "tiles": result.tiles,
            "done_before": result.before,
        }


@dataclass
class _Steps:
    """Shows the steps of one raster."""

    name: str
    progress: Progress
    phase: str = ""
    at: int = 0

    def show(self, phase: str, at: int, total: int) -> None:
        if phase != self.phase:
            self.phase, self.at = phase, at
            self.progress.phase(f"{self.name}: {phase}", total=total, done=at)
        self.progress.advance(at - self.at)
        self.at = at


def _settings(options: RasterOptions, bands: str | None) -> dict[str, Any]:
    """The arguments of `Raster`."""
    preset = options.preset and PRESETS[options.preset]
    bands = bands or (preset.bands if preset else None)
    return {
        "bands": None if bands is None else parse_bands(bands),
        "stretch": parse_stretch(options.stretch),
        "resolution": options.resolution or (preset.resolution if preset else None),
        "alpha": options.alpha,
    }


def _class_names(classes: tuple[str | None, Path | None], options: RasterOptions) -> list[list[str]]:
    if options.preset is None or any(one is not None for one in classes):
        return class_names(*classes)
    from corrclip_jax.datasets.benchmarks import benchmarks

    return [list(names) for names in benchmarks()[options.preset.value].classes]
