"""Photos: reading image files of many kinds as upright uint8 RGB arrays.

As in the authors' implementation, which uses OpenCV: EXIF rotation is applied, transparency is dropped (the
colour of a transparent pixel is used), colour profiles are ignored, and 16-bit pixels are reduced to their
upper eight bits. Where that would be nearly black, and for other kinds of numbers and bands, see `io.bands`;
a `PhotoWarning` then says what was done.
"""

import io
import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

from corrclip_jax.io.bands import BandError, Bands, has_other_bands, read_tiff
from corrclip_jax.io.pillow_images import (
    MAX_PIXELS,
    TOO_LARGE,
    PhotoError,
    grey_bands,
    orientation_of,
    pixels_of,
    quiet_pillow,
    rgb_of_bands,
    upper_bytes,
)


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


@quiet_pillow()
def _read(
    photo: Any, name: str, bands: Sequence[int] | None = None
) -> tuple[UInt8[np.ndarray, "H W 3"], list[str]]:
    """The pixels of a photo, and notes on what was chosen and stretched."""
    if isinstance(photo, BandsOf):
        photo, bands = photo.path, photo.bands
    try:
        return _opened(photo, name, bands)
    except MemoryError as e:
        raise PhotoError(f"{name} needs more memory than there is. {TOO_LARGE}") from e


def _opened(
    photo: Any, name: str, bands: Sequence[int] | None
) -> tuple[UInt8[np.ndarray, "H W 3"], list[str]]:
    if isinstance(photo, Image.Image):
        return pixels_of(photo, name)
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


@quiet_pillow()
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
                return size if orientation_of(image) < 5 else size[::-1]
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
    return (pixels, notes) if bands is None else rgb_of_bands(Bands(pixels), bands, name)


def _decoded(file: Any, name: str, start: bytes) -> tuple[UInt8[np.ndarray, "H W 3"], list[str]]:
    """Pixels of an opened file; `start` are its first bytes, for messages."""
    try:
        with Image.open(file) as image:
            return pixels_of(image, name)
    except UnidentifiedImageError:
        raise PhotoError(_foreign(name, start)) from None
    except Image.DecompressionBombError as e:
        raise PhotoError(f"{name} has too many pixels. {TOO_LARGE} ({e})") from None
    except (PhotoError, MemoryError):
        raise
    except Exception as e:  # Pillow's decoders raise whatever damaged data makes them raise
        raise PhotoError(f"{name} cannot be read: {e}.") from e


_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _is_survey(file: Any) -> bool:
    """Whether Pillow cannot read a TIFF without loss."""
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
        grey = grey_bands(file)
        if grey is not None:
            return rgb_of_bands(grey, bands, name)
        upper = upper_bytes(file, name) if bands is None else None
        if upper is None:
            raise PhotoError(f"{name} {e}") from e
        return upper
    return rgb_of_bands(found, bands, name)


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
        raise PhotoError(f"{found}, which is too large. {TOO_LARGE}")
    return np.ascontiguousarray(array if array.ndim == 3 else np.repeat(array[..., None], 3, axis=2))


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
