"""Bands: images of more or other bands than RGB of 8 bits, as surveys and satellites give them, as RGB of 8 bits.

Pillow reads the ordinary TIFF files; those of 16 bits and more, of floats, and of two or more than three bands are
read by tifffile, without loss, and scaled here.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Shaped, UInt8
from PIL import Image

_MOST_BYTES = 4 << 30
_DARK = 32  # of 255


class BandError(ValueError):
    """Bands that do not exist, or a file of bands that cannot be read; the message begins with a verb."""


class Bands(NamedTuple):
    """The bands of an image as they are in its file.

    Attributes:
      values: all bands of all pixels.
      orientation: of EXIF, 1 for upright.
      nodata: the value of pixels without data, None if there is none.
      pages: how many images of this size the file holds; this is the first.
    """

    values: Shaped[np.ndarray, "H W C"]
    orientation: int = 1
    nodata: float | None = None
    pages: int = 1


def has_other_bands(image: Image.Image) -> bool:
    """Whether an opened TIFF is other than what Pillow reads without loss: grey, RGB, CMYK ... of 8 bits."""
    tags: Any = getattr(image, "tag_v2", {})
    bits, photometric = tags.get(258, (1,)), tags.get(262)
    extra = tags.get(338, ())
    unknown = any(kind == 0 for kind in (extra if isinstance(extra, tuple) else (extra,)))
    return max(bits) > 8 or len(bits) == 2 or len(bits) > 4 or (photometric in (0, 1, 2) and unknown)


def read_tiff(file: Any, most_pixels: int) -> Bands:
    """The bands of the first image of a TIFF file that is opened for reading bytes.

    Raises:
      BandError: for a file that cannot be read, with what it is.
    """
    import tifffile

    what = "is a damaged TIFF"
    try:
        with _quiet(), tifffile.TiffFile(file) as opened:
            page = opened.pages.first
            what = (
                f"is a TIFF of {page.samplesperpixel} band{'s' * (page.samplesperpixel != 1)} of "
                f"{page.bitspersample} bits ({page.dtype or 'of no number type'}, "
                f"compression {page.compression.name.lower()})"
            )
            if page.dtype is None or page.imagewidth * page.imagelength > most_pixels:
                raise ValueError(f"it has {page.imagewidth}x{page.imagelength} pixels")
            if page.imagewidth * page.imagelength * page.samplesperpixel * page.dtype.itemsize > _MOST_BYTES:
                raise ValueError(
                    "it would take more than 4 GiB of memory; cut it into tiles or keep three bands"
                )
            values = np.asarray(page.asarray())
            if page.photometric == 0 and values.dtype.kind == "u":  # white is zero
                values = _inverted(values)
            orientation = page.tags.get(274)
            nodata = page.tags.get(42113)
            pages = sum(other.shape == page.shape and not other.is_reduced for other in opened.pages)
            separate = page.axes.startswith("S") and values.ndim == 3
    except Exception as error:  # tifffile's decoders raise whatever damaged data makes them raise
        reason = str(error).split("\n")[0]
        if "imagecodecs" in reason or isinstance(error, ImportError):
            raise BandError(
                f"{what}, which needs a decoder that is not installed. pip install 'corrclip-jax[tiff]', or save "
                "it without compression, in whole bytes."
            ) from error
        if what == "is a damaged TIFF":
            raise BandError("is a damaged TIFF: its list of tags cannot be read.") from error
        raise BandError(f"{what} and cannot be read: {reason}.") from error
    if values.ndim not in (2, 3):
        raise BandError(f"{what} with axes {page.axes}. An image has rows, columns and bands.")
    values = np.moveaxis(values, 0, -1) if separate else values.reshape(*values.shape[:2], -1)
    turned = valid_orientation(orientation and orientation.value)
    return Bands(values, turned, number_of(nodata and nodata.value), pages)


def valid_orientation(value: object) -> int:
    """An orientation as EXIF and TIFF have it, 1 to 8; any other value is 1, upright, as in image viewers."""
    return int(value) if isinstance(value, int) and 1 <= value <= 8 else 1


def pages_note(pages: int) -> str:
    """A note for a file with that many pages, of which the first is read; empty for one."""
    return f"has {pages} pages: the first is read." if pages > 1 else ""


def bands_note(count: int) -> str:
    """A note for an image with that many bands, of which the first one or three are read."""
    taken = "the first is" if count == 2 else "the first three are"
    return f"has {count} bands: {taken} read. --bands chooses others."


def _inverted(values: Shaped[np.ndarray, "..."]) -> Shaped[np.ndarray, "..."]:
    """Unsigned integers in which white is 0 as those in which black is, of as many bits as are used."""
    bits, used = 8 * values.dtype.itemsize, int(values.max(initial=0)).bit_length()
    white = (1 << (used if 8 <= used <= bits - 2 else bits)) - 1
    return values.dtype.type(white) - values


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence tifffile's log of damaged tags, which goes to the terminal; errors are raised."""
    log = logging.getLogger("tifffile")
    level = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(level)


