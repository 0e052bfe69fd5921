"""Raster files: which images are georeferenced or too large for a photo, known from their headers alone.

No package of the extra `geo` is needed to tell.
"""

import os
from importlib.util import find_spec
from pathlib import Path

from PIL import Image

from corrclip_jax.io.photos import MAX_PIXELS
from corrclip_jax.runtime.extras import require

RASTER_SUFFIXES = frozenset({".vrt", ".img"})
"""Suffixes of files that are always rasters."""

_TIFF = frozenset({".tif", ".tiff"})
_JP2 = frozenset({".jp2", ".j2k", ".jpx"})
# Of ModelPixelScale (33550) and ModelTransformation (34264) in a TIFF that has no position; 34735 holds the CRS.
_NO_SCALE = (1.0, 1.0)
_NO_TURN = (1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
# GeoJP2's box, and GML in JPEG 2000.
_GEO_BOXES = (b"\xb1\x4b\xf8\xbd\x08\x3d\x4b\x43\xa5\xae\x8c\xd7\xd5\xa6\xce\x03", b"gml.root-instance")
_HEADER_BYTES = 1 << 16
_GEO = ("rasterio", "pyogrio", "shapely")


def require_geo(purpose: str) -> None:
    """Check that the packages of the extra `geo` are installed.

    Args:
      purpose: what needs them, a plural, for the message.

    Raises:
      MissingExtraError: if they are not.
    """
    require(_GEO, purpose, "geo")


def has_geo() -> bool:
    """Whether the packages of the extra `geo` are installed."""
    return all(find_spec(name) is not None for name in _GEO)


def is_raster(path: str | os.PathLike) -> bool:
    """Whether an image file is a raster: georeferenced, or of more than `MAX_PIXELS` pixels.

    Georeferenced are VRTs, TIFFs and JPEG 2000 files that hold a position, and images with a world file
    beside them. A file that cannot be opened is not one.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix in RASTER_SUFFIXES or _has_world_file(path):
        return True
    try:
        if suffix in _JP2 and _has_geo_box(path):
            return True
        return _tags_say_so(path) if suffix in _TIFF else _is_large(path)
    except Exception:  # whatever damage makes the readers raise is found out where the pixels are read
        return False


def only_with_geo(path: str | os.PathLike) -> bool:
    """Whether a raster cannot be read as a photo either: a VRT, or more than `MAX_PIXELS` pixels."""
    if Path(path).suffix.lower() in RASTER_SUFFIXES:
        return True
    try:
        return _is_large(Path(path))
    except Exception:  # as above
        return False


def rasters_only(folder: Path, recursive: bool) -> list[Path]:
    """The files of a folder whose suffix no photo has, sorted by name, hidden ones excepted."""
    files = sorted(folder.rglob("*") if recursive else folder.iterdir())
    return [
        file
        for file in files
        if file.suffix.lower() in RASTER_SUFFIXES and file.is_file() and not file.name.startswith(".")
    ]


def _has_world_file(path: Path) -> bool:
    suffix = path.suffix
    if len(suffix) < 3:
        return False
    names = {f"{suffix[0]}{suffix[1]}{suffix[-1]}w", f"{suffix}w", ".wld"}
    # A name that is too long for the disk is that of no file, where `Path.is_file` raises.
    return any(os.path.isfile(path.with_suffix(name)) for name in names)  # noqa: PTH113


def _has_geo_box(path: Path) -> bool:
    with path.open("rb") as file:
        header = file.read(_HEADER_BYTES)
    return any(box in header for box in _GEO_BOXES)


def _tags_say_so(path: Path) -> bool:
    import tifffile

    with path.open("rb") as file, tifffile.TiffFile(file) as opened:
        page = opened.pages.first
        if page.imagewidth * page.imagelength > MAX_PIXELS or 34735 in page.tags:
            return True
        scale = page.tags.get(33550)
        turn = page.tags.get(34264)
        return tuple(scale.value[:2] if scale else _NO_SCALE) != _NO_SCALE or (
            turn is not None and tuple(turn.value) != _NO_TURN
        )


def _is_large(path: Path) -> bool:
    if path.suffix.lower() in _TIFF:
        import tifffile

        with path.open("rb") as file, tifffile.TiffFile(file) as opened:
            page = opened.pages.first
            return page.imagewidth * page.imagelength > MAX_PIXELS
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(path) as image:
            return image.width * image.height > MAX_PIXELS
    finally:
        Image.MAX_IMAGE_PIXELS = limit
