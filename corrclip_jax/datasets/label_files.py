"""Label files: one number a pixel, which a benchmark's own rule turns into a class."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Int32
from PIL import Image, UnidentifiedImageError

from corrclip_jax.datasets.dataset import NOT_SCORED, by_stem, some
from corrclip_jax.io.index_images import IndexImageError, stored_numbers
from corrclip_jax.io.photos import MAX_PIXELS

SUFFIXES = (".png", ".tif", ".tiff", ".bmp")

# One number a pixel: palette, 8, 1, 16 and 32 bits. Palettes colour the numbers, they do not change them.
_MODES = frozenset({"P", "L", "1", "I", "I;16", "I;16L", "I;16B"})
_KINDS = {"F": "fractions", "LA": "transparency", "La": "transparency", "PA": "transparency"}
_MOST = 1 << 16


Ignored: TypeAlias = int | Literal["auto"] | None
"""A number that is not scored, None for no number, "auto" for 255 where that is not a class's."""
_USUAL = 255


class LabelError(ValueError):
    """A label file that cannot be read, or that holds what its data set does not know."""


def read_ids(path: str | os.PathLike) -> Int32[np.ndarray, "H W"]:
    """The numbers in a label file, as they are stored: of 1 to 32 bits, grey or with a palette.

    Raises:
      LabelError: for a missing, damaged or foreign file, a picture with colours in place of numbers, a format that
        does not keep numbers, and numbers below 0 or of more than 16 bits.
    """
    try:
        with Image.open(path) as image:
            if image.mode not in _MODES:
                raise LabelError(
                    f"{path} is a picture with {_KINDS.get(image.mode, 'colours')} ({image.mode}). A label file "
                    "holds one number a pixel: save it as PNG with a palette, or in grey of 8 or 16 bits."
                )
            if image.width * image.height > MAX_PIXELS:
                raise LabelError(
                    f"{path} has {image.width}x{image.height} pixels. The limit is {MAX_PIXELS:,}."
                )
            ids = stored_numbers(image)
    except FileNotFoundError:
        raise LabelError(f"The label file {path} does not exist.") from None
    except IndexImageError as e:
        raise LabelError(f"{path} is no label file: {e}.") from None
    except UnidentifiedImageError:
        raise LabelError(f"{path} is no picture of a known kind. Copy or download it again.") from None
    except (OSError, SyntaxError, EOFError, Image.DecompressionBombError) as e:
        raise LabelError(f"{path} is damaged or cut short: {e}. Copy or download it again.") from e
    if ids.size and not 0 <= ids.min() <= ids.max() < _MOST:
        raise LabelError(f"{path} holds the numbers {ids.min()} to {ids.max()}. Labels have 8 or 16 bits.")
    return ids


def ignored_number(num_classes: int, first_id: int, ignored: Ignored) -> int | None:
    """The number that is not scored; see `Ignored`. With 256 classes from 0, 255 is one of them."""
    if ignored != "auto":
        return ignored
    return None if first_id <= _USUAL < first_id + num_classes else _USUAL


def ignored_note(names: Sequence[str], first_id: int, ignored: Ignored) -> str:
    """What to say where 255, or the number that was chosen, is that of a class; "" where it is not."""
    number = _USUAL if ignored == "auto" else ignored
    if number is None or not first_id <= number < first_id + len(names):
        return ""
    name = names[number - first_id]
    if ignored == "auto":
        return f"{number} is the class {name!r} and is scored: if these files leave it out, give --ignored {number}"
    return f"{number} (--ignored) is the class {name!r}, which is left out"


def read_labels(
    path: str | os.PathLike, num_classes: int, *, first_id: int = 0, ignored: Ignored = "auto"
) -> Int32[np.ndarray, "H W"]:
    """The class of every pixel, 0 .. `num_classes` - 1; `NOT_SCORED` where there is none to score.

    The number of class 0 in the file is `first_id`. What is not scored is `ignored` and, where classes start at
    one, 0 (mmsegmentation's `reduce_zero_label`). By default 255 is ignored, unless it is a class's number.

    Raises:
      LabelError: what `read_ids` refuses, and a number that is neither a class nor ignored: then the file follows
        another list of classes.
    """
    ids, ignored = read_ids(path), ignored_number(num_classes, first_id, ignored)
    classes = ids - first_id
    skipped = (ids < first_id) | (ids == (-1 if ignored is None else ignored))
    foreign = np.unique(ids[~skipped & (classes >= num_classes)])
    if foreign.size:
        left_out = ", ".join(map(str, [*range(first_id), *([] if ignored is None else [ignored])]))
        raise LabelError(
            f"{path} holds the number{'s' * (foreign.size > 1)} {some([str(id) for id in foreign])}. The classes "
            f"are {first_id} to {first_id + num_classes - 1}, and left out is {left_out or 'nothing'}: is it made "
            "for another list of classes?"
        )
    classes[skipped] = NOT_SCORED
    return classes


def label_files(folder: Path) -> dict[str, list[Path]]:
    """The label files of a folder by their stems; hidden files are left out."""
    return by_stem(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
