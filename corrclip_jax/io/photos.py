"""Photos: reading image files of many kinds as upright uint8 RGB arrays.

As in the authors' implementation, which uses OpenCV: EXIF rotation is applied, transparency is dropped (the
colour of a transparent pixel is used), colour profiles are ignored, and 16-bit pixels are reduced to their
upper eight bits. Where that would be nearly black, and for other kinds of numbers and bands, see `io.bands`;
what is done then is said by a `PhotoWarning`.
"""

import io
import logging
import os
import re
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, UnidentifiedImageError

from corrclip_jax.io.bands import (
    BandError,
    Bands,
    bands_note,
    dark_note,
    has_other_bands,
    number_of,
    pages_note,
    read_tiff,
    to_rgb,
)

MAX_PIXELS = 100_000_000
"""Limit on the pixels of a photo, since a small file can decode to more memory than there is."""

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


class PhotoWarning(UserWarning):
    """A photo whose bands were chosen, or whose values were stretched.

    Attributes:
      photo: its path, or what it is.
      note: what was done, the end of a sentence about the photo.
    """

    def __init__(self, photo: str, note: str):
        super().__init__(f"{photo} {note}")
        self.photo, self.note = photo, note


@dataclass(frozen=True)
class BandsOf(os.PathLike):
    """Some bands of a photo, wherever a path of a photo is expected: `BandsOf("survey.tif", (4, 3, 2))`.

    Attributes:
      path: the file, or an opened one.
      bands: the bands for red, green and blue, or one band for grey, counted from 1.
    """

    path: Any
    bands: tuple[int, ...]

    def __fspath__(self) -> str:
        if isinstance(self.path, str | os.PathLike):
            return os.fspath(self.path)
        return str(self)

    def __str__(self) -> str:
        return _name(self.path)


class _Quiet:
    """Number of threads that read at present, which share Python's warning filters."""

    lock = threading.Lock()
    readers = 0
    filters = warnings.catch_warnings()
    log, level = logging.getLogger("PIL.TiffImagePlugin"), logging.NOTSET


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    # Pillow warns about EXIF that it cannot parse, which is harmless, and about large images, which are refused
    # here; it logs numbers of bands that it cannot read. Other warnings, of this thread and others, pass.
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


def read_photo(
    photo: str | os.PathLike | Image.Image | Any, *, bands: Sequence[int] | None = None
) -> UInt8[np.ndarray, "H W 3"]:
    """Read a photo.

    Args:
      photo: a path, an opened binary file, a PIL image of any mode, or an array: uint8 [H, W, 3], or [H, W]
      for grey.
      bands: for a path, the bands for red, green and blue, or one band for grey, counted from 1.

    Returns:
      Upright RGB pixels, uint8 [H, W, 3]. Grey, palette and CMYK images are converted to RGB; of an animation the
      first frame is taken, and of more than three bands the first three.

    Warns:
      PhotoWarning: if bands were left out, or values stretched.

    Raises:
      PhotoError: for a file that is missing, damaged, empty or no image, more than `MAX_PIXELS` pixels, or an array
        of another dtype or rank. The message names the photo, what was found, and what to do.
    """
    name = _name(photo)
    pixels, notes = _read(photo, name, bands)
    for note in notes:
        warnings.warn(PhotoWarning(name, note), stacklevel=2)
    return pixels


def _name(photo: Any) -> str:
    if isinstance(photo, Image.Image):
        return f"the image ({photo.mode}, {photo.width}x{photo.height})"
    if isinstance(photo, str | os.PathLike):
        return str(photo)
    name = getattr(photo, "name", None) if hasattr(photo, "read") else None
    return name if isinstance(name, str) else "the photo"


@_quiet_pillow()
def _read(
    photo: Any, name: str, bands: Sequence[int] | None = None
) -> tuple[UInt8[np.ndarray, "H W 3"], list[str]]:
    """The pixels of a photo, and notes on what was chosen and stretched."""
    if isinstance(photo, BandsOf):
        photo, bands = photo.path, photo.bands
    try:
        return _opened(photo, name, bands)
    except MemoryError as e:
        raise PhotoError(f"{name} needs more memory than there is. {_TOO_LARGE}") from e


def _opened(
    photo: Any, name: str, bands: Sequence[int] | None
) -> tuple[UInt8[np.ndarray, "H W 3"], list[str]]:
    if isinstance(photo, Image.Image):
        return _pixels(photo, name)
    if isinstance(photo, str) and re.match(r"[a-z][a-z0-9+.-]+://", photo):
        raise PhotoError(
            f"{photo} is an address, not a file. Download it first: urllib.request.urlretrieve(...)."
        )
    if isinstance(photo, str | os.PathLike):
        return _read_file(Path(photo), bands)
    if isinstance(photo, bytes | bytearray | memoryview):
        photo = io.BytesIO(photo)
    if hasattr(photo, "read"):
        return _read_stream(_in_memory(photo, name), name, bands)
    if photo is None or isinstance(photo, list | tuple | dict | set):
        raise PhotoError(f"a photo is a path, an image or an array. Got {photo!r:.80}.")
    return _from_array(np.asarray(photo)), []


