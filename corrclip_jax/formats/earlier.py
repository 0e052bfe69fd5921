"""What an earlier export left in the folder of a format: annotations of other images, and links to their photos.

The folder of a format holds the images of the last export and their classes alone, whether the format has one file
for all images or one for each. A list in the folder says which photos were exported, with the names of their links,
which the journal of own files does not know, and what stands for their classes.
"""

import json
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, TypeAlias

from corrclip_jax.formats.images import Entry, Images, Vocabulary
from corrclip_jax.formats.photos import FOLDER, remove_link
from corrclip_jax.formats.target import Target
from corrclip_jax.io.files import OutputError, explained
from corrclip_jax.io.own_files import value_digest

LIST = ".corrclip-images.jsonl"


class _Exported(NamedTuple):
    """The links to a photo, by their names in the folder of the format, and the mark of its classes."""

    links: list[str]
    classes: str


_Photos: TypeAlias = dict[str, _Exported]


class OtherClassesError(OutputError):
    """A folder of annotations with other classes, of images that would be lost."""


def check_classes(folder: Path, vocabulary: Vocabulary, photos: Collection[Path]) -> None:
    """Refuse a format's folder with annotations of other photos, which are still there, with other classes.

    Args:
      folder: of the format; need not exist.
      vocabulary: the classes that are to be written.
      photos: all that are to be written, as absolute paths.

    Raises:
      OtherClassesError: if there are any.
      OutputError: if what is known of the folder cannot be read.
    """
    wanted = set(map(str, photos))
    others = [
        photo
        for photo, one in _read(folder).items()
        if one.classes != vocabulary.mark and photo not in wanted and Path(photo).exists()
    ]
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise OtherClassesError(
            f"{folder} has other classes, for photos that are not among these ({others[0]}{more}): keep results of "
            "different lists of classes in different folders (--out), segment those photos again as well, or "
            "replace their annotations with --overwrite."
        )


@contextmanager
def replacing(
    target: Target, vocabulary: Vocabulary, images: Images, link: Callable[[Entry], str] | None
) -> Iterator[None]:
    """Write a format in the block; then what an earlier export left of other images is removed, and noted.

    Removed are the program's own files, as it wrote them, and links that still are the photo.

    Args:
      target: the folder.
      vocabulary: the classes.
      images: which are written, for the notes.
      link: an image to the name of its link; None for a format without links.

    Raises:
      OutputError: if a file cannot be read, written or removed.
    """
    folder, before, now = target.own.folder, _read(target.own.folder), _Photos()
    for entry in images.entries:
        links = [] if link is None else [f"{FOLDER}/{link(entry)}"]
        known = now.setdefault(str(entry.photo), _Exported([], vocabulary.mark))
        known.links.extend(links)
    target.links = {name: photo for photo, one in before.items() for name in one.links}
    _write(target, _both(before, now))  # so that a run that is killed leaves nothing unknown
    yield
    removed, kept = _remove_files(target)
    linked = {name for one in now.values() for name in one.links}
    for name, photo in target.links.items():
        if name not in linked and os.path.lexists(folder / name):
            if remove_link(folder / name, Path(photo)):
                _remove_empty(folder, name)
                removed += 1
            else:
                kept.append(name)
    _write(target, now)
    images.notes += _notes(folder, sum(photo not in now for photo in before), removed, kept)


def _notes(folder: Path, gone: int, removed: int, kept: list[str]) -> list[str]:
    notes, files = [], f"{removed} file{'s' * (removed != 1)}"
    if gone:
        others = "1 image of an earlier run was" if gone == 1 else f"{gone} images of an earlier run were"
        notes.append(
            f"{folder}: {others} not among these and taken out, {files} removed. corrclip export-labels writes all "
            "results in a folder."
        )
    elif removed:
        notes.append(f"{folder}: {files} of an earlier run removed, whose images have other names now.")
    if kept:
        shown = ", ".join(kept[:3]) + (", ..." if len(kept) > 3 else "")
        notes.append(
            f"Kept in {folder}, though of no image of these, for they were changed since, or are photos that are "
            f"nowhere else: {shown}. Delete what you do not need."
        )
    return notes


def _remove_files(target: Target) -> tuple[int, list[str]]:
    """Remove the own files that were not written or kept now: how many, and those left as others changed them."""
    removed, kept = 0, []
    for names, made in target.own.written.items():
        # A folder may also hold results of a command that was given its name.
        for name in names if made.keys() >= target.made.keys() else ():
            path = target.own.folder / name
            if name in target.current or not os.path.lexists(path):
                continue
            if not target.own.wrote(name):
                kept.append(name)
                continue
            try:
                path.unlink()
            except OSError as error:
                raise OutputError(explained(path, error)) from error
            _remove_empty(target.own.folder, name)
            removed += 1
    return removed, kept


def _remove_empty(folder: Path, name: str) -> None:
    """Remove the folders of a file that are empty without it."""
    with suppress(OSError):
        for parent in (folder / name).parents:
            if parent == folder:
                return
            parent.rmdir()


def _both(before: _Photos, now: _Photos) -> _Photos:
    """What is there before the new export is complete."""
    both = dict(before)
    for photo, one in now.items():
        links = before[photo].links if photo in before else []
        both[photo] = _Exported(list(dict.fromkeys([*links, *one.links])), one.classes)
    return both


def _read(folder: Path) -> _Photos:
    """The photos of the list in a folder; none without a list, and no line that is damaged."""
    found = _Photos()
    try:
        text = (folder / LIST).read_text("utf-8", errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return found
    except OSError as error:
        raise OutputError(explained(folder / LIST, error)) from error
    for line in text.splitlines():
        with suppress(ValueError, KeyError, TypeError):
            one = json.loads(line)
            found[str(one["photo"])] = _Exported(list(map(str, one["links"])), str(one["classes"]))
    return found


def _write(target: Target, photos: _Photos) -> None:
    lines = [json.dumps({"photo": photo, **one._asdict()}) for photo, one in sorted(photos.items())]
    target.write(LIST, value_digest(lines), "".join(f"{line}\n" for line in lines).encode())
