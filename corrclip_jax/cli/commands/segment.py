"""`corrclip segment`: label maps, overlays and descriptions from photos and class names."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from corrclip_jax.cli.shared.console import UsageError, complain, messages, results
from corrclip_jax.cli.shared.options import (
    SOURCES,
    ClassesFileOption,
    ClassesOption,
    ModelOption,
    OptionalDtypeOption,
    OutOption,
    PointsOption,
    RegionsOption,
    class_names,
    is_source,
    threshold_option,
)
from corrclip_jax.runtime.compilation_cache import keep_compiled_programs

if TYPE_CHECKING:
    from corrclip_jax.cli.runs.output_names import Job

HELP = "\n\n".join(
    [
        "Label every pixel of photos with one of the classes you name.",
        "For each photo a label map (PNG: 8 bits with a palette, 16 bits above 255 classes), an overlay with a "
        "legend (JPEG) and a description (JSON: classes and their shares, timings, model, versions) are written to "
        "the folder --out. A photo that cannot be read does not stop the others: it is listed at the end, and the "
        "exit code is 1.",
        "[bold]Examples[/]",
        '  corrclip segment photo.jpg --classes "cat, grass, sky; cloud"',
        "  corrclip segment holiday/ --classes-file classes.txt --out labelled",
        '  corrclip segment *.jpg -c "background, car, road" --background-threshold 0.3 --points 32',
        '  corrclip segment photos/ -c "tree, house" --regions my-region-maps/ --model vit-l',
    ]
)


def segment(
    photos: Annotated[
        list[Path],
        typer.Argument(help="Photos, or folders of photos.", metavar="PHOTO", show_default=False),
    ],
    classes: ClassesOption = None,
    classes_file: ClassesFileOption = None,
    model: ModelOption = "vit-b",
    out: OutOption = Path("segmented"),
    regions: RegionsOption = "sam2",
    points: PointsOption = None,
    background_threshold: Annotated[float | None, threshold_option("the model's, 0")] = None,
    dtype: OptionalDtypeOption = None,
) -> None:
    """Segment photos. Users see `HELP`."""
    source = regions if is_source(regions) else None
    region_maps = None if source is not None else Path(regions)
    if region_maps is not None and not region_maps.is_dir():
        raise UsageError(
            f"--regions must be one of {', '.join(SOURCES)}, or a folder of region maps. {regions!r} is no folder."
        )
    jobs = _prepare(photos, out)
    names = class_names(classes, classes_file)

    from corrclip_jax.cli.runs.segment import Work, describe, summary_table
    from corrclip_jax.cli.shared.progress import progress_bar
    from corrclip_jax.inference.segmenter import Segmenter
    from corrclip_jax.viz.palette import is_background

    if background_threshold and not is_background(names[0][0]):
        messages().print(
            f"[yellow]Note:[/] pixels below the threshold become the first class, {escape(repr(names[0][0]))}."
            " To keep them apart from it, make background the first class."
        )
    keep_compiled_programs()
    with progress_bar() as progress:
        task = progress.add_task(f"Loading {escape(model)}", total=None)
        start = time.perf_counter()
        segmenter = Segmenter(
            model,
            dtype=None if dtype is None else dtype.value,
            regions=source or "none",
            points=points,
            background_threshold=background_threshold,
        )
        loaded = time.perf_counter()
        progress.update(task, description=f"Encoding {len(names)} class names")
        segmenter.embed(names)
        timings = {"load": loaded - start, "text": time.perf_counter() - loaded}
        details = describe(segmenter, regions)
        work = Work(segmenter, names, out, region_maps, details, timings)
        progress.update(task, total=len(jobs))

        def on_start(job: "Job", compiles: bool) -> None:
            note = " (compiling for its size)" if compiles else ""
            progress.update(task, description=escape(f"{job.photo.name}{note}"))

        work.run(jobs, on_start=on_start, on_done=lambda: progress.advance(task))
    if work.done:
        results().print(summary_table(work.done))
    where = f" -> {escape(str(out))}" if work.done else ""
    messages().print(f"{len(work.done)} of {len(jobs)} photos segmented{where}", soft_wrap=True)
    for line in work.failed:
        complain(line)
    if work.exit_code:
        raise typer.Exit(work.exit_code)


def _prepare(photos: list[Path], out: Path) -> list["Job"]:
    """Check all that needs no JAX: the photos exist, and the results overwrite none of them."""
    from corrclip_jax.cli.runs.output_names import plan_jobs
    from corrclip_jax.io.files import check_writable
    from corrclip_jax.io.photos import find_photos

    if any(photo.is_dir() and photo.resolve() == out.resolve() for photo in photos):
        raise UsageError(
            f"{out} holds the photos; the next run would take the results in it for photos. Choose another "
            "folder with --out."
        )
    jobs = plan_jobs(find_photos(photos), out)
    check_writable(out)
    return jobs
