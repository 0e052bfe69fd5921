"""Options that several commands share: their names, help and ranges, and what is read from them."""

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from corrclip_jax.cli.shared.console import UsageError
from corrclip_jax.config import RegionSource

SOURCES: tuple[RegionSource, ...] = get_args(RegionSource)


class Precision(StrEnum):
    """The networks' compute type."""

    float32 = "float32"
    bfloat16 = "bfloat16"


_DTYPE = "The networks' arithmetic; bfloat16 is for GPU and TPU."

ClassesOption = Annotated[
    str | None,
    typer.Option(
        "--classes",
        "-c",
        help='Classes: a comma separates them, a semicolon synonyms: "cat, sky; cloud".',
        show_default=False,
    ),
]
ClassesFileOption = Annotated[
    Path | None,
    typer.Option(
        help="Classes from a text file: a line each, a semicolon separates synonyms.", show_default=False
    ),
]
ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="tiny (generated scenes only), vit-b, vit-l, vit-h, or a folder with a model or its checkpoints.",
    ),
]
RegionsOption = Annotated[
    str,
    typer.Option(
        help=f"Where regions come from: {', '.join(SOURCES)}, or a folder of files named for the photos' stems: "
        ".npz (array instance_mask), .png (index map) or .json (COCO RLE)."
    ),
]
RegionSourceOption = Annotated[
    RegionSource | None,
    typer.Option(
        "--regions",
        help="Where regions come from. [dim]\\[default: the model's][/]",
        show_default=False,
    ),
]
PointsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="SAM's grid of n x n points: 8 is fast, 32 thorough. [dim]\\[default: the model's, 8][/]",
        show_default=False,
    ),
]
DtypeOption = Annotated[Precision, typer.Option(help=_DTYPE)]
OptionalDtypeOption = Annotated[
    Precision | None,
    typer.Option(help=f"{_DTYPE} [dim]\\[default: the model's, float32][/]", show_default=False),
]
SizeOption = Annotated[str, typer.Option(help="Width and height of the photos.")]
BatchOption = Annotated[int, typer.Option(min=1, help="Photos in a call.")]
OutOption = Annotated[
    Path, typer.Option("--out", "-o", help="Folder for the results; made where there is none.")
]


def threshold_option(default: str) -> Any:
    """The option --background-threshold, whose help names what is taken in its absence."""
    return typer.Option(
        min=0.0,
        max=1.0,
        help=f"Pixels less sure than this become the first class. [dim]\\[default: {default}][/]",
        show_default=False,
    )


def parse_size(text: str) -> tuple[int, int]:
    """Width and height of "500x375".

    Raises:
      UsageError: for anything else.
    """
    match = re.fullmatch(r"([1-9]\d*)\s*[xX]\s*([1-9]\d*)", text.strip())
    if match is None:
        raise UsageError(f"--size must be width x height in pixels, as in 500x375. Got {text!r}.")
    return int(match[1]), int(match[2])


def class_names(classes: str | None, classes_file: Path | None) -> list[list[str]]:
    """Names with synonyms, from --classes or --classes-file.

    Raises:
      UsageError: where neither or both are given.
      FileNotFoundError: where there is no such file.
      ValueError: for no classes, an empty name or one that is given twice.
    """
    from corrclip_jax.text.classes import parse_classes, read_classes

    if (classes is None) == (classes_file is None):
        raise UsageError(
            'Name the classes: either --classes "cat, grass, sky; cloud", or --classes-file FILE.'
        )
    return read_classes(classes_file) if classes_file is not None else parse_classes(classes or "")
