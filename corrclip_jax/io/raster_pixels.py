"""Raster pixels: values of some bands of an opened raster, and which pixels have data, in windows of any scale.

A pixel has no data where the file's nodata value or mask says so, where a float is not finite, and where an alpha
band is 0. GDAL takes the fourth band of most files of 8 bits for alpha, also where it is near infrared. So an alpha
band counts as a mask only if it looks like one.
"""

import math
from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np
from jaxtyping import Bool, Shaped

_SAMPLES, _SAMPLE_SIDE, _OVERVIEW = 12, 96, 2048
_OPAQUE, _CLEAR, _MOST_PARTIAL = 0.97, 0.03, 0.1
_ROWS = 256

Values = tuple[Shaped[np.ndarray, "h w C"], Bool[np.ndarray, "h w"]]


class RasterPixels:
    """The pixels of an opened raster. Threads may read at the same time.

    Attributes:
      alpha: the band that is a mask, None without one.
    """

    def __init__(self, opened: Any, alpha: int | None):
        self.alpha = alpha
        self._opened, self._lock = opened, Lock()

    def read(self, bands: Sequence[int], window: Any, shape: tuple[int, int], resampling: Any) -> Values:
        """Bands as they are in a window, and which pixels have data in all of them.

        Args:
          bands: counted from 1.
          window: of the file, in pixels and parts of these.
          shape: height and width that it is resampled to.
          resampling: how, of `rasterio.enums.Resampling`.
        """
        from rasterio.enums import MaskFlags, Resampling

        flags = self._opened.mask_flag_enums
        by_alpha = any(MaskFlags.alpha in flags[band - 1] for band in bands)
        if by_alpha and self.alpha is None and resampling != Resampling.nearest:
            values = self._resampled(bands, window, shape, resampling)
            return values, _finite(values)
        wanted = [*bands, *([] if self.alpha is None else [self.alpha])]
        with self._lock:
            found = self._opened.read(
                wanted,
                window=window,
                out_shape=(len(wanted), *shape),
                resampling=resampling,
                masked=not by_alpha,
            )
        values = np.moveaxis(np.ma.getdata(found), 0, -1)[..., : len(bands)]
        valid = ~np.ma.getmaskarray(found)[: len(bands)].any(axis=0) & _finite(values)
        return values, valid if self.alpha is None else valid & (np.ma.getdata(found)[-1] > 0)

    def sample(self, bands: Sequence[int]) -> Values:
        """Values spread over the raster [n, 1, C]: of an overview, or of small windows on a grid."""
        from rasterio.enums import Resampling
        from rasterio.windows import Window

        height, width = self._opened.height, self._opened.width
        factor = max(height, width) / _OVERVIEW
        if factor <= 1 or self._opened.overviews(bands[0]):
            shape = tuple(math.ceil(side / max(1.0, factor)) for side in (height, width))
            parts = [self.read(bands, Window(0, 0, width, height), shape, Resampling.nearest)]
        else:
            side_y, side_x = min(_SAMPLE_SIDE, height), min(_SAMPLE_SIDE, width)
            tops = np.linspace(0, height - side_y, min(_SAMPLES, height // side_y)).astype(int).tolist()
            lefts = np.linspace(0, width - side_x, min(_SAMPLES, width // side_x)).astype(int).tolist()
            parts = [
                self.read(bands, Window(x, y, side_x, side_y), (side_y, side_x), Resampling.nearest)
                for y in tops
                for x in lefts
            ]
        values = np.concatenate([one.reshape(-1, 1, one.shape[-1]) for one, _ in parts])
        return values, np.concatenate([valid.reshape(-1, 1) for _, valid in parts])

    def _resampled(
        self, bands: Sequence[int], window: Any, shape: tuple[int, int], resampling: Any
    ) -> Shaped[np.ndarray, "h w C"]:
        """Resampled here, strip by strip: GDAL would leave out pixels where the alpha band is 0."""
        from rasterio.crs import CRS
        from rasterio.transform import Affine
        from rasterio.warp import reproject
        from rasterio.windows import Window

        plane = CRS.from_epsg(3857)  # any will do, since it is that of both sides
        y, x = window.height / shape[0], window.width / shape[1]
        out = np.zeros((len(bands), *shape), self._opened.dtypes[bands[0] - 1])
        left, right = self._around(window.col_off, window.width, x, self._opened.width)
        rows = max(1, int(_ROWS / max(1.0, y)))
        for first in range(0, shape[0], rows):
            part = out[:, first : first + rows]
            begin = window.row_off + first * y
            top, bottom = self._around(begin, part.shape[1] * y, y, self._opened.height)
            with self._lock:
                source = self._opened.read(list(bands), window=Window(left, top, right - left, bottom - top))
            place = Affine.translation(window.col_off - left, begin - top) @ Affine.scale(x, y)
            filled = np.zeros_like(part)  # which must be contiguous
            reproject(
                source,
                filled,
                src_transform=Affine.identity(),
                dst_transform=place,
                src_crs=plane,
                dst_crs=plane,
                resampling=resampling,
            )
            part[:] = filled
        return np.moveaxis(out, 0, -1)

    @staticmethod
    def _around(first: float, length: float, step: float, most: int) -> tuple[int, int]:
        """The pixels of a range, and the neighbours that interpolation reads."""
        beside = math.ceil(max(1.0, step)) + 1
        return max(math.floor(first) - beside, 0), min(math.ceil(first + length) + beside, most)


def alpha_band(opened: Any) -> int | None:
    """The band that the file calls alpha, counted from 1; None if there is none, or nothing else."""
    names = [each.name for each in opened.colorinterp]
    return names.index("alpha") + 1 if "alpha" in names and len(names) > 1 else None


def palette_of(opened: Any) -> dict[int, tuple[int, int, int, int]] | None:
    """The colour table of a raster whose only band are its indices; None for others.

    Raises:
      ValueError: if the table is missing.
    """
    if opened.count != 1 or opened.colorinterp[0].name != "palette":
        return None
    return opened.colormap(1)


def bits_and_white(opened: Any) -> tuple[int | None, bool]:
    """How many bits of its numbers a raster uses, None for all or if that is unknown, and whether 0 is white.

    The latter is minded for unsigned integers alone, as of photos.
    """
    bits = opened.tags(1, ns="IMAGE_STRUCTURE").get("NBITS")
    turned = opened.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES" and opened.dtypes[0].startswith(
        "uint"
    )
    return int(bits) if bits is not None and bits.isdecimal() else None, turned


def looks_like_a_mask(values: Shaped[np.ndarray, "*n"]) -> bool:
    """Whether the values of an alpha band are nearly all 0 or opaque, the largest there can be or a single one."""
    share = values.astype(np.float64) / (np.iinfo(values.dtype).max if values.dtype.kind in "iu" else 1.0)
    if len(np.unique(share[share > 0])) <= 1:
        return True
    shown = share[share > _CLEAR]
    return bool((shown < _OPAQUE).mean() <= _MOST_PARTIAL)


def _finite(values: Shaped[np.ndarray, "h w C"]) -> Bool[np.ndarray, "h w"]:
    return np.isfinite(values).all(axis=-1) if values.dtype.kind == "f" else np.ones(values.shape[:2], bool)
