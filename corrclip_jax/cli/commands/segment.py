"""`corrclip segment`: photos and class names to label maps, overlays and their description."""

import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

from corrclip_jax.cli.shared.console import UsageError, complain, messages, results
from corrclip_jax.config import RegionSource
from corrclip_jax.runtime.compilation_cache import keep_compiled_programs

if TYPE_CHECKING:
    from corrclip_jax.cli.runs.output_names import Job
    from corrclip_jax.inference.segmenter import Segmenter

SOURCES: tuple[RegionSource, ...] = get_args(RegionSource)
HELP = "\n\n".join(
    [
        "Label every pixel of photos with one of the classes you name.",
        "For each photo a label map (PNG: 8 bits with a palette, 16 bits above 255 classes), an overlay with a "
        "legend (JPEG) and a description (JSON: classes and their shares, timings, model, versions) are written to "
        "the folder --out. A photo that cannot be read does not stop the others: it is named at the end, and the "
        "exit code is 1.",
        "[bold]Examples[/]",
        '  corrclip segment photo.jpg --classes "cat, grass, sky; cloud"',
        "  corrclip segment holiday/ --classes-file classes.txt --out labelled",
        '  corrclip segment *.jpg -c "background, car, road" --background-threshold 0.3 --points 32',
        '  corrclip segment photos/ -c "tree, house" --regions my-region-maps/ --model vit-l',
    ]
)


class Precision(StrEnum):
    """The towers' compute type."""

    float32 = "float32"
    bfloat16 = "bfloat16"


def segment(
    photos: Annotated[
        list[Path],
        typer.Argument(help="Photos, or folders of photos.", metavar="PHOTO", show_default=False),
    ],
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes",
            "-c",
            help='Classes: a comma separates them, a semicolon synonyms: "cat, sky; cloud".',
        ),
    ] = None,
    classes_file: Annotated[
        Path | None,
        typer.Option(
            help="Classes from a text file: a line each, a semicolon separates synonyms.", show_default=False
        ),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="vit-b, vit-l, vit-h, tiny (generated scenes only), or a folder with a model or its checkpoints.",
        ),
    ] = "vit-b",
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the results; made where there is none.")
    ] = Path("segmented"),
    regions: Annotated[
        str,
        typer.Option(
            help=f"Where regions come from: {', '.join(SOURCES)}, or a folder of files named for the "
            "photos' stems: .npz (array instance_mask), .png (index map) or .json (COCO RLE)."
        ),
    ] = "sam2",
    points: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="SAM's grid of n x n points: 8 is fast, 32 thorough. [dim]\\[default: the model's, 8][/]",
        ),
    ] = None,
    background_threshold: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Pixels less sure than this become the first class. [dim]\\[default: the model's, 0][/]",
        ),
    ] = None,
    dtype: Annotated[
        Precision | None,
        typer.Option(
            help="The networks' arithmetic; bfloat16 is for GPU and TPU. [dim]\\[default: the model's, float32][/]"
        ),
    ] = None,
) -> None:
    """Segment photos; people read `HELP`."""
    if (classes is None) == (classes_file is None):
        raise UsageError(
            'Name the classes: either --classes "cat, grass, sky; cloud", or --classes-file FILE.'
        )
    source = next((known for known in SOURCES if known == regions), None)
    region_maps = None if source is not None else Path(regions)
    if region_maps is not None and not region_maps.is_dir():
        raise UsageError(
            f"--regions is {', '.join(SOURCES)}, or a folder of region maps. {regions!r} is no folder."
        )
    jobs = _prepare(photos, out)

    from corrclip_jax.cli.runs.segment import Work, describe, summary_table
    from corrclip_jax.inference.segmenter import Segmenter
    from corrclip_jax.text.classes import parse_classes, read_classes
    from corrclip_jax.viz.palette import is_background

    names = read_classes(classes_file) if classes_file is not None else parse_classes(classes or "")
    if background_threshold and not is_background(names[0][0]):
        messages().print(
            f"[yellow]Note:[/] pixels below the threshold become the first class, {escape(repr(names[0][0]))}."
            " Put background first to tell them apart."
        )
    keep_compiled_programs()
    with _progress() as progress:
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
        progress.update(task, description=f"Reading {len(names)} class names")
        segmenter.embed(names)
        timings = {"load": loaded - start, "text": time.perf_counter() - loaded}
        details = describe(segmenter, regions, _origin(segmenter))
        work = Work(segmenter, names, out, region_maps, details, timings)
        progress.update(task, total=len(jobs))

        def announce(job: "Job", compiles: bool) -> None:
            note = " (compiling for sizes like its)" if compiles else ""
            progress.update(task, description=escape(f"{job.photo.name}{note}"))

        work.run(jobs, announce, lambda: progress.advance(task))
    if work.done:
        results().print(summary_table(work.done))
    place = f" -> {escape(str(out))}" if work.done else ""
    messages().print(f"{len(work.done)} of {len(jobs)} photos segmented{place}", soft_wrap=True)
    for line in work.failed:
        complain(line)
    if work.exit_code:
        raise typer.Exit(work.exit_code)


def _prepare(photos: list[Path], out: Path) -> list["Job"]:
    """What can be checked before JAX is there: the photos exist, the results have a place of their own."""
    from corrclip_jax.cli.runs.output_names import plan_jobs
    from corrclip_jax.io.files import check_writable
    from corrclip_jax.io.photos import find_photos

    if any(photo.is_dir() and photo.resolve() == out.resolve() for photo in photos):
        raise UsageError(
            f"{out} holds the photos; results in it would be taken for photos next time. Choose another."
        )
    jobs = plan_jobs(find_photos(photos), out)
    check_writable(out)
    return jobs


def _origin(segmenter: "Segmenter") -> dict[str, Any]:
    """Name of the model, and where its weights come from, as its folder says."""
    from corrclip_jax.params.model_folder import DESCRIPTION, read_description

    config = segmenter.config
    folder = Path(config.vocabulary or "").parent
    known = (folder / DESCRIPTION).is_file()
    return {"name": config.name, "sources": read_description(folder)["sources"] if known else {}}


def _progress() -> Progress:
    console = messages()
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
