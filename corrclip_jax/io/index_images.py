"""Index images (label files, region maps): the numbers that are stored, not the grey that they are shown in."""

import re
from typing import Any

import numpy as np
from jaxtyping import Int32
from PIL import ImageFile

_KEEPING = ("PNG", "TIFF", "BMP", "GIF")  # formats that keep numbers; JPEG changes and PGM may stretch them
_JPEG = (6, 7)  # TIFF's compressions
_BITS = {"1": 1, "L": 8}
_COMPRESSION, _SAMPLE_FORMAT, _SIGNED = 259, 339, (2,)
# Pillow's names of grey samples: the bits where these are stretched to 8, "I" where 0 is shown white and the values
# are therefore inverted, "R" for bits in reversed order.
_GREY = re.compile(r"[1L](?:;(?P<bits>[24]?)(?P<inverted>I?)R?)?")


class IndexImageError(ValueError):
    """A picture whose stored numbers cannot be had."""


def stored_numbers(image: ImageFile.ImageFile) -> Int32[np.ndarray, "H W"]:
    """The numbers that an index image stores.

    Pillow stretches grey of 2 and 4 bits to 8 and inverts TIFFs in which 0 is white, to show them; both are undone.

    Args:
      image: an opened file of one channel (mode 1, L, P or I, or one that begins with I;16) that is not loaded yet.

    Raises:
      IndexImageError: for a format or compression that does not keep numbers, and for files that Pillow misreads
        or has no decoder for.
      OSError: and whatever else Pillow raises for a damaged file.
    """
    tags: Any = getattr(image, "tag_v2", {})
    if image.format not in _KEEPING or tags.get(_COMPRESSION) in _JPEG:
        kind = image.format if image.format not in _KEEPING else f"{image.format} compressed as JPEG"
        raise IndexImageError(f"{kind} does not keep numbers exactly: save them as PNG")
    if image.format == "BMP" and image.mode in ("1", "L") and _bmp_bits(image) != _BITS[image.mode]:
        raise IndexImageError("Pillow misreads a BMP of this palette of greys: save it as PNG")
    samples = _samples(image)
    try:
        values = np.array(image).astype(np.int32)
    except ValueError as error:  # Pillow opens some kinds that it has no decoder for
        raise IndexImageError(f"Pillow cannot read its pixels ({error}): save it as PNG") from error
    if image.mode not in ("1", "L"):
        return values
    if image.format == "TIFF" and tags.get(_SAMPLE_FORMAT) == _SIGNED:
        return values.astype(np.uint8).view(np.int8).astype(np.int32)
    grey = _GREY.fullmatch(samples) if image.format in ("PNG", "TIFF") else None
    if grey is None:
        return values
    most = 1 if image.mode == "1" else 255
    if grey["inverted"]:
        values = most - values
    return values // (most // (2 ** int(grey["bits"]) - 1)) if grey["bits"] else values


def _bmp_bits(image: ImageFile.ImageFile) -> int:
    """The bits of a pixel in a BMP. Where the palette is one of greys, Pillow does not look at them."""
    file: Any = image.fp
    file.seek(14)
    is_old = int.from_bytes(file.read(4), "little") == 12  # OS/2's short header
    file.seek(24 if is_old else 28)
    return int.from_bytes(file.read(2), "little")


def _samples(image: ImageFile.ImageFile) -> str:
    """Pillow's name of how the samples of a file are stored ("L;4I"); known before it is loaded."""
    arguments = image.tile[0][3] if image.tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)
