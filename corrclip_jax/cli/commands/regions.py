"""`corrclip regions`: write region maps of photos to files, to be reused by other commands."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape

from corrclip_jax.cli.shared.console import FAILED, UsageError, complain, messages, note, result_as_json
from corrclip_jax.cli.shared.interrupts import run_interruptibly
from corrclip_jax.cli.shared.options import (
    BandsOption,
    OutOption,
    PointsOption,
    RecursiveOption,
    RemakeOption,
    SetOption,
    model_option,
    parse_bands,
    regions_of,
    source_option,
)
from corrclip_jax.config import RegionSource, families, source_family
from corrclip_jax.runtime.compilation_cache import keep_compiled_programs

if TYPE_CHECKING:
    from corrclip_jax.cli.runs.regions import RegionWork

HELP = "\n\n".join(
    [
        "Find regions and write them to files, for [bold]--regions DIR[/] of other commands or for other uses.",
        "A file has the name of its photo and a suffix for the format. npz: the array instance_mask, as in the "
        "authors' implementation; png: an index map of 8 or 16 bits; rle: COCO RLE with areas, boxes and "
        "scores, as written by SAM's automatic mask generator (facebookresearch/segment-anything). Files that an "
        "earlier run made in the same way are kept, so an interrupted run can be resumed. A photo that cannot be "
        "read does not stop the others: it is listed at the end, and the exit code is 1. Files that this program "
        "did not write are replaced only with --overwrite.",
        "[bold]Examples[/]",
        "  corrclip regions photos/ --out maps/",
        "  corrclip regions photos/ --out maps/ --regions slic --segments 256 --format png",
        "  corrclip regions photo.jpg --out maps/ --model tiny --format rle --sheet",
    ]
)


Format = Literal["npz", "png", "rle"]
_SUFFIX: dict[Format, str] = {"npz": ".npz", "png": ".png", "rle": ".json"}
_SHEET, _MOST_IN_SHEET = "contact-sheet.jpg", 24


def regions(
    photos: Annotated[
        list[Path] | None,
        typer.Argument(help="Photos, or folders of photos.", metavar="PHOTO", show_default=False),
    ] = None,
    images: Annotated[
        list[Path] | None, typer.Option("--images", "-i", help="Older spelling of PHOTO.", hidden=True)
    ] = None,
    out: OutOption = Path("region-maps"),
    source: Annotated[
        RegionSource | None,
        source_option(
            "--regions",
            "--source",
            help="Source of regions; slic needs no weights. [dim]\\[default: the model's][/]",
            show_default=False,
        ),
    ] = None,
    format: Annotated[Format, typer.Option(help="Format of the files.")] = "npz",
    model: Annotated[
        str, model_option("The model whose network finds regions: a name or a folder.")
    ] = "vit-b",
    points: PointsOption = None,
    segments: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Largest number of superpixels of slic (scikit-image: n_segments). [dim]\\[default: 128][/]",
            show_default=False,
        ),
    ] = None,
    assignments: SetOption = None,
    sheet: Annotated[
        bool,
        typer.Option(
            "--sheet", help=f"Also draw the first {_MOST_IN_SHEET} photos with their regions: {_SHEET}."
        ),
    ] = False,
    recursive: RecursiveOption = False,
    bands: BandsOption = None,
    overwrite: RemakeOption = False,
) -> None:
    """Find regions. Users see `HELP`."""
    from corrclip_jax.cli.runs.output_names import Job
    from corrclip_jax.cli.runs.plan import plan_tasks
    from corrclip_jax.cli.shared.notes import collected_notes
    from corrclip_jax.cli.shared.progress import Progress
    from corrclip_jax.hub.model_marks import model_mark
    from corrclip_jax.io.files import check_writable
    from corrclip_jax.io.photo_files import survey_photos

    source = source or regions_of(model)
    if source == "none":
        raise UsageError("--regions none finds no regions. Choose another source.")
    if not (given := [*(photos or ()), *(images or ())]):
        raise UsageError("Name photos, or folders of photos.")
    chosen_bands = None if bands is None else parse_bands(bands)
    found = survey_photos(given, recursive=recursive, out=out)
    files, clashes = plan_files(found.photos, out, _SUFFIX[format])
    check_writable(out)
    if found.left_out:
        note(found.left_out)
    mark = None
    if source_family(source) in families("regions"):
        mark = run_interruptibly(lambda stop: model_mark(model, source, alone=True))
    made = {
        "source": source,
        "model": mark,
        "points": points,
        "segments": segments,
        "set": assignments or [],
        "bands": bands,
    }
    failed, work = [*found.problems, *clashes], None
    with Progress() as progress, collected_notes() as notes:
        progress.phase("Looking for what is done")
        jobs = [Job(photo, file.stem) for photo, file in files.items()]
        plan = plan_tasks(
            jobs,
            out,
            made,
            names=lambda job: [files[job.photo].name],
            bands=chosen_bands,
            overwrite=overwrite,
        )
        for line in plan.notes:
            note(line)
        failed += plan.failed
        try:
            if plan.tasks:
                work = _work(files, source, model, (points, segments, assignments or ()), overwrite)
                run_interruptibly(partial(work.run, plan.tasks, len(found.photos), progress))
        except BaseException as error:
            progress.stop()
            if isinstance(error, KeyboardInterrupt) or (work is not None and work.written):
                _report(work, files, len(found.photos), plan.done, out, failed)
            raise
    _report(work, files, len(found.photos), plan.done, out, failed)
    notes.show()
    if sheet:
        from corrclip_jax.cli.runs.regions import draw_contact_sheet
        from corrclip_jax.io.files import OutputError

        try:
            drawn = draw_contact_sheet(files, out / _SHEET, _MOST_IN_SHEET, overwrite=overwrite)
            messages().print(f"{drawn} of them in {escape(str(out / _SHEET))}", soft_wrap=True)
        except OutputError as error:
            failed.append(str(error))
            complain(error)
    if failed or (work is not None and work.failed):
        raise typer.Exit(FAILED)


def _work(
    files: dict[Path, Path],
    source: RegionSource,
    model: str,
    settings: tuple[int | None, int | None, Sequence[str]],
    overwrite: bool,
) -> "RegionWork":
    """What will find the regions; imports JAX. Settings are points, superpixels and those of --set."""
    from corrclip_jax.cli.runs.regions import RegionWork

    keep_compiled_programs()
    points, segments, assignments = settings
    changes: dict[str, Any] = {} if points is None else {"points_per_side": points}
    if segments is not None:
        changes["slic"] = {"segments": segments}
    return RegionWork(files, source, model, changes, assignments, overwrite)


def _report(
    work: "RegionWork | None", files: dict[Path, Path], total: int, before: int, out: Path, failed: list[str]
) -> None:
    """Print what was done and what was not."""
    written = [] if work is None else work.written
    earlier = f", {before} found before" if before else ""
    where = f" -> {escape(str(out))}" if written or before else ""
    messages().print(f"Regions of {len(written)} of {total} photos{earlier}{where}", soft_wrap=True)
    failed = [*failed, *([] if work is None else work.failed)]
    for line in failed:
        complain(line)
    photos = [{"photo": photo, "regions": files[photo]} for photo in written]
    result_as_json({"photos": photos, "done_before": before, "failed": failed, "out": out})


def plan_files(photos: list[Path], out: Path, suffix: str) -> tuple[dict[Path, Path], list[str]]:
    """The file for the regions of each photo, which has the photo's stem: other commands find it by that.

    Returns:
      The files by photo, and messages about photos of equal stems, which get no file: one would be taken for all.

    Raises:
      UsageError: if a file would replace a photo.
    """
    from corrclip_jax.io.region_maps import region_file_name

    same: dict[str, list[Path]] = {}
    originals = {photo.resolve() for photo in photos}
    for photo in photos:
        file = out / region_file_name(photo, suffix)
        if file.resolve() in originals:
            raise UsageError(
                f"{file} would replace a photo. Choose another folder with --out, or another --format."
            )
        same.setdefault(file.name.lower(), []).append(photo)
    files = {one[0]: out / region_file_name(one[0], suffix) for one in same.values() if len(one) == 1}
    clashes = [
        f"{' and '.join(map(str, several))} would both have their regions in {out / name}. Rename one, or use two "
        "folders."
        for name, several in same.items()
        if len(several) > 1
    ]
    return files, clashes
