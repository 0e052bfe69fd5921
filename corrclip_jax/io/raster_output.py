"""Raster output: label rasters as cloud-optimised GeoTIFFs with colours and class names."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np

from corrclip_jax.io.rasters import Raster, gdal
from corrclip_jax.viz.palette import class_colours

_BLOCK = 128  # divides where tiles meet, so no block is compressed twice
_COG_BLOCK = 512
CERTAIN = 65535
"""The value of probability 1 in a raster of probabilities."""


def nodata_of(classes: int) -> int:
    """The value of pixels without data in a label raster of that many classes."""
    return 255 if classes <= 255 else 65535


@contextmanager
def new_raster(path: Path, like: Raster, dtype: str, nodata: int | None = None) -> Iterator[Any]:
    """A tiled GeoTIFF of one band on the grid of a raster, opened for writing."""
    import rasterio

    shape = {"height": like.height, "width": like.width, "count": 1, "dtype": dtype, "nodata": nodata}
    place = {"crs": like.crs} | ({} if like.transform.is_identity else {"transform": like.transform})
    layout = {"tiled": True, "blockxsize": _BLOCK, "blockysize": _BLOCK, "BIGTIFF": "IF_SAFER"}
    with (
        gdal(),
        rasterio.open(
            path, "w", driver="GTiff", compress="deflate", zlevel=1, **shape, **place, **layout
        ) as opened,
    ):
        yield opened


@contextmanager
def new_labels(path: Path, like: Raster, names: Sequence[str]) -> Iterator[Any]:
    """A raster of labels on the grid of another, with the classes' colours and names, opened for writing."""
    empty = nodata_of(len(names))
    with new_raster(path, like, "uint8" if empty == 255 else "uint16", empty) as opened:
        if len(names) <= 255:
            colours = class_colours(names).tolist()
            opened.write_colormap(1, {k: (*colour, 255) for k, colour in enumerate(colours)})
        opened.update_tags(1, **{f"CLASS_{k}": name for k, name in enumerate(names)})
        opened.set_band_description(1, "class")
        yield opened


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A raster that was written here, for reading."""
    import rasterio

    with gdal(), rasterio.open(path) as found:
        yield found


def to_cog(source: Path, path: Path) -> None:
    """Copy a GeoTIFF to a cloud-optimised one with overviews."""
    from rasterio.shutil import copy

    with gdal():
        copy(
            source,
            path,
            driver="COG",
            COMPRESS="DEFLATE",
            BLOCKSIZE=_COG_BLOCK,
            RESAMPLING="NEAREST",
            BIGTIFF="IF_SAFER",
        )


def category_names(names: Sequence[str]) -> bytes:
    """The content of <raster>.aux.xml with which GDAL gives a raster's values their names."""
    listed = "".join(f"<Category>{escape(name)}</Category>" for name in names)
    return (
        f'<PAMDataset><PAMRasterBand band="1"><CategoryNames>{listed}</CategoryNames></PAMRasterBand>'
        "</PAMDataset>\n"
    ).encode()


def qgis_style(names: Sequence[str]) -> bytes:
    """The content of <raster>.qml with which QGIS shows class names and colours."""
    colours = class_colours(names).tolist()
    entries = "".join(
        f'<paletteEntry value="{k}" color="#{red:02x}{green:02x}{blue:02x}" alpha="255" label={quoteattr(name)}/>'
        for k, (name, (red, green, blue)) in enumerate(zip(names, colours, strict=True))
    )
    return (
        '<qgis><pipe><rasterrenderer type="paletted" band="1" opacity="1" alphaBand="-1"><colorPalette>'
        f"{entries}</colorPalette></rasterrenderer></pipe></qgis>\n"
    ).encode()


def with_nodata(labels: np.ndarray, valid: np.ndarray, classes: int) -> np.ndarray:
    """Labels in the number type of their raster, its nodata value where there is no data."""
    empty = nodata_of(classes)
    return np.where(valid, labels, empty).astype(np.uint8 if empty == 255 else np.uint16)
