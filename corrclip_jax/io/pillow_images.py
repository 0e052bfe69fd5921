"""Pillow's images, and bands of TIFFs, as upright uint8 RGB pixels, with notes on what was chosen and stretched.

EXIF rotation is applied, transparency dropped, colour profiles ignored; 16-bit pixels are reduced to their upper
eight bits, other numbers stretched (`io.bands`).
"""

import logging
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image

from corrclip_jax.io.bands import (
    BandError,
    Bands,
    bands_note,
    dark_note,
    number_of,
    pages_note,
    to_rgb,
    valid_orientation,
)

MAX_PIXELS = 100_000_000
"""Limit on the pixels of a photo, since a small file can decode to more memory than there is."""

TOO_LARGE = f"The limit is {MAX_PIXELS:,} (100 megapixels): scale it down, or cut it into tiles."

# The rotation that makes an image upright, by its EXIF orientation (1 is upright).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class PhotoError(ValueError):
    """A photo that cannot be read, or an array of another shape or dtype."""


class _Quiet:
    """Number of threads that read at present, which share Python's warning filters."""

    lock = threading.Lock()
    readers = 0
    filters = warnings.catch_warnings()
    log, level = logging.getLogger("PIL.TiffImagePlugin"), logging.NOTSET


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Silence of Pillow while images are read; other warnings, of this thread and others, pass.

    It warns about EXIF that it cannot parse, which is harmless, and about large images, which are refused here; it
    logs numbers of bands that it cannot read.
    """
    with _Quiet.lock:
        if _Quiet.readers == 0:
            _Quiet.filters = warnings.catch_warnings()
            _Quiet.filters.__enter__()
            warnings.filterwarnings("ignore", module=r"PIL\.")
            _Quiet.level = _Quiet.log.level
            _Quiet.log.setLevel(logging.CRITICAL + 1)
        _Quiet.readers += 1
    try:
        yield
    finally:
        with _Quiet.lock:
            _Quiet.readers -= 1
            if _Quiet.readers == 0:
                _Quiet.filters.__exit__(None, None, None)
                _Quiet.log.setLevel(_Quiet.level)


def pixels_of(image: Image.Image, name: str) -> tuple[UInt8[np.ndarray, "H W 3"], list[str]]:
    """The pixels of an image that Pillow has opened, and notes on its pages and values.

    Raises:
      PhotoError: for a damaged, empty or too large image, or a colour mode without an RGB form.
    """
    if image.width * image.height > MAX_PIXELS:
        raise PhotoError(f"{name} has {image.width}x{image.height} pixels. {TOO_LARGE}")
    if image.width * image.height == 0:
        raise PhotoError(f"{name} is empty: {image.width}x{image.height} pixels. It needs at least 1x1.")
    deep = any(";16" in str(part) for tile in getattr(image, "tile", ()) for part in tile[3:])
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as e:  # decoders raise whatever damaged data makes them raise
        # Pillow does not decode all JPEG 2000 files that GDAL and other programs write.
        other = " If other programs show it, convert it to PNG or TIFF." if image.format == "JPEG2000" else ""
        raise PhotoError(
            f"{name} is damaged or cut short: {e}. Its header says {image.width}x{image.height} pixels"
            f" ({image.format}). Copy or download it again.{other}"
        ) from e
    turn, pages = _UPRIGHT.get(orientation_of(image)), _pages(image)
    if image.mode in ("F", "I") or image.mode.startswith("I;16"):
        pixels, notes = rgb_of_bands(Bands(_values(image)[..., None], pages=pages), None, name)
    else:
        pixels = np.asarray(_to_rgb(image, name))
        notes = [note for note in (pages_note(pages), dark_note(pixels) if deep else "") if note]
    return np.array(pixels if turn is None else Image.fromarray(pixels).transpose(turn)), notes


def _pages(image: Image.Image) -> int:
    """How many images of its size a TIFF holds; smaller ones are previews. 1 for other or damaged files."""
    if image.format != "TIFF":
        return 1
    try:
        count = getattr(image, "n_frames", 1)
        size, pages = image.size, 0
        for page in range(count) if count > 1 else ():
            image.seek(page)
            pages += image.size == size
        image.seek(0)
    except (EOFError, OSError, SyntaxError, ValueError):
        return 1
    return max(pages, 1)


def _values(image: Image.Image) -> np.ndarray:
    """The values of a grey image of 16 or 32 bits; Pillow holds 16 bits of PNG and PPM as 32."""
    values = np.asarray(image)
    is_16 = image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM"))
    return values.astype(np.uint16) if is_16 else values


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    # Pillow converts premultiplied alpha to straight alpha alone.
    if image.mode in ("RGBa", "La"):
        image = image.convert(image.mode.replace("a", "A"))
    try:
        return image.convert("RGB")
    except ValueError as e:
        raise PhotoError(
            f"{name} has the colour mode {image.mode}, which has no RGB form. Save it as RGB."
        ) from e


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; 1 where there is none, or another value."""
    try:
        return valid_orientation(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:
        return 1  # as in image viewers, EXIF that cannot be read is ignored


def rgb_of_bands(
    found: Bands, bands: Sequence[int] | None, name: str
) -> tuple[UInt8[np.ndarray, "H W 3"], list[str]]:
    """Upright pixels of some `bands` of those found, and notes; see `io.bands.to_rgb`.

    Raises:
      PhotoError: for bands that the image does not have.
    """
    try:
        pixels, notes = to_rgb(found, bands)
    except BandError as e:
        raise PhotoError(f"{name} {e}") from e
    turn = _UPRIGHT.get(found.orientation)
    return pixels if turn is None else np.array(Image.fromarray(pixels).transpose(turn)), notes


def grey_bands(file: Any) -> Bands | None:
    """The one band of a TIFF of 16 or 32 bits in a compression that Pillow alone reads here; None for others."""
    file.seek(0)
    try:
        with Image.open(file) as image:
            if image.mode not in ("I", "F", "I;16", "I;16B"):
                return None
            tags: Any = getattr(image, "tag_v2", {})
            signed_16 = image.mode == "I" and tags.get(258) == (16,)
            values = np.asarray(image).astype(np.int16) if signed_16 else _values(image)
            nodata = number_of(tags.get(42113))
            return Bands(values[..., None], orientation_of(image), nodata, _pages(image))
    except Exception:  # the reason of the other reader stands
        return None


def upper_bytes(file: Any, name: str) -> tuple[UInt8[np.ndarray, "H W 3"], list[str]] | None:
    """Red, green and blue of a compressed TIFF of three or four bands, as Pillow reads them, and notes.

    Of 16 bits these are the upper bytes; None where they are dark, and for other files.
    """
    file.seek(0)
    try:
        with Image.open(file) as image:
            tags: Any = getattr(image, "tag_v2", {})
            bits = tags.get(258, ())
            if image.mode not in ("RGB", "RGBA") or set(bits) not in ({8}, {16}) or tags.get(284, 1) != 1:
                return None
            pixels, notes = pixels_of(image, name)
    except Exception:  # the reason of the other reader stands
        return None
    if 16 in bits and (notes or dark_note(pixels)):
        return None
    return pixels, [*notes, *([bands_note(len(bits))] if len(bits) > 3 else [])]