@_quiet_pillow()
def photo_size(photo: str | os.PathLike | Image.Image | Any) -> tuple[int, int]:
    """Height and width of the array that `read_photo` returns; of a file usually from its header alone.

    Raises:
      PhotoError: if the photo cannot be opened. Damage after the header is found by `read_photo` only.
    """
    file: Any = photo
    is_stream = hasattr(photo, "read") and getattr(photo, "seekable", lambda: False)()
    if isinstance(photo, BandsOf) or not (is_stream or isinstance(photo, str | os.PathLike)):
        return _read(photo, _name(photo))[0].shape[:2]
    try:
        if is_stream:
            file.seek(0)
        with Image.open(file) as image:
            if image.format != "TIFF":  # Pillow applies the orientation of a TIFF while it loads
                size = image.height, image.width
                return size if _orientation(image) < 5 else size[::-1]
    except Exception:  # whatever Pillow raises, `_read` gives the reason
        return _read(photo, _name(photo))[0].shape[:2]
    return _read(photo, _name(photo))[0].shape[:2]


def _read_file(path: Path, bands: Sequence[int] | None) -> tuple[UInt8[np.ndarray, "H W 3"], list[str]]:
    if path.is_dir():
        raise PhotoError(f"{path} is a folder. Give the photos in it one by one.")
    if path.exists() and not path.is_file():
        raise PhotoError(f"{path} is a pipe or a device. Save the photo as a file, or give its bytes.")
    try:
        with path.open("rb") as file:
            return _read_stream(file, str(path), bands)
    except FileNotFoundError:
        raise PhotoError(f"{path} does not exist.") from None
    except OSError as e:
        raise PhotoError(f"{path} cannot be read: {e.strerror or e}.") from e


def _in_memory(file: Any, name: str) -> io.BytesIO:
    """The content of an opened file from its beginning, where it can be sought there."""
    if getattr(file, "seekable", lambda: False)():
        file.seek(0)
    content = file.read()
    if not isinstance(content, bytes):
        raise PhotoError(f"{name} must be opened as a binary file: open(path, 'rb').")
    return io.BytesIO(content)


def _read_stream(
    file: Any, name: str, bands: Sequence[int] | None
) -> tuple[UInt8[np.ndarray, "H W 3"], list[str]]:
    """Pixels of an opened file that can be sought."""
    start = file.read(16)
    file.seek(0)
    if start[:4] in _TIFF and _is_survey(file):
        return _read_bands(file, name, bands)
    file.seek(0)
    pixels, notes = _decoded(file, name, start)
    return (pixels, notes) if bands is None else _of_bands(Bands(pixels), bands, name)


def _decoded(file: Any, name: str, start: bytes) -> tuple[UInt8[np.ndarray, "H W 3"], list[str]]:
    """Pixels of an opened file; `start` are its first bytes, for messages."""
    try:
        with Image.open(file) as image:
            return _pixels(image, name)
    except UnidentifiedImageError:
        raise PhotoError(_foreign(name, start)) from None
    except Image.DecompressionBombError as e:
        raise PhotoError(f"{name} has too many pixels. {_TOO_LARGE} ({e})") from None
    except (PhotoError, MemoryError):
        raise
    except Exception as e:  # Pillow's decoders raise whatever damaged data makes them raise
        raise PhotoError(f"{name} cannot be read: {e}.") from e


_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _is_survey(file: Any) -> bool:
    """Whether a TIFF is none that Pillow reads without loss."""
    try:
        with Image.open(file) as image:
            return has_other_bands(image)
    except UnidentifiedImageError:
        return True
    except Exception:  # too large or damaged: found out again when the pixels are read
        return False


def _read_bands(
    file: Any, name: str, bands: Sequence[int] | None
) -> tuple[UInt8[np.ndarray, "H W 3"], list[str]]:
    try:
        file.seek(0)
        found = read_tiff(file, MAX_PIXELS)
    except BandError as e:
        grey = _grey_bands(file)
        if grey is not None:
            return _of_bands(grey, bands, name)
        upper = _upper_bytes(file, name) if bands is None else None
        if upper is None:
            raise PhotoError(f"{name} {e}") from e
        return upper
    return _of_bands(found, bands, name)


def _grey_bands(file: Any) -> Bands | None:
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
            return Bands(values[..., None], _orientation(image), nodata, _pages(image))
    except Exception:  # the reason of the other reader stands
        return None


