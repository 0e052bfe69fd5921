"""The option `--format` for annotation formats."""

from enum import StrEnum
from typing import Any

import typer


class FormatName(StrEnum):
    """The names in `formats.table.FORMATS`, which is imported only when a format is written."""

    coco = "coco"
    coco_panoptic = "coco-panoptic"
    yolo = "yolo"
    labelme = "labelme"
    label_studio = "label-studio"
    cvat = "cvat"
    geojson = "geojson"
    png = "png"
    npz = "npz"


def format_option(help: str) -> Any:
    """The repeatable option --format."""
    return typer.Option("--format", "-f", help=help, show_default=False)
