"""Answers of the web page: uploaded photos and the text of class names to views and files; no Gradio."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from corrclip_jax.app.view import view_of
from corrclip_jax.formats.images import Entry, Images, LabelledImage, Options, Vocabulary
from corrclip_jax.formats.label_studio import LOCAL_FILES
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
MAX_PHOTOS = 20
DOWNLOADS = ("png", "coco", "label-studio")
"""The formats of the files that are offered."""
_PREFIX = f"{LOCAL_FILES}photos/"  # for photos in a folder with this name

Say: TypeAlias = Callable[[str], object]
Model: TypeAlias = Callable[[Any, Any], Segmentation]
"""What labels a photo with classes, as a `Segmenter` does."""


@dataclass(frozen=True)
class Question:
    """What a user asks for.

    Attributes:
      photos: the uploaded files.
      classes: the text of the class names.
      model: its name.
      threshold: pixels whose class is less probable get the first class.
      points: points per side of SAM's grid.
    """

    photos: Sequence[Path]
    classes: str
    model: str
    threshold: float = 0.0
    points: int = 8


@dataclass(frozen=True)
class Answer:
    """What a user gets.

    Attributes:
      views: of the photos that were labelled, for the page (see `view.view_of`).
      files: to download, of all of them.
      failed: messages about the other photos.
    """

    views: list[dict[str, Any]]
    files: list[Path]
    failed: list[str]


def answer(
    question: Question,
    model_for: Callable[[Question, Say], Model],
    folder: Path,
    say: Say = lambda text: None,
) -> Answer:
    """Label photos. One that cannot be labelled is named, and the others are labelled all the same.

    Args:
      question: the photos and how to label them.
      model_for: the model with the question's settings.
      folder: where the files are written; empty.
      say: called with the name of each step before it begins.

    Raises:
      ValueError: with a message for the user: no photo, none that can be read, too many, unusable classes.
      OSError: if files cannot be written.
    """
    photos = question.photos
    if not photos:
        raise ValueError("there is no photo yet. Drop one on the page, take one, or choose an example.")
    if len(photos) > MAX_PHOTOS:
        raise ValueError(
            f"this page labels at most {MAX_PHOTOS} photos at once. Got {len(photos)}: take some out, or use "
            "corrclip segment for a folder."
        )
    classes = parse_classes(question.classes)
    if len(classes) > MAX_CLASSES:
        raise ValueError(f"this page takes at most {MAX_CLASSES:,} classes. Got {len(classes):,}.")
    failed = {photo: message for photo in photos if (message := _fault(photo))}
    if len(failed) == len(photos):
        raise ValueError("\n".join(failed.values()))
    model = model_for(question, say)
    views: list[dict[str, Any]] = []
    entries: list[Entry] = []
    for number, photo in enumerate(photos, start=1):
        if photo in failed:
            continue
        which = f" {number} of {len(photos)}: {photo.name}" if len(photos) > 1 else ""
        say(f"Labelling{which}; the first photo of its size takes longest")
        try:
            result = _labelled(model, photo, classes)
        except ValueError as error:
            failed[photo] = str(error)
            continue
        name = _distinct(photo.name, [entry.name for entry in entries])
        views.append({**view_of(result), "name": name})
        entries.append(_entry(result, photo, name))
    if not entries:
        raise ValueError("\n".join(failed.values()))
    say("Writing the files")
    return Answer(views, write_files(entries, classes, folder), list(failed.values()))


def write_files(entries: list[Entry], classes: Sequence[Sequence[str]], folder: Path) -> list[Path]:
    """Write results in the formats of `DOWNLOADS`, each in a folder of its own.

    Returns:
      The files, without the photos' own copies.
    """
    files, vocabulary = [], Vocabulary(tuple(map(tuple, classes)))
    for name in DOWNLOADS:
        target = Target(OwnFiles(folder / name), {}, overwrite=True)
        FORMATS[name].write(target, vocabulary, Images(entries), Options(image_prefix=_PREFIX), "")
        files += sorted(path for path in target.own.folder.rglob("*") if _is_download(path))
    return files


def _labelled(model: Model, photo: Path, classes: Any) -> Segmentation:
    """The labels of a photo.

    Raises:
      ValueError: with a message for the user: a photo that cannot be read, or does not fit the memory.
    """
    try:
        return model(photo, classes)
    except PhotoError as error:
        raise ValueError(_named(error, photo)) from error
    except Exception as error:
        if not exhausted(error):
            raise
        raise ValueError(_named(too_large(photo), photo)) from error


def _entry(result: Segmentation, photo: Path, name: str) -> Entry:
    """What the formats take; it holds the segments, and nothing else of the result."""
    height, width = result.labels.shape
    image = LabelledImage(width, height, result.segments)
    return Entry(name, fitting_stem(Path(name).stem, "-99999.png"), photo, width, height, "", lambda: image)


def _distinct(name: str, taken: list[str]) -> str:
    """The name, with a number before it if a photo before has the same one but for its suffix."""
    stems = {Path(one).stem.casefold() for one in taken}
    number, found = 1, name
    while Path(found).stem.casefold() in stems:
        number += 1
        found = f"{number} {name}"
    return found


def _is_download(path: Path) -> bool:
    """Whether a file is neither a photo's copy nor a journal."""
    return path.is_file() and path.parent.name != "images" and not path.name.startswith(".")


def _fault(photo: Path) -> str | None:
    """Why a photo is not accepted, as far as its header says."""
    try:
        height, width = photo_size(photo)
    except PhotoError as error:
        return _named(error, photo)
    if height * width > MAX_MEGAPIXELS * 1_000_000:
        return (
            f"{photo.name} has {width} x {height} pixels. This page takes {MAX_MEGAPIXELS} megapixels at most: "
            "scale it down, or use corrclip segment."
        )
    return None


def _named(message: Exception | str, photo: Path) -> str:
    """A message about a photo with the name that the user knows in place of where the upload lies."""
    return str(message).replace(str(photo), photo.name)