def number_of(text: Any) -> float | None:
    """The number that a tag of GDAL's holds as text; None for no number."""
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def to_rgb(image: Bands, chosen: Sequence[int] | None = None) -> tuple[UInt8[np.ndarray, "H W 3"], list[str]]:
    """RGB of 8 bits from any bands.

    Of 16 bits the upper eight are kept; where the values use 14 bits or fewer, the upper eight of those. Floats
    of 0..1 and 0..255 are taken as such. Other values, negative ones among them, are stretched: their 2nd
    percentile becomes 0, their 98th 255.

    Args:
      image: the bands.
      chosen: three bands for red, green and blue, or one for grey, counted from 1. By default one band is grey, two
        are grey and something else, and of more the first three are taken.

    Returns:
      The pixels, and notes on what was chosen and stretched, each the end of a sentence about the photo.

    Raises:
      BandError: for bands that the image does not have, or complex numbers.
    """
    count = image.values.shape[2]
    notes = [note] if (note := pages_note(image.pages)) else []
    if chosen is None:
        chosen = (1,) if count < 3 else (1, 2, 3)
        if count not in (1, 3):
            notes.append(bands_note(count))
    else:
        check_bands(count, chosen)
    values = image.values[..., [band - 1 for band in chosen]]
    valid = np.isfinite(values) if values.dtype.kind == "f" else np.ones(values.shape, bool)
    if image.nodata is not None:
        valid &= values != image.nodata
    scaled, note = _to_8_bits(values, valid)
    notes += [note] if note else []
    scaled = np.where(valid, scaled, np.uint8(0))
    return np.repeat(scaled, 3, axis=2) if len(chosen) == 1 else scaled, notes


def _to_8_bits(
    values: Shaped[np.ndarray, "H W C"], valid: Bool[np.ndarray, "H W C"]
) -> tuple[UInt8[np.ndarray, "H W C"], str]:
    kind, size = values.dtype.kind, values.dtype.itemsize
    if kind == "b" or values.dtype == np.uint8:
        return values.astype(np.uint8) * np.uint8(255 if kind == "b" else 1), ""
    if kind not in "iuf":
        raise BandError(f"holds {values.dtype}, which are no brightnesses. Save real numbers.")
    if not valid.any():
        return np.zeros(values.shape, np.uint8), "has no pixel with data: it is read as black."
    low, high = (
        values.min(where=valid, initial=values[valid][0]),
        values.max(where=valid, initial=values[valid][0]),
    )
    if kind == "f":
        values = np.where(valid, values, values.dtype.type(0))
    if kind in "iu" and size <= 2 and low >= 0:
        return _upper_bits(values, int(high), 8 * size - (kind == "i"))
    if kind == "f" and low >= 0 and 0.25 < high <= 1:
        return np.rint(values * 255).clip(0, 255).astype(np.uint8), ""
    if low >= 0 and 64 <= high <= 255:
        return np.rint(values).clip(0, 255).astype(np.uint8), ""
    first, last = np.percentile(values[valid].astype(np.float64), (2, 98))
    stretch = Stretch(first, last, float(low), float(high))
    return stretch.apply(values, valid), stretch.note(str(values.dtype))


