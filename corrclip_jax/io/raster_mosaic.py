"""Mosaics: rasters of one grid that touch or overlap as one raster, a GDAL VRT."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

from corrclip_jax.io.raster_pixels import bits_and_white, palette_of

_OFF_GRID = 0.01  # of a pixel


class Member(NamedTuple):
    """A raster that may be part of a mosaic, by what must agree.

    Attributes:
      path: the file.
      kind: CRS, number types, colours and values without data of the bands, how values become 8 bits, and the
        sides of a pixel.
      box: left, top, right and bottom edge in the grid of the first member, in pixels.
      masked: whether it has a mask.
    """

    path: Path
    kind: tuple[Any, ...]
    box: tuple[float, float, float, float]
    masked: bool


class _Place(NamedTuple):
    """A file in a mosaic, and its size and the place of its corner there, in pixels."""

    file: str
    left: int
    top: int
    width: int
    height: int


def groups(paths: Sequence[Path]) -> list[list[Path]]:
    """Rasters sorted into mosaics: those of one CRS, pixel size, grid, kind of bands, palette and nodata value that
    touch or overlap.

    Each other raster is a group of its own. A raster that cannot be opened is alone, too.
    """
    members = [_member(path) for path in paths]
    left, found = list(range(len(paths))), []
    while left:
        group, waiting = [], [left.pop(0)]
        while waiting:
            one = waiting.pop()
            group.append(one)
            near = [other for other in left if _belong(members[one], members[other])]
            waiting += near
            left = [other for other in left if other not in near]
        found.append([paths[index] for index in sorted(group)])
    return found


def mosaic(paths: Sequence[Path], alpha: int | None = None) -> str:
    """A VRT, as text, of rasters of one group; pixels with data of later ones lie upon those of earlier ones.

    Pixels without data are those of the files' nodata value (or not a number), else those outside of their masks.

    Args:
      paths: the files.
      alpha: the band that is the mask, counted from 1; None if an alpha band, if there is one, is none.
    """
    import rasterio

    members = [member for member in map(_member, paths) if member is not None]
    boxes = [member.box for member in members]
    left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
    width, height = (round(max(box[k] for box in boxes) - low) for k, low in ((2, left), (3, top)))
    with rasterio.open(paths[0]) as first:
        crs = "" if first.crs is None else escape(first.crs.to_wkt())
        transform = first.transform @ type(first.transform).translation(*_origin(first.transform, left, top))
        types, nodata, colours = first.dtypes, _nodata(first), palette_of(first)
        bits, white_is_zero = bits_and_white(first)
        interp = [each.name for each in first.colorinterp]
    places = [
        _Place(str(path.resolve()), round(box[0] - left), round(box[1] - top), *_size(box))
        for path, box in zip(paths, boxes, strict=True)
    ]
    inner = places if alpha is None else [_masked_by(place, types, alpha) for place in places]

    def sources(number: int) -> str:
        empty = 0 if number == alpha else nodata[number - 1]
        if empty is not None:
            return "".join(_source(place, str(number), f"<NODATA>{empty}</NODATA>") for place in places)
        masked = [alpha is not None or member.masked for member in members]
        return "".join(
            _source(place, str(number), "<UseMaskBand>true</UseMaskBand>" if its else "")
            for place, its in zip(inner, masked, strict=True)
        )

    bands = [
        f'<VRTRasterBand dataType="{_TYPES[name]}" band="{number}">'
        + ("" if bits is None else _tag("NBITS", bits))
        + f"<ColorInterp>{colour.capitalize()}</ColorInterp>"
        + ("" if empty is None else f"<NoDataValue>{empty}</NoDataValue>")
        + ("" if colours is None else _colour_table(colours))
        + f"{sources(number)}</VRTRasterBand>"
        for number, (name, empty, colour) in enumerate(zip(types, nodata, interp, strict=True), start=1)
    ]
    covered = "".join(
        _source(place, "mask,1", "<NODATA>0</NODATA>") if member.masked else _source(place, "1", _OPAQUE)
        for place, member in zip(places, members, strict=True)
    )
    # Not of nodata: GDAL would fill only a part of buffers that are wider than a file.
    mask = f'<MaskBand><VRTRasterBand dataType="Byte">{covered}</VRTRasterBand></MaskBand>'
    geo = ",".join(map(repr, transform.to_gdal()))
    return (
        f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}"><SRS>{crs}</SRS>'
        f"<GeoTransform>{geo}</GeoTransform>{_tag('MINISWHITE', 'YES') if white_is_zero else ''}"
        f"{''.join(bands)}{mask if nodata[0] is None else ''}</VRTDataset>"
    )


_TYPES = {
    "uint8": "Byte", "int8": "Int8", "uint16": "UInt16", "int16": "Int16", "uint32": "UInt32", "int32": "Int32",
    "float32": "Float32", "float64": "Float64",
}  # fmt: skip


_OPAQUE = "<ScaleOffset>255</ScaleOffset><ScaleRatio>0</ScaleRatio>"  # where the file is, whatever it holds


def _source(place: _Place, band: str, more: str = "") -> str:
    kind = "ComplexSource" if more else "SimpleSource"
    size = f'xSize="{place.width}" ySize="{place.height}"'
    return (
        f'<{kind}><SourceFilename relativeToVRT="0">{escape(place.file)}</SourceFilename>'
        f'<SourceBand>{band}</SourceBand><SrcRect xOff="0" yOff="0" {size}/>'
        f'<DstRect xOff="{place.left}" yOff="{place.top}" {size}/>{more}</{kind}>'
    )


def _masked_by(place: _Place, types: Sequence[str], alpha: int) -> _Place:
    """The file as a VRT whose mask is its band `alpha`, which GDAL takes for one only in files of four bands."""
    here = place._replace(left=0, top=0)
    bands = "".join(
        f'<VRTRasterBand dataType="{_TYPES[name]}" band="{number}">{_source(here, str(number))}</VRTRasterBand>'
        for number, name in enumerate(types, start=1)
    )
    mask = f'<MaskBand><VRTRasterBand dataType="Byte">{_source(here, str(alpha))}</VRTRasterBand></MaskBand>'
    text = f'<VRTDataset rasterXSize="{place.width}" rasterYSize="{place.height}">{bands}{mask}</VRTDataset>'
    return place._replace(file=text)


def _tag(key: str, value: object) -> str:
    return f'<Metadata domain="IMAGE_STRUCTURE"><MDI key="{key}">{value}</MDI></Metadata>'


def _colour_table(colours: Mapping[int, tuple[int, ...]]) -> str:
    entries = (
        "<Entry " + " ".join(f'c{k}="{value}"' for k, value in enumerate(colours[index], start=1)) + "/>"
        for index in sorted(colours)
    )
    return f"<ColorTable>{''.join(entries)}</ColorTable>"


def _nodata(opened: Any) -> tuple[float | None, ...]:
    """The values of the bands that stand for no data, which for floats may be not a number; None under a mask."""
    from rasterio.enums import MaskFlags

    if MaskFlags.per_dataset in opened.mask_flag_enums[0]:
        return (None,) * opened.count
    return tuple(
        math.nan if value is None and name.startswith("float") else value
        for value, name in zip(opened.nodatavals, opened.dtypes, strict=True)
    )


def _member(path: Path) -> Member | None:
    import rasterio
    from rasterio.enums import MaskFlags

    try:
        with rasterio.open(path) as opened:
            transform = opened.transform
            linear = transform.a, transform.b, transform.d, transform.e
            if transform.is_degenerate or (opened.crs is None and transform.is_identity):
                return None
            nodata, palette = _nodata(opened), palette_of(opened)
            if any(name not in _TYPES for name in opened.dtypes) or len({one is None for one in nodata}) > 1:
                return None
            # Text, since "nan" equals itself, and is compared fast.
            more = repr((nodata, palette, bits_and_white(opened)))
            sides = tuple(round(one, 9) for one in linear)
            kind = (opened.crs, tuple(opened.colorinterp), opened.dtypes, sides, more)
            turned = type(transform)(transform.a, transform.b, 0, transform.d, transform.e, 0)
            left, top = ~turned @ (transform.c, transform.f)
            box = (left, top, left + opened.width, top + opened.height)
            flags = opened.mask_flag_enums[0]
            return Member(path, kind, box, MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags)
    except (rasterio.errors.RasterioError, ValueError, ArithmeticError):  # said where the raster is opened
        return None


def _belong(one: Member | None, other: Member | None) -> bool:
    if one is None or other is None or one.kind != other.kind:
        return False
    shifts = [abs(a - b - round(a - b)) for a, b in zip(one.box[:2], other.box[:2], strict=True)]
    a, b = one.box, other.box
    touch = a[0] <= b[2] + 0.5 and b[0] <= a[2] + 0.5 and a[1] <= b[3] + 0.5 and b[1] <= a[3] + 0.5
    return touch and max(shifts) < _OFF_GRID


def _origin(transform: Any, left: float, top: float) -> tuple[float, float]:
    """From the corner of the first raster to that of the mosaic, in pixels."""
    turned = type(transform)(transform.a, transform.b, 0, transform.d, transform.e, 0)
    x, y = ~turned @ (transform.c, transform.f)
    return float(round(left - x)), float(round(top - y))


def _size(box: tuple[float, float, float, float]) -> tuple[int, int]:
    return round(box[2] - box[0]), round(box[3] - box[1])
