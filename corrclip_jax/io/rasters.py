"""Rasters: georeferenced or huge images, read in windows as RGB of 8 bits with one stretch for the whole."""

import math
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from corrclip_jax.io.bands import BandError, Stretch, check_bands, dark_note, stretch_of
from corrclip_jax.io.raster_files import require_geo
from corrclip_jax.io.raster_mosaic import mosaic
from corrclip_jax.io.raster_pixels import (
    RasterPixels,
    alpha_band,
    bits_and_white,
    looks_like_a_mask,
    palette_of,
)

_CACHE_MB = 256
_RGB = ("red", "green", "blue")


class RasterError(ValueError):
    """A raster that cannot be read or that lacks what an option needs; the message says which."""


@contextmanager
def gdal() -> Iterator[None]:
    """GDAL with a bounded cache, damaged files as errors, and no warnings about files without a position."""
    import rasterio

    options = {
        "GDAL_CACHEMAX": _CACHE_MB,
        "GDAL_ERROR_ON_LIBJPEG_WARNING": True,
        "GDAL_DISABLE_READDIR_ON_OPEN": "FALSE",
        "GDAL_PAM_ENABLED": True,
        "GDAL_ALLOW_LARGE_LIBJPEG_MEM_ALLOC": True,
    }
    with warnings.catch_warnings(), rasterio.Env(**options):
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        warnings.filterwarnings("ignore", "'crs' was not provided")  # of pyogrio
        warnings.simplefilter("ignore", PendingDeprecationWarning)  # of affine, in rasterio
        yield