class Stretch(NamedTuple):
    """A linear scale to 8 bits.

    Attributes:
      first, last: the values that become 0 and 255; the first is the larger one where white is 0.
      low, high: the smallest and the largest value there is.
    """

    first: float
    last: float
    low: float
    high: float

    def apply(
        self, values: Shaped[np.ndarray, "*n C"], valid: Bool[np.ndarray, "*n"] | Bool[np.ndarray, "*n C"]
    ) -> UInt8[np.ndarray, "*n C"]:
        """The values as 8 bits; 0 for those without data."""
        valid = valid if valid.ndim == values.ndim else valid[..., None]
        values = np.where(valid, values, 0).astype(np.float64)
        span = self.last - self.first
        scaled = (values - self.first) * (255 / (span if abs(span) > 1e-12 else 1e-12))
        return np.where(valid, np.rint(scaled).clip(0, 255), 0).astype(np.uint8)

    def note(self, dtype: str) -> str:
        """What is done, the end of a sentence about the image."""
        return (
            f"holds {dtype} from {self.low:.6g} to {self.high:.6g}: {self.first:.6g} to {self.last:.6g} become "
            "0 to 255."
        )


def stretch_of(
    values: Shaped[np.ndarray, "n C"],
    valid: Bool[np.ndarray, " n"],
    percentiles: tuple[float, float] | None = None,
    *,
    bits: int | None = None,
    white_is_zero: bool = False,
) -> Stretch | None:
    """The stretch of a sample of pixels, one for all bands, so that colours stay; None for 8 bits that stay.

    Args:
      values: of pixels spread over the image.
      valid: which of them have data.
      percentiles: of the values, which become 0 and 255; by default 2 and 98, and floats of 0..1 and unsigned
        integers of up to 8 bits are taken as such.
      bits: how many of the numbers' bits are used; None for all.
      white_is_zero: whether 0 is white, so that the scale is turned round.

    Raises:
      BandError: if no pixel has data.
    """
    if percentiles is None and values.dtype == np.uint8:
        white = float(2 ** min(bits or 8, 8) - 1)
        found = None if white == 255 else Stretch(0.0, white, 0.0, white)
        return Stretch(white, 0.0, 0.0, white) if white_is_zero else found
    if not valid.any():
        raise BandError("has no pixel with data.")
    known = values[valid].astype(np.float64)
    low, high = float(known.min()), float(known.max())
    if percentiles is None and values.dtype.kind == "f" and low >= 0 and 0.25 < high <= 1:
        first, last = 0.0, 1.0
    else:
        first, last = map(float, np.percentile(known, percentiles or (2, 98)))
    return Stretch(last, first, low, high) if white_is_zero else Stretch(first, last, low, high)


def check_bands(count: int, chosen: Sequence[int]) -> None:
    """Check that an image of `count` bands has the chosen ones, three or one.

    Raises:
      BandError: if not.
    """
    if len(chosen) not in (1, 3) or not all(1 <= band <= count for band in chosen):
        given = ",".join(map(str, chosen))
        raise BandError(
            f"has {count} band{'s' * (count != 1)}. Choose three of them, or one, counted from 1 (--bands 3,2,1). "
            f"Got {given}."
        )


def _upper_bits(
    values: Shaped[np.ndarray, "H W C"], high: int, bits: int
) -> tuple[UInt8[np.ndarray, "H W C"], str]:
    """The upper eight of the used bits of integers with `bits` bits and the largest value `high`."""
    used = max(8, high.bit_length())
    note = ""
    if high > 0 and used <= bits - 2:
        note = f"uses {used} of its {bits} bits: these are stretched to 8."
    else:
        used = max(bits, 8)
    scaled = (values.clip(0, None).astype(np.int32) >> (used - 8)).clip(0, 255).astype(np.uint8)
    dark = dark_note(scaled)
    return scaled, f"{note} It {dark}" if note and dark else note or dark


def dark_note(pixels: UInt8[np.ndarray, "..."], advice: str = "scale it to 8 bits") -> str:
    """A note for pixels that are nearly black as 8 bits, with advice in case that is wrong; empty for others."""
    if pixels.size and pixels.max() > 0 and np.percentile(pixels, 98) < _DARK:
        return f"is dark: 98 % of its pixels are below {_DARK} of 255. If that is wrong, {advice}."
    return ""
