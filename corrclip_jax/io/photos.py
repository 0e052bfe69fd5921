"""Photos: reading image files of many kinds as upright uint8 RGB arrays.

As in the authors' implementation, which uses OpenCV: EXIF rotation is applied, transparency is dropped (the
colour of a transparent pixel is used), colour profiles are ignored, and 16-bit pixels are reduced to their
upper eight bits.
"""

import os
import struct
import threading
import warnings
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, UnidentifiedImageError

MAX_PIXELS = 100_000_000
"""Limit on the pixels of a photo, since a small file can decode to more memory than there is."""

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif"}
)
"""Suffixes of photos in a folder; a file that is given by name may have any suffix."""

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
# Exceptions of Pillow's decoders for damaged files.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, struct.error, zlib.error)


class PhotoError(ValueError):
    """A photo that cannot be read, or an array of another shape or dtype."""


class _Quiet:
    """Number of threads that read at present, which share Python's warning filters."""

    lock = threading.Lock()
    readers = 0
    filters = warnings.catch_warnings()


@contextmanager
def _quiet_pillow() -> Iterator[None]:
    # Pillow warns about EXIF that it cannot parse, which is harmless, and about large images, which are refused
    # here.
    with _Quiet.lock:
        if _Quiet.readers == 0:
            _Quiet.filters = warnings.catch_warnings()
            _Quiet.filters.__enter__()
            warnings.simplefilter("ignore")
        _Quiet.readers += 1
    try:
        yield
    finally:
        with _Quiet.lock:
            _Quiet.readers -= 1
            if _Quiet.readers == 0:
                _Quiet.filters.__exit__(None, None, None)


@_quiet_pillow()
def read_photo(photo: str | os.PathLike | Image.Image | Any) -> UInt8[np.ndarray, "H W 3"]:
    """Read a photo.

    Args:
      photo: a path, a PIL image of any mode, or an array: uint8 [H, W, 3], or [H, W] for grey.

    Returns:
      Upright RGB pixels, uint8 [H, W, 3]. Grey, palette and CMYK images are converted to RGB; of an animation the
      first frame is taken.

    Raises:
      PhotoError: for a file that is missing, damaged, empty or no image, more than `MAX_PIXELS` pixels, pixels
        of 32 bits, or an array of another dtype or rank. The message names the photo, what was found, and what
        to do.
    """
    if isinstance(photo, Image.Image):
        return _pixels(photo, f"the image ({photo.mode}, {photo.width}x{photo.height})")
    if isinstance(photo, str | os.PathLike):
        return _read_file(Path(photo))
    return _from_array(np.asarray(photo))


@_quiet_pillow()
def photo_size(photo: str | os.PathLike | Image.Image | Any) -> tuple[int, int]:
    """Height and width of the array that `read_photo` returns; of a file usually from its header alone.

    Raises:
      PhotoError: if the photo cannot be opened. Damage after the header is found by `read_photo` only.
    """
    if not isinstance(photo, str | os.PathLike):
        return read_photo(photo).shape[:2]
    try:
        with Image.open(photo) as image:
            if image.format == "TIFF":  # Pillow applies the orientation while it loads
                return read_photo(photo).shape[:2]
            size = image.height, image.width
            return size if _orientation(image) < 5 else size[::-1]
    except (*_DAMAGED, Image.DecompressionBombError):
        return read_photo(photo).shape[:2]  # raises an error with the reason


def find_photos(paths: Iterable[str | os.PathLike]) -> list[Path]:
    """List the photos at `paths`: files, and the images in folders, sorted by name, without subfolders.

    A file that is given by name is listed whatever its suffix; every file is listed once. No file is opened.

    Raises:
      PhotoError: for a path that does not exist, or a folder without images.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
            if not inside:
                raise PhotoError(
                    f"{path} is a folder without images. Looked for {', '.join(sorted(SUFFIXES))}."
                )
        elif path.exists():
            inside = [path]
        else:
            raise PhotoError(f"{path} does not exist. Give photos, or folders of photos.")
        for file in inside:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def _read_file(path: Path) -> UInt8[np.ndarray, "H W 3"]:
    if path.is_dir():
        raise PhotoError(f"{path} is a folder. Give the photos in it one by one.")
    try:
        with Image.open(path) as image:
            return _pixels(image, str(path))
    except FileNotFoundError:
        raise PhotoError(f"{path} does not exist.") from None
    except UnidentifiedImageError:
        raise PhotoError(_foreign(path)) from None
    except Image.DecompressionBombError as e:
        raise PhotoError(f"{path} has too many pixels. {_TOO_LARGE} ({e})") from None
    except PhotoError:
        raise
    except _DAMAGED as e:
        raise PhotoError(f"{path} cannot be read: {e}.") from e


def _pixels(image: Image.Image, name: str) -> UInt8[np.ndarray, "H W 3"]:
    if image.width * image.height > MAX_PIXELS:
        raise PhotoError(f"{name} has {image.width}x{image.height} pixels. {_TOO_LARGE}")
    if image.width * image.height == 0:
        raise PhotoError(f"{name} is empty: {image.width}x{image.height} pixels. It needs at least 1x1.")
    try:
        image.load()
    except _DAMAGED as e:
        raise PhotoError(
            f"{name} is damaged or cut short: {e}. Its header says {image.width}x{image.height} pixels"
            f" ({image.format}). Copy or download it again."
        ) from e
    turn = _UPRIGHT.get(_orientation(image))
    rgb = _to_rgb(image, name)
    return np.array(rgb if turn is None else rgb.transpose(turn))


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        # Pillow's own conversion clips at 255. For 16-bit colour, Pillow and OpenCV use the upper byte.
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise PhotoError(
            f"{name} has 32 bits a pixel (mode {image.mode}), of unknown range. Scale it to 8 bits first:"
            " save it as PNG or JPEG, or pass a uint8 array."
        )
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
    except _DAMAGED:
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


def _foreign(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(16)
    if not start:
        return f"{path} is an empty file, not an image. Copy or download it again."
    if start[4:8] == b"ftyp":
        return f"{path} is a HEIC image or a video, which cannot be read. Convert it to JPEG or PNG."
    return f"{path} is not an image of a known kind: it begins with {start!r}. Convert it to JPEG or PNG."
