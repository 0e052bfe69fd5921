"""`corrclip segment`: label maps, overlays and descriptions from photos and class names."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from corrclip_jax.cli.shared.console import (
    FAILED,
    UsageError,
    complain,
    messages,
    note,
    result_as_json,
    results,
)
from corrclip_jax.cli.shared.engine_options import (
    ActorsOption,
    AddressOption,
    DevicesOption,
    Engine,
    EngineOption,
    EngineOptions,
    RowLabelsOption,
    WriteOption,
)
from corrclip_jax.cli.shared.format_options import FormatName, format_option
from corrclip_jax.cli.shared.interrupts import run_interruptibly
from corrclip_jax.cli.shared.options import (
    AlsoOption,
    BandsOption,
    BankOption,
    ClassesFileOption,
    ClassesOption,
    ModelOption,
    OptionalDtypeOption,
    PointsOption,
    RecursiveOption,
    RegionsOption,
    RemakeOption,
    SetOption,
    bank_and_others,
    class_names,
    compute_type,
    parse_bands,
    regions_or_maps,
    threshold_option,
)
from corrclip_jax.cli.shared.raster_options import (
    AlphaOption,
    PresetOption,
    RasterOptions,
    ResolutionOption,
    StretchOption,
    TileOption,
    VectorOption,
    ZoomOption,
)
from corrclip_jax.cli.shared.video_options import (
    EveryOption,
    FromOption,
    LabelsOption,
    ToOption,
    TrackOption,
    VideoOptions,
)
from corrclip_jax.config import PROBABILITY_POINTS
from corrclip_jax.runtime.compilation_cache import keep_compiled_programs

if TYPE_CHECKING:
    from corrclip_jax.cli.runs.output_names import Job
    from corrclip_jax.cli.runs.segment import Work
    from corrclip_jax.cli.shared.notes import Notes
    from corrclip_jax.formats.export import Exported

HELP = "\n\n".join(
    [
        "Label every pixel of photos with one of the classes you name.",
        "For each photo a label map (PNG: 8 bits with a palette, 16 bits above 255 classes), an overlay with a "
        "legend (JPEG) and a description (JSON: classes and their shares, timings, model, versions) are written to "
        "the folder --out. Results that an earlier run made in the same way are kept, so an interrupted run can be "
        "resumed. A photo that cannot be read does not stop the others: it is listed at the end, and the exit code "
        "is 1. Files that this program did not write are replaced only with --overwrite.",
        "[bold]Examples[/]",
        '  corrclip segment photo.jpg --classes "cat, grass, sky; cloud"',
        "  corrclip segment holiday/ --recursive --classes-file classes.txt --out labelled",
        '  corrclip segment *.jpg -c "background, car, road" --background-threshold 0.3 --points 32',
        '  corrclip segment photos/ -c "tree, house" --regions my-region-maps/ --model vit-l',
        '  corrclip segment survey.tif -c "field, forest, road" --bands 4,3,2',
        '  corrclip segment scene.tif -c "field, forest, road" --resolution 0.5 --vector gpkg',
        '  corrclip segment clip.mp4 -c "car, road, sky" --from 0:10 --to 0:20 --track',
        '  corrclip segment s3://bucket/images -c "cat, grass" --engine ray --address auto --out s3://bucket/labels',
    ]
)


def segment(
    places: Annotated[
        list[str],
        typer.Argument(
            help="Photos, rasters or videos, or folders of them; with --engine ray also Parquet files, tars, lists "
            "of addresses (.txt), and addresses of such (s3://bucket/images).",
            metavar="PHOTO",
            show_default=False,
        ),
    ],
    classes: ClassesOption = None,
    classes_file: ClassesFileOption = None,
    model: ModelOption = "vit-b",
    folder: Annotated[
        str, typer.Option("--out", "-o", help="Folder for the results; created if missing.")
    ] = "segmented",
    regions: RegionsOption = None,
    points: PointsOption = None,
    background_threshold: Annotated[float | None, threshold_option("the model's, 0")] = None,
    bank: BankOption = None,
    also: AlsoOption = None,
    dtype: OptionalDtypeOption = None,
    assignments: SetOption = None,
    recursive: RecursiveOption = False,
    bands: BandsOption = None,
    formats: Annotated[
        list[FormatName] | None,
        format_option(
            "Also write annotations for other tools: coco, yolo, cvat ...; may be given several times. "
            "corrclip export-labels has more settings."
        ),
    ] = None,
    save_probabilities: Annotated[
        bool,
        typer.Option(
            "--save-probabilities",
            help="Also write .probabilities.npz: those of all classes, float16, classes x rows x columns.",
        ),
    ] = False,
    probability_points: Annotated[
        int, typer.Option(min=1, help="Their points along the longer side of a photo.")
    ] = PROBABILITY_POINTS,
    overwrite: RemakeOption = False,
    stretch: StretchOption = None,
    resolution: ResolutionOption = None,
    tile: TileOption = None,
    zoom: ZoomOption = None,
    vector: VectorOption = None,
    preset: PresetOption = None,
    alpha: AlphaOption = None,
    every: EveryOption = None,
    begin: FromOption = None,
    end: ToOption = None,
    labels: LabelsOption = None,
    track: TrackOption = False,
    engine: EngineOption = Engine.local,
    address: AddressOption = None,
    actors: ActorsOption = None,
    devices_per_actor: DevicesOption = None,
    write: WriteOption = None,
    row_labels: RowLabelsOption = None,
) -> None:
    """Segment photos. Users see `HELP`."""
    from corrclip_jax.cli.runs import raster_inputs, segment_rasters, segment_ray, segment_videos

    on_ray = EngineOptions(engine, address, actors, devices_per_actor, write, row_labels)
    segment_ray.check_inputs(places, folder, on_ray)
    photos, out = [Path(place) for place in places], Path(folder)
    options: dict[str, Any] = {
        "dtype": compute_type(dtype, "--engine ray" if on_ray.is_ray else ""),
        "points": points,
        "background_threshold": background_threshold,
        "assignments": assignments or [],
    }
    for_photos = {
        "--format": formats,
        "--save-probabilities": save_probabilities,
        "--probability-points": probability_points != PROBABILITY_POINTS,
    }
    not_banked = {**for_photos, "--bank": bank, "--also": also, "--engine ray": on_ray.is_ray}
    raster_options = RasterOptions(stretch, resolution, tile, zoom, vector, preset, alpha)
    video_options = VideoOptions(every, begin, end, labels, track)
    if videos := segment_videos.find_videos(photos, out, recursive, video_options):
        keep_compiled_programs()
        segment_videos.run(
            videos,
            out,
            video_options,
            (classes, classes_file),
            (model, regions, options),
            {**not_banked, "--bands": bands, **dict.fromkeys(raster_options.given, True)},
            overwrite,
        )
        return
    if rasters := raster_inputs.find_rasters(photos, out, recursive, raster_options):
        keep_compiled_programs()
        chosen = (model, regions, options)
        named = (classes, classes_file)
        segment_rasters.run(rasters, out, raster_options, named, chosen, bands, not_banked, overwrite)
        return
    bank_place, others = bank_and_others(bank, also)
    names = class_names(classes, classes_file)
    if on_ray.writes_rows:
        chosen = (model, regions, options)
        on_bank = (bank_place, others)
        segment_ray.run(
            places,
            folder,
            on_ray,
            names,
            chosen,
            bands,
            on_bank,
            for_photos,
            recursive=recursive,
            overwrite=overwrite,
        )
        return
    source, region_maps = regions_or_maps(model, regions)
    chosen_bands = None if bands is None else parse_bands(bands)
    jobs, problems, hints = _jobs(photos, out, recursive, save_probabilities)
    if formats:
        from corrclip_jax.cli.runs.export_labels import check_formats
        from corrclip_jax.formats.images import Options
        from corrclip_jax.formats.table import check_packages

        check_packages(formats, Options())
        if not overwrite:
            check_formats(formats, out, names, [job.photo for job in jobs])

    from corrclip_jax.cli.runs.plan import bank_mark, plan_tasks
    from corrclip_jax.cli.shared.notes import collected_notes
    from corrclip_jax.cli.shared.progress import Progress
    from corrclip_jax.hub.model_marks import clip_marks, model_mark
    from corrclip_jax.io.own_files import value_digest

    made = {
        "classes": value_digest(names),
        "model": run_interruptibly(lambda stop: model_mark(model, source)),
        "regions": source if region_maps is None else "given",
        "bands": bands,
        **{name.replace("_", " "): value for name, value in options.items()},
        **({} if bank_place is None else {"bank": bank_mark(bank_place), "also": clip_marks(others)}),
        **({} if probability_points == PROBABILITY_POINTS else {"probability points": probability_points}),
    }
    options["probability_points"] = probability_points
    if bank_place is not None:
        options |= {"bank": str(bank_place), "others": others}
    with Progress() as progress, collected_notes() as notes:
        progress.phase("Looking for what is done")
        plan = plan_tasks(jobs, out, made, region_maps=region_maps, bands=chosen_bands, overwrite=overwrite)
        hints += plan.notes
        work: Work | None = None
        try:
            if plan.tasks:
                work = _work(names, out, notes, overwrite, (model, regions or source, options), hints)
                run = partial(segment_ray.run_files, on_ray, work) if on_ray.is_ray else work.run
                run_interruptibly(partial(run, plan.tasks, len(jobs), progress))
        except BaseException as error:
            progress.stop()
            if isinstance(error, KeyboardInterrupt) or (work is not None and work.outcomes):
                _report(work, len(jobs), plan.done, out, [*problems, *plan.failed])
            raise
    for hint in hints if work is None else ():
        note(hint)
    exported = None
    if formats:
        from corrclip_jax.cli.runs.export_labels import export

        labelled = [*plan.kept, *(() if work is None else work.labelled(plan.tasks))]
        files = [out / job.names[-1] for job in labelled]
        if files:
            exported = export(files, formats, out, Options(), overwrite=overwrite, checked=True)
    _report(work, len(jobs), plan.done, out, [*problems, *plan.failed], exported)
    notes.show()
    if problems or plan.failed or (work is not None and work.failed) or (exported and exported.failed):
        raise typer.Exit(FAILED)


def _work(
    names: list[list[str]],
    out: Path,
    notes: "Notes",
    overwrite: bool,
    model: tuple[str, str, dict[str, Any]],
    hints: list[str],
) -> "Work":
    """What will label the photos; imports JAX."""
    from corrclip_jax.cli.runs.hints import segment_hints
    from corrclip_jax.cli.runs.segment import Work

    keep_compiled_programs()
    hints += segment_hints(names, model[2]["background_threshold"], model[0])
    return Work(names, out, *model, notes=notes, hints=hints, overwrite=overwrite)


def _jobs(
    photos: list[Path], out: Path, recursive: bool, probabilities: bool
) -> tuple[list["Job"], list[str], list[str]]:
    """What to do, what cannot be found, and what is left out; checks all that needs no JAX."""
    from corrclip_jax.cli.runs.output_names import plan_jobs
    from corrclip_jax.io.files import check_writable
    from corrclip_jax.io.photo_files import survey_photos

    if any(photo.is_dir() and photo.resolve() == out.resolve() for photo in photos):
        raise UsageError(
            f"{out} holds the photos; the next run would take the results in it for photos. Choose another "
            "folder with --out."
        )
    found = survey_photos(photos, recursive=recursive, out=out)
    jobs = plan_jobs(found.photos, out, probabilities=probabilities)
    check_writable(out)
    return jobs, found.problems, [found.left_out] if found.left_out else []


def _report(
    work: "Work | None",
    total: int,
    before: int,
    out: Path,
    failed: list[str],
    exported: "Exported | None" = None,
) -> None:
    """Print what was done and what was not."""
    done = [] if work is None else work.done
    if done:
        from corrclip_jax.cli.runs.segment import summary_table

        results().print(summary_table(done))
    where = f" -> {escape(str(out))}" if done or before else ""
    earlier = f", {before} done before" if before else ""
    messages().print(f"{len(done)} of {total} photos segmented{earlier}{where}", soft_wrap=True)
    failed = [*failed, *([] if work is None else work.failed)]
    for line in failed:
        complain(line)
    content = {"photos": [one._asdict() for one in done], "done_before": before, "out": str(out)}
    if exported is not None:
        from corrclip_jax.cli.runs.export_labels import report

        report(exported)
        failed = [*failed, *exported.failed]
        content["formats"] = {name: str(folder) for name, folder in exported.folders.items()}
    result_as_json({**content, "failed": failed})
