"""Answers of the web page: an uploaded photo and the text of class names to a view and files; no Gradio."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from corrclip_jax.app.view import view_of
from corrclip_jax.formats.images import Entry, Images, LabelledImage, Options, Vocabulary
from corrclip_jax.formats.table import FORMATS
from corrclip_jax.formats.target import Target
from corrclip_jax.inference.segmentation import Segmentation
from corrclip_jax.io.files import fitting_stem
from corrclip_jax.io.own_files import OwnFiles
from corrclip_jax.io.photos import PhotoError, photo_size
from corrclip_jax.runtime.memory import exhausted, too_large
from corrclip_jax.text.classes import parse_classes

MAX_MEGAPIXELS = 25
MAX_CLASSES = 1000
DOWNLOADS = ("png", "coco", "label-studio")
"""The formats of the files that are offered."""

Say: TypeAlias = Callable[[str], object]
Model: TypeAlias = Callable[[Any, Any], Segmentation]
"""What labels a photo with classes, as a `Segmenter` does."""


@dataclass(frozen=True)
class Question:
    """What a user asks for.

    Attributes:
      photo: the uploaded file; None if there is none.
      classes: the text of the class names.
      model: its name.
      threshold: pixels whose class is less probable get the first class.
      points: points per side of SAM's grid.
    """

    photo: Path | None
    classes: str
    model: str
    threshold: float = 0.0
    points: int = 8


@dataclass(frozen=True)
class Answer:
    """What a user gets.

    Attributes:
      view: for the page (see `view.view_of`).
      files: to download.
    """

    view: dict[str, Any]
    files: list[Path]


def answer(
    question: Question,
    model_for: Callable[[Question, Say], Model],
    folder: Path,
    say: Say = lambda text: None,
) -> Answer:
    """Label a photo.

    Args:
      question: the photo and how to label it.
      model_for: the model with the question's settings.
      folder: where the files are written; empty.
      say: called with the name of each step before it begins.

    Raises:
      ValueError: with a message for the user: no photo, one that cannot be read or is too large, unusable classes.
      OSError: if files cannot be written.
    """
    photo = _checked_photo(question.photo)
    classes = parse_classes(question.classes)
    if len(classes) > MAX_CLASSES:
        raise ValueError(f"this page takes at most {MAX_CLASSES:,} classes. Got {len(classes):,}.")
    model = model_for(question, say)
    say("Labelling; the first photo of its size takes longest")
    try:
        result = model(photo, classes)
    except PhotoError as error:
        raise ValueError(_named(error, photo)) from error
    except Exception as error:
        if not exhausted(error):
            raise
        raise ValueError(_named(too_large(photo), photo)) from error
    say("Writing the files")
    return Answer(view_of(result), write_files(result, photo, folder))


def write_files(result: Segmentation, photo: Path, folder: Path) -> list[Path]:
    """Write a result in the formats of `DOWNLOADS`, each in a folder of its own.

    Returns:
      The files, without the photo's own copies.
    """
    height, width = result.labels.shape
    entry = Entry(
        photo.name,
        fitting_stem(photo.stem, "-99999.png"),
        photo,
        width,
        height,
        "",
        lambda: LabelledImage(width, height, result.segments),
    )
    files = []
    for name in DOWNLOADS:
        target = Target(OwnFiles(folder / name), {}, overwrite=True)
        FORMATS[name].write(target, Vocabulary(result.classes), Images([entry]), Options(), "")
        files += sorted(path for path in target.own.folder.rglob("*") if _is_download(path))
    return files


def _is_download(path: Path) -> bool:
    """Whether a file is neither a photo's copy nor a journal."""
    return path.is_file() and path.parent.name != "images" and not path.name.startswith(".")


def _checked_photo(photo: Path | None) -> Path:
    """The photo, if its header says that it is one of a size that is accepted."""
    if photo is None:
        raise ValueError("there is no photo yet. Drop one on the page, take one, or choose an example.")
    try:
        height, width = photo_size(photo)
    except PhotoError as error:
        raise ValueError(_named(error, photo)) from error
    if height * width > MAX_MEGAPIXELS * 1_000_000:
        raise ValueError(
            f"{photo.name} has {width} x {height} pixels. This page takes {MAX_MEGAPIXELS} megapixels at most: "
            "scale it down, or use corrclip segment."
        )
    return photo


def _named(message: Exception | str, photo: Path) -> str:
    """A message about a photo with the name that the user knows in place of where the upload lies."""
    return str(message).replace(str(photo), photo.name)