class Raster:
    """A raster on the grid on which it is labelled. Threads may read at the same time.

    Attributes:
      height: in pixels of that grid.
      width: likewise.
      crs: the coordinate reference system, None if there is none.
      transform: from columns and rows to coordinates.
      nodata: of the file, None if there is none.
      bands: the bands that are read.
      notes: what was chosen, each the end of a sentence about the raster.
    """

    def __init__(
        self,
        paths: str | os.PathLike | Sequence[str | os.PathLike],
        *,
        bands: Sequence[int] | None = None,
        stretch: tuple[float, float] | None = None,
        resolution: float | None = None,
        alpha: bool | None = None,
    ):
        """Open a raster, or several that together are one.

        Args:
          paths: the file, or those of a mosaic (see `raster_mosaic.groups`).
          bands: three bands for red, green and blue, or one for grey, counted from 1. By default those that
            the file calls so, else the first three.
          stretch: percentiles of the values that become 0 and 255. By default 8 bits stay as they are, and other
            numbers are stretched from 2 to 98.
          resolution: side of a pixel in metres; the raster is resampled as it is read.
          alpha: whether pixels have no data where the alpha band is 0. By default they have none if all its values
            are 0 or opaque, but for a tenth, and if it is not one of `bands`: GDAL also calls near infrared alpha.

        Raises:
          RasterError: for a file that cannot be opened, bands that it does not have, or a resolution
            that needs a CRS.
          MissingExtraError: without the extra `geo`.
        """
        require_geo("rasters")
        self.paths = [Path(one) for one in ([paths] if isinstance(paths, str | os.PathLike) else paths)]
        self.notes: list[str] = []
        self._percentiles = stretch
        with gdal(), self._opening():
            self._opened = self._open()
            self.nodata = self._opened.nodata
            self.crs = self._opened.crs
            self.bands = self._choose(bands)
            mask = self._mask_band(alpha)
            if mask is not None and len(self.paths) > 1:
                self._opened = self._open(mask)
            self._pixels = RasterPixels(self._opened, mask)
            self.height, self.width = self._size(resolution)
            ratios = self._opened.width / self.width, self._opened.height / self.height
            self.transform = self._opened.transform @ type(self._opened.transform).scale(*ratios)
            self._note_orientation()
            self._note_control_points()

    def __str__(self) -> str:
        more = len(self.paths) - 1
        return f"{self.paths[0]}{f' and {more} more' if more else ''}"

    @cached_property
    def stretch(self) -> Stretch | None:
        """How values become 8 bits, from an overview or from evenly spread samples; None where they stay."""
        if self._palette is not None:
            return None
        with self._readable():
            values, valid = (one[:, 0] for one in self._pixels.sample(self.bands))
            bits, white_is_zero = bits_and_white(self._opened)
        try:
            found = stretch_of(values, valid, self._percentiles, bits=bits, white_is_zero=white_is_zero)
        except BandError as error:
            raise RasterError(f"{self} {error}") from error
        if found is not None:
            self.notes.append(found.note(str(self._dtype)))
        elif dark := dark_note(values[valid], "give --stretch 2,98"):
            self.notes.append(dark)
        return found

    @property
    def mask_band(self) -> int | None:
        """The alpha band that says which pixels have data; None if none does."""
        return self._pixels.alpha

    @property
    def files(self) -> list[Path]:
        """All files that the raster consists of, those of a VRT included."""
        listed = [*self.paths, *(Path(name) for name in self._opened.files)]
        return sorted({path.resolve() for path in listed if path.is_file()})

    @property
    def pixel_area(self) -> float:
        """Area of a pixel in the square of the CRS's unit."""
        return abs(self.transform.determinant)

    @property
    def unit(self) -> str:
        """The unit of the coordinates."""
        if self.crs is None:
            return "pixel" if self.transform.is_identity else "unknown"
        return "degree" if self.crs.is_geographic else self.crs.linear_units

    def read(
        self, top: int, left: int, height: int, width: int
    ) -> tuple[UInt8[np.ndarray, "{height} {width} 3"], Bool[np.ndarray, "{height} {width}"]]:
        """Pixels of a window and which of them have data; what lies beyond the raster mirrors it, without data.

        Raises:
          RasterError: where the file is damaged.
        """
        bottom, right = min(top + height, self.height), min(left + width, self.width)
        values, valid = self._values(top, left, bottom, right)
        pixels = self._to_rgb(values, valid)
        beyond = ((0, top + height - bottom), (0, left + width - right))
        return np.pad(pixels, (*beyond, (0, 0)), mode="symmetric"), np.pad(valid, beyond)

    def _values(self, top: int, left: int, bottom: int, right: int) -> tuple[np.ndarray, np.ndarray]:
        """The chosen bands as they are [h, w, C], and which pixels have data in all of them."""
        from rasterio.enums import Resampling
        from rasterio.windows import Window

        y, x = self._opened.height / self.height, self._opened.width / self.width
        window = Window(left * x, top * y, (right - left) * x, (bottom - top) * y)
        scaled = (x, y) != (1.0, 1.0)
        smooth = Resampling.average if max(x, y) > 1 else Resampling.bilinear
        resampling = smooth if scaled and self._palette is None else Resampling.nearest
        return self._masked(window, (bottom - top, right - left), resampling)

    def _masked(self, window: Any, shape: tuple[int, int], resampling: Any) -> tuple[np.ndarray, np.ndarray]:
        with self._readable():
            return self._pixels.read(self.bands, window, shape, resampling)

    @contextmanager
    def _readable(self) -> Iterator[None]:
        """GDAL's errors as those of this raster."""
        import rasterio

        try:
            with gdal():
                yield
        except (rasterio.errors.RasterioError, MemoryError, ValueError) as error:
            reason = str(error.__cause__ or error).split("\n")[0].rstrip(".")
            raise RasterError(
                f"{self} is damaged or cut short: {reason}. Copy or download it again."
            ) from error

    def _to_rgb(self, values: np.ndarray, valid: np.ndarray) -> np.ndarray:
        if self._palette is not None:
            pixels = self._palette[values[..., 0]]
        else:
            pixels = values.astype(np.uint8) if self.stretch is None else self.stretch.apply(values, valid)
        pixels = np.where(valid[..., None], pixels, np.uint8(0))
        return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels

    @contextmanager
    def _opening(self) -> Iterator[None]:
        """Errors of GDAL and of damaged headers as those of this raster."""
        import rasterio

        try:
            yield
        except RasterError:
            raise
        except (rasterio.errors.RasterioError, ValueError, ArithmeticError, OSError) as error:
            reason = str(error).rstrip(".")
            raise RasterError(f"{self} cannot be read as a raster: {reason}.") from error

    def _open(self, mask: int | None = None) -> Any:
        import rasterio

        for path in self.paths:
            if not path.exists():
                raise RasterError(f"{path} does not exist.")
        if len(self.paths) == 1:
            return rasterio.open(self.paths[0])
        return rasterio.open(mosaic(self.paths, mask))

    def _choose(self, chosen: Sequence[int] | None) -> tuple[int, ...]:
        opened = self._opened
        self._dtype = np.dtype(opened.dtypes[0]) if opened.count else np.dtype(np.uint8)
        self._palette = self._colours()
        colours = [each.name for each in opened.colorinterp]
        usable = [number for number in range(1, opened.count + 1) if number != alpha_band(opened)]
        if not usable:
            raise RasterError(f"{self} holds no bands of pixels.")
        if self._dtype.kind not in "iuf":
            raise RasterError(f"{self} holds {self._dtype}, which are no brightnesses. Save real numbers.")
        if chosen is not None:
            try:
                check_bands(opened.count, chosen)
            except BandError as error:
                raise RasterError(f"{self} {error}") from error
            return tuple(chosen)
        if all(colours.count(name) == 1 for name in _RGB):
            return tuple(colours.index(name) + 1 for name in _RGB)
        if len(usable) not in (1, 3):
            taken = "the first is" if len(usable) == 2 else "the first three are"
            self.notes.append(f"has {len(usable)} bands: {taken} read. --bands chooses others.")
        return (usable[0],) if len(usable) < 3 else tuple(usable[:3])

    def _mask_band(self, wanted: bool | None) -> int | None:
        """The alpha band, if there is one and it is a mask."""
        band = alpha_band(self._opened)
        if band is None and wanted:
            raise RasterError(f"{self} has no alpha band, which --alpha takes for a mask. Leave it out.")
        if band is None or wanted is False or (wanted is None and band in self.bands):
            return None
        if wanted:
            return band
        with self._readable():
            values, _ = RasterPixels(self._opened, None).sample([band])
        if looks_like_a_mask(values):
            if not values.any():
                self.notes.append(
                    f"seems to have no data: its alpha band {band} is 0. --no-alpha reads it all the same."
                )
            return band
        self.notes.append(
            f"calls band {band} alpha, but that holds more than 0 and opaque: all pixels are read. --alpha takes "
            "it for a mask."
        )
        return None

    def _colours(self) -> UInt8[np.ndarray, "256 3"] | None:
        """The colour table of a raster of indices, None for others."""
        colours = palette_of(self._opened) if self._dtype == np.uint8 else None
        if colours is None:
            return None
        table = np.zeros((256, 3), np.uint8)
        for index, colour in colours.items():
            table[index] = colour[:3]
        return table

    def _size(self, resolution: float | None) -> tuple[int, int]:
        """Height and width in pixels of `resolution` metres, by default those of the file."""
        if resolution is None:
            return self._opened.height, self._opened.width
        down, across = self._pixel_in_metres()
        height, width = down * self._opened.height, across * self._opened.width
        if not 0 < resolution <= min(height, width) * (1 + 1e-6):
            raise RasterError(
                f"{self} is {width:.6g} m wide and {height:.6g} m high. --resolution must be more than 0 and at "
                f"most the shorter side. Got {resolution:g} m."
            )
        return max(1, round(height / resolution)), max(1, round(width / resolution))

    def _pixel_in_metres(self) -> tuple[float, float]:
        """The sides of a pixel, down and across."""
        if self.crs is None:
            raise RasterError(
                f"{self} has no coordinate reference system, so --resolution in metres means nothing for it. Leave "
                "it out, or assign a CRS to it (QGIS: Assign projection; gdal_edit)."
            )
        turn = self._opened.transform
        across, down = math.hypot(turn.a, turn.d), math.hypot(turn.b, turn.e)
        if self.crs.is_geographic:
            _, latitude = turn @ (self._opened.width / 2, self._opened.height / 2)
            metres = _degree_lengths(latitude)
            return down * metres[0], across * metres[1]
        metre = self.crs.linear_units_factor[1]
        return down * metre, across * metre

    def _note_control_points(self) -> None:
        if self.crs is None and self.transform.is_identity:
            points, _ = self._opened.gcps
            if points or self._opened.rpcs is not None:
                by = "control points" if points else "rational polynomials (RPCs)"
                self.notes.append(f"is placed by {by}, which are not kept: warp it first (gdalwarp).")

    def _note_orientation(self) -> None:
        orientation = self._opened.tags(ns="EXIF").get("EXIF_Orientation") or self._opened.tags().get(
            "EXIF_Orientation", "1"
        )
        if orientation not in ("0", "1"):
            self.notes.append(
                f"is to be shown turned (EXIF orientation {orientation}): it is labelled as it is stored."
            )


def _degree_lengths(latitude: float) -> tuple[float, float]:
    """Metres of a degree of latitude and of longitude on the ellipsoid of WGS 84."""
    axis, flat = 6378137.0, 0.00669437999014
    phi = math.radians(min(abs(latitude), 89.9))
    root = 1 - flat * math.sin(phi) ** 2
    north = axis * (1 - flat) / root**1.5
    return math.radians(north), math.radians(axis * math.cos(phi) / math.sqrt(root))
