"""`corrclip export-labels`: annotations for other tools from what `corrclip segment` wrote."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from corrclip_jax.cli.shared.console import FAILED, UsageError
from corrclip_jax.cli.shared.format_options import FormatName, format_option
from corrclip_jax.cli.shared.options import RemakeOption

HELP = "\n\n".join(
    [
        "Write annotations for other tools from the results of [bold]corrclip segment[/]; nothing is made again.",
        "Each format gets a folder with its name: coco, coco-panoptic, yolo, labelme, label-studio, cvat, geojson, "
        "png, npz. All results in the folder must have the same classes. A class called background is left out of "
        "polygons and masks unless --background is given. Files that are up to date are kept; a result that cannot "
        "be read is listed at the end, and the exit code is 1.",
        "[bold]Examples[/]",
        "  corrclip export-labels segmented/ --format coco --format yolo",
        "  corrclip export-labels segmented/ --format label-studio --shapes masks --out pre-labels/",
        "  corrclip export-labels segmented/ --format cvat --segments piece --tolerance 2 --min-area 50",
    ]
)


def export_labels(
    results: Annotated[
        Path,
        typer.Argument(help="Folder that corrclip segment wrote.", metavar="RESULTS", show_default=False),
    ],
    formats: Annotated[list[FormatName], format_option("Format to write; may be given several times.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder for the formats. [dim]\\[default: RESULTS][/]", show_default=False
        ),
    ] = None,
    segments: Annotated[
        Literal["region", "piece", "class"],
        typer.Option(
            help="One annotation for each region, each connected piece of a class, or each class of an image."
        ),
    ] = "region",
    shapes: Annotated[
        Literal["polygons", "masks"],
        typer.Option(help="Polygons, or run-length encoded masks (coco, label-studio, cvat)."),
    ] = "polygons",
    tolerance: Annotated[
        float,
        typer.Option(
            min=0, help="Pixels by which a polygon may be simplified; 0 keeps every corner of a pixel."
        ),
    ] = 1.0,
    min_area: Annotated[int, typer.Option(min=0, help="Leave out smaller segments, in pixels.")] = 0,
    background: Annotated[
        bool, typer.Option("--background", help="Annotate a class called background, too.")
    ] = False,
    raw: Annotated[bool, typer.Option("--raw", help="png: grey values without a palette.")] = False,
    image_prefix: Annotated[
        str | None,
        typer.Option(
            help="label-studio: what the addresses of images begin with. "
            "[dim]\\[default: /data/local-files/?d=FOLDER/, the folder that all photos share][/]",
            show_default=False,
        ),
    ] = None,
    overwrite: RemakeOption = False,
) -> None:
    """Write annotations. Users see `HELP`."""
    from corrclip_jax.cli.runs.export_labels import export_and_report
    from corrclip_jax.formats.images import Options
    from corrclip_jax.formats.results import find_descriptions
    from corrclip_jax.io.files import check_writable

    if not results.is_dir():
        raise UsageError(f"{results} is no folder. Give the folder that corrclip segment wrote (--out).")
    descriptions = find_descriptions(results)
    if not descriptions:
        raise UsageError(
            f"{results} holds no results of corrclip segment: a label map (.png) and a description (.json) for "
            "each photo."
        )
    options = Options(segments, shapes, tolerance, min_area, background, raw, image_prefix)
    check_writable(out or results)
    failed = export_and_report(descriptions, formats, out or results, options, overwrite=overwrite)
    if failed:
        raise typer.Exit(FAILED)