def _upper_bytes(file: Any, name: str) -> tuple[UInt8[np.ndarray, "H W 3"], list[str]] | None:
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
            pixels, notes = _pixels(image, name)
    except Exception:  # the reason of the other reader stands
        return None
    if 16 in bits and (notes or dark_note(pixels)):
        return None
    return pixels, [*notes, *([bands_note(len(bits))] if len(bits) > 3 else [])]


def _of_bands(
    found: Bands, bands: Sequence[int] | None, name: str
) -> tuple[UInt8[np.ndarray, "H W 3"], list[str]]:
    try:
        pixels, notes = to_rgb(found, bands)
    except BandError as e:
        raise PhotoError(f"{name} {e}") from e
    turn = _UPRIGHT.get(found.orientation)
    return pixels if turn is None else np.array(Image.fromarray(pixels).transpose(turn)), notes


def _pixels(image: Image.Image, name: str) -> tuple[UInt8[np.ndarray, "H W 3"], list[str]]:
    if image.width * image.height > MAX_PIXELS:
        raise PhotoError(f"{name} has {image.width}x{image.height} pixels. {_TOO_LARGE}")
    if image.width * image.height == 0:
        raise PhotoError(f"{name} is empty: {image.width}x{image.height} pixels. It needs at least 1x1.")
    deep = any(";16" in str(part) for tile in getattr(image, "tile", ()) for part in tile[3:])
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as e:  # as above
        # Pillow does not decode all JPEG 2000 files that GDAL and other programs write.
        other = " If other programs show it, convert it to PNG or TIFF." if image.format == "JPEG2000" else ""
        raise PhotoError(
            f"{name} is damaged or cut short: {e}. Its header says {image.width}x{image.height} pixels"
            f" ({image.format}). Copy or download it again.{other}"
        ) from e
    turn, pages = _UPRIGHT.get(_orientation(image)), _pages(image)
    if image.mode in ("F", "I") or image.mode.startswith("I;16"):
        pixels, notes = _of_bands(Bands(_values(image)[..., None], pages=pages), None, name)
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
    if image.mode in (
        "RGBa",
        "La",
    ):  # premultiplied alpha, which Pillow converts only to straight alpha
        image = image.convert(image.mode.replace("a", "A"))
    try:
        return image.convert("RGB")
    except ValueError as e:
        raise PhotoError(
            f"{name} has the colour mode {image.mode}, which has no RGB form. Save it as RGB."
        ) from e


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:
        return 1  # as in image viewers, EXIF that cannot be read is ignored


def _from_array(array: np.ndarray) -> UInt8[np.ndarray, "H W 3"]:
    found = f"The photo is an array of {array.dtype} {list(array.shape)}"
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        hint = ""
        if array.ndim == 3 and array.shape[2] == 4:
            hint = " Drop alpha with photo[..., :3]."
        elif array.ndim == 3 and array.shape[0] == 3:
            hint = " Channels come last: np.moveaxis(photo, 0, -1)."
        elif array.ndim == 4:
            hint = " Pass several photos as a list, or one of them: photo[0]."
        raise PhotoError(f"{found}; expected uint8 [height, width, 3], or [height, width] for grey.{hint}")
    if array.dtype != np.uint8:
        raise PhotoError(
            f"{found}; expected uint8, 0..255. {_TO_UINT8.get(array.dtype.kind, _TO_UINT8['i'])}"
        )
    if array.size == 0:
        raise PhotoError(f"{found}, which is empty. It needs at least one pixel.")
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise PhotoError(f"{found}, which is too large. {_TOO_LARGE}")
    return np.ascontiguousarray(array if array.ndim == 3 else np.repeat(array[..., None], 3, axis=2))


_TOO_LARGE = f"The limit is {MAX_PIXELS:,} (100 megapixels): scale it down, or cut it into tiles."
_TO_UINT8 = {
    "f": "For values of 0..1: np.rint(photo * 255).clip(0, 255).astype(np.uint8);"
    " for 0..255: np.rint(photo).clip(0, 255).astype(np.uint8).",
    "b": "np.uint8(255) * photo makes it black and white.",
    "u": "For 16 bits: (photo >> 8).astype(np.uint8).",
    "i": "Where all values are 0..255: photo.astype(np.uint8).",
}


def _foreign(name: str, start: bytes) -> str:
    if not start:
        return f"{name} is an empty file, not an image. Copy or download it again."
    if start[4:8] == b"ftyp":
        return f"{name} is a HEIC image or a video, which cannot be read. Convert it to JPEG or PNG."
    return f"{name} is not an image of a known kind: it begins with {start!r}. Convert it to JPEG or PNG."
