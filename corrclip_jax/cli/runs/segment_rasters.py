"""The work of `corrclip segment` on rasters: which inputs are rasters, and each one segmented."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import Any

import typer
from rich.markup import escape

from corrclip_jax.cli.runs.output_names import plan_jobs
from corrclip_jax.cli.runs.plan import model_mark
from corrclip_jax.cli.shared.console import (
    FAILED,
    UsageError,
    complain,
    messages,
    note,
    result_as_json,
)
from corrclip_jax.cli.shared.interrupts import run_interruptibly
from corrclip_jax.cli.shared.options import class_names, is_source, parse_bands, regions_of
from corrclip_jax.cli.shared.progress import Progress
from corrclip_jax.cli.shared.raster_options import PRESETS, RasterOptions, parse_stretch
from corrclip_jax.io.files import OutputError, check_writable
from corrclip_jax.io.photo_files import SUFFIXES, survey_photos
from corrclip_jax.io.raster_files import has_geo, is_raster, only_with_geo, rasters_only, require_geo


def find_rasters(
    photos: Sequence[Path], out: Path, recursive: bool, options: RasterOptions
) -> list[list[Path]]:
    """The rasters among the inputs, each with the files that are one mosaic; empty if all are photos.

    Raises:
      UsageError: for rasters and photos together, and options of rasters without any.
      MissingExtraError: for rasters, or options of rasters, without the extra `geo`.
    """
    if options.given:
        require_geo(f"{' and '.join(options.given)}, as all options of rasters,")
    found: list[list[Path]] = []
    others: list[Path] = []
    for path in photos:
        if path.is_dir():
            inside: list[Path] = []
            for file in [*rasters_only(path, recursive), *_photos_in(path, out, recursive)]:
                (inside if is_raster(file) else others).append(file)
            found += _mosaics(inside) if inside and has_geo() else [[file] for file in inside]
        elif path.is_file() and (is_raster(path) or (options.given and path.suffix.lower() in SUFFIXES)):
            found.append([path])
        else:
            others.append(path)
    if not found:
        if options.given:
            raise UsageError(
                f"{', '.join(options.given)} is for rasters, and there are none among the inputs."
            )
        return []
    if not has_geo():
        return _without_geo([path for group in found for path in group])
    if others:
        raise UsageError(
            f"{found[0][0]} is a raster, and {others[0]} is none ({sum(map(len, found))} and {len(others)} files). "
            "Segment rasters and other files in two runs."
        )
    return found


def _photos_in(folder: Path, out: Path, recursive: bool) -> list[Path]:
    from corrclip_jax.io.photos import PhotoError

    try:
        return survey_photos([folder], recursive=recursive, out=out).photos
    except PhotoError:
        return []


def _mosaics(paths: list[Path]) -> list[list[Path]]:
    from corrclip_jax.io.raster_mosaic import groups
    from corrclip_jax.io.rasters import gdal

    with gdal():
        return groups(paths)


def _without_geo(paths: Sequence[Path]) -> list[list[Path]]:
    """No rasters, with a note that they are read as photos; an error for those that cannot be."""
    if any(map(only_with_geo, paths)):
        require_geo("rasters of more than 100 megapixels, and VRTs,")
    note(
        f"{paths[0]} is georeferenced and read as a photo: pip install 'corrclip-jax[geo]' keeps the position and "
        "reads rasters of any size."
    )
    return []


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
    preset = None if options.preset is None else PRESETS[options.preset]
    names = _class_names(classes, options)
    regions = model[1] or regions_of(model[0])
    if not is_source(regions):
        raise UsageError(f"--regions of rasters must be a source of regions, as slic. Got {regions!r}.")
    bands = bands or (preset.bands if preset else None)
    settings: dict[str, Any] = {
        "bands": None if bands is None else parse_bands(bands),
        "stretch": parse_stretch(options.stretch),
        "resolution": options.resolution or (preset.resolution if preset else None),
        "alpha": options.alpha,
    }
    if any(len(group) == 1 and group[0].resolve().parent == out.resolve() for group in groups):
        raise UsageError(f"{out} holds the raster. Choose another folder with --out.")
    jobs = plan_jobs([group[0] for group in groups], out)
    check_writable(out)
    done: list[dict[str, Any]] = []
    failed: list[str] = []

    def work(stop: Event) -> None:
        from corrclip_jax.inference.raster_results import raster_names
        from corrclip_jax.inference.raster_tiles import Stopped, Tiling
        from corrclip_jax.inference.rasters import segment_raster
        from corrclip_jax.inference.segmenter import Segmenter
        from corrclip_jax.io.rasters import Raster, RasterError

        progress.phase(f"Loading {model[0]}")
        segmenter = Segmenter(model[0], regions=regions, **model[2])
        tiling = Tiling(options.tile or 1024, options.zoom or (preset.zoom if preset else 1.0))
        vector = None if options.vector is None else options.vector.value
        for group, job in zip(groups, jobs, strict=True):
            shown: dict[str, Any] = {}

            def step(name: str, at: int, total: int, shown: dict[str, Any] = shown, job: Any = job) -> None:
                if shown.get("phase") != name:
                    shown["phase"], shown["at"] = name, at
                    progress.phase(f"{job.photo.name}: {name}", total=total, done=at)
                progress.advance(at - shown["at"])
                shown["at"] = at

            try:
                raster = Raster(group, **settings)
                result = segment_raster(
                    segmenter,
                    raster,
                    names,
                    out,
                    stem=job.stem,
                    tiling=tiling,
                    vector=vector,
                    made={"model": model_mark(model[0])},
                    overwrite=overwrite,
                    on_step=step,
                    stop=stop.is_set,
                )
            except Stopped:
                return
            except (RasterError, OutputError) as error:
                failed.append(str(error))
                continue
            for text in raster.notes:
                note(f"{raster} {text}")
            done.append(
                {
                    "raster": str(raster),
                    "files": [str(out / name) for name in raster_names(job.stem, vector)],
                    "pixels": result.pixels,
                    "nodata": result.nodata,
                    "tiles": result.tiles,
                    "done_before": result.before,
                }
            )

    with Progress() as progress:
        try:
            run_interruptibly(work)
        except KeyboardInterrupt:
            progress.stop()
            messages().print(
                f"The tiles that are done are kept in {escape(str(out))}: the same command continues."
            )
            raise
    where = f" -> {escape(str(out))}" if done else ""
    messages().print(f"{len(done)} of {len(groups)} rasters segmented{where}", soft_wrap=True)
    for line in failed:
        complain(line)
    result_as_json({"rasters": done, "out": str(out), "failed": failed})
    if failed:
        raise typer.Exit(FAILED)


def _class_names(classes: tuple[str | None, Path | None], options: RasterOptions) -> list[list[str]]:
    if options.preset is None or any(one is not None for one in classes):
        return class_names(*classes)
    from corrclip_jax.datasets.benchmarks import benchmarks

    return [list(names) for names in benchmarks()[options.preset.value].classes]
