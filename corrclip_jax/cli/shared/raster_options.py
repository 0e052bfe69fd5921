"""Options of `corrclip segment` for rasters, and what the presets of data sets stand for."""

import re
from enum import StrEnum
from typing import Annotated, NamedTuple

import typer

from corrclip_jax.cli.shared.console import UsageError


class VectorFormat(StrEnum):
    """Layers of polygons."""

    gpkg = "gpkg"
    geojson = "geojson"


class PresetName(StrEnum):
    """Data sets of aerial images."""

    loveda = "loveda"
    vaihingen = "vaihingen"
    potsdam = "potsdam"


class Preset(NamedTuple):
    """How a data set is segmented: metres a pixel, the size at which the networks see it, bands."""

    resolution: float
    zoom: float
    bands: str


PRESETS = {
    PresetName.loveda: Preset(0.3, 448 / 1024, "1,2,3"),
    PresetName.vaihingen: Preset(0.09, 448 / 512, "1,2,3"),
    PresetName.potsdam: Preset(0.05, 448 / 512, "1,2,3"),
}

StretchOption = Annotated[
    str | None,
    typer.Option(
        help="Rasters: percentiles of the values that become black and white, for the whole raster. "
        "[dim]\\[default: 8 bits stay, else 2,98][/]",
        metavar="LOW,HIGH",
        show_default=False,
    ),
]
ResolutionOption = Annotated[
    float | None,
    typer.Option(min=0.0001, help="Rasters: metres a pixel; resampled as it is read.", show_default=False),
]
TileOption = Annotated[
    int | None,
    typer.Option(min=64, help="Rasters: pixels along a tile. [dim]\\[default: 1024][/]", show_default=False),
]
ZoomOption = Annotated[
    float | None,
    typer.Option(
        min=0.05,
        max=4.0,
        help="Rasters: size at which the networks see them, as a factor. [dim]\\[default: 1][/]",
        show_default=False,
    ),
]
VectorOption = Annotated[
    VectorFormat | None,
    typer.Option(help="Rasters: also write polygons with class, probability and area.", show_default=False),
]
PresetOption = Annotated[
    PresetName | None,
    typer.Option(help="Rasters: classes, resolution, zoom and bands of a data set.", show_default=False),
]
AlphaOption = Annotated[
    bool | None,
    typer.Option(
        "--alpha/--no-alpha",
        help="Rasters: whether pixels have no data where the alpha band is 0. [dim]\\[default: if it holds 0 and "
        "opaque only][/]",
        show_default=False,
    ),
]


class RasterOptions(NamedTuple):
    """The options of rasters as they were given, None for those that were not."""

    stretch: str | None = None
    resolution: float | None = None
    tile: int | None = None
    zoom: float | None = None
    vector: VectorFormat | None = None
    preset: PresetName | None = None
    alpha: bool | None = None

    @property
    def given(self) -> list[str]:
        """The names of those that were given."""
        return [f"--{name}" for name, value in self._asdict().items() if value is not None]


def parse_stretch(text: str | None) -> tuple[float, float] | None:
    """The percentiles of "2,98".

    Raises:
      UsageError: if these are not two numbers from 0 to 100, the lower first.
    """
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    if len(parts) == 2 and all(re.fullmatch(r"\d+(\.\d+)?", part, re.ASCII) for part in parts):
        low, high = map(float, parts)
        if low < high <= 100:
            return low, high
    raise UsageError(f"--stretch must be two percentiles from 0 to 100, as in 2,98. Got {text!r}.")
