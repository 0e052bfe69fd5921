"""Mosaics: rasters of one grid that touch or overlap as one raster, a GDAL VRT."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.sax.saxutils import escape

_OFF_GRID = 0.01  # of a pixel


class Member(NamedTuple):
    """A raster that may be part of a mosaic, by what must agree.

    Attributes:
      path: the file.
      kind: CRS, number types and colours of the bands, and the sides of a pixel.
      box: left, top, right and bottom edge in the grid of the first member, in pixels.
    """

    path: Path
    kind: tuple[Any, ...]
    box: tuple[float, float, float, float]


def groups(paths: Sequence[Path]) -> list[list[Path]]:
    """Rasters sorted into mosaics: those of one CRS, pixel size, grid and kind of bands that touch or overlap.

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


def mosaic(paths: Sequence[Path]) -> str:
    """A VRT, as text, of rasters of one group; later ones lie upon earlier ones.

    Its mask is that of the files, and where they have an alpha band instead, what they cover.
    """
    import rasterio
    from rasterio.enums import MaskFlags

    members = [_member(path) for path in paths]
    boxes = [member.box for member in members if member is not None]
    left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
    width, height = (round(max(box[k] for box in boxes) - low) for k, low in ((2, left), (3, top)))
    with rasterio.open(paths[0]) as first:
        crs = "" if first.crs is None else escape(first.crs.to_wkt())
        transform = first.transform @ type(first.transform).translation(*_origin(first.transform, left, top))
        types, nodata = first.dtypes, first.nodatavals
        interp = [each.name for each in first.colorinterp]
        masked = MaskFlags.alpha not in first.mask_flag_enums[0]
    places = [
        (str(path.resolve()), round(box[0] - left), round(box[1] - top), *_size(box))
        for path, box in zip(paths, boxes, strict=True)
    ]
    bands = [
        f'<VRTRasterBand dataType="{_TYPES[name]}" band="{number}"><ColorInterp>{colour.capitalize()}</ColorInterp>'
        + ("" if empty is None else f"<NoDataValue>{empty}</NoDataValue>")
        + "".join(_source(place, str(number), empty) for place in places)
        + "</VRTRasterBand>"
        for number, (name, empty, colour) in enumerate(zip(types, nodata, interp, strict=True), start=1)
    ]
    covered = "".join(_source(place, "mask,1", None) if masked else _covered(place) for place in places)
    geo = ",".join(map(repr, transform.to_gdal()))
    return (
        f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}"><SRS>{crs}</SRS>'
        f"<GeoTransform>{geo}</GeoTransform>{''.join(bands)}"
        f'<MaskBand><VRTRasterBand dataType="Byte">{covered}</VRTRasterBand></MaskBand></VRTDataset>'
    )


_TYPES = {
    "uint8": "Byte", "int8": "Int8", "uint16": "UInt16", "int16": "Int16", "uint32": "UInt32", "int32": "Int32",
    "float32": "Float32", "float64": "Float64",
}  # fmt: skip


def _covered(place: tuple) -> str:
    """A source that is opaque wherever the file is, whatever it holds."""
    return _source(place, "1", None, "<ScaleOffset>255</ScaleOffset><ScaleRatio>0</ScaleRatio>")


def _source(place: tuple, band: str, nodata: float | None, more: str = "") -> str:
    path, left, top, width, height = place
    kind = "SimpleSource" if nodata is None and not more else "ComplexSource"
    empty = "" if nodata is None else f"<NODATA>{nodata}</NODATA>"
    return (
        f'<{kind}><SourceFilename relativeToVRT="0">{escape(path)}</SourceFilename><SourceBand>{band}</SourceBand>'
        f'<SrcRect xOff="0" yOff="0" xSize="{width}" ySize="{height}"/>'
        f'<DstRect xOff="{left}" yOff="{top}" xSize="{width}" ySize="{height}"/>{empty}{more}</{kind}>'
    )


def _member(path: Path) -> Member | None:
    import rasterio

    try:
        with rasterio.open(path) as opened:
            transform = opened.transform
            linear = transform.a, transform.b, transform.d, transform.e
            if opened.crs is None and transform.is_identity:
                return None
            colours = tuple(opened.colorinterp)
            kind = (opened.crs, colours, opened.dtypes, tuple(round(one, 9) for one in linear))
            if any(name not in _TYPES for name in opened.dtypes):
                return None
            turned = type(transform)(transform.a, transform.b, 0, transform.d, transform.e, 0)
            left, top = ~turned @ (transform.c, transform.f)
            return Member(path, kind, (left, top, left + opened.width, top + opened.height))
    except rasterio.errors.RasterioError:
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
