"""Photos beside annotations, for tools that look for them there: links, or copies where links are not possible.

Hard links come first: some tools refuse symbolic links that leave the folder.
"""

import filecmp
import os
import shutil
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from corrclip_jax.formats.images import Entry, Images
from corrclip_jax.formats.target import Target
from corrclip_jax.io.files import OutputError, explained

FOLDER = "images"


def by_name(entry: Entry) -> str:
    """The name of a link that keeps the sub-folders and suffix of its photo."""
    return entry.name


def link_photos(target: Target, images: Images, link: Callable[[Entry], str]) -> None:
    """Link to every photo from images/<name>; what is there already is kept, but for links to other photos.

    Photos that are missing are noted, and so are files in the place of a photo that are not it, as a link to one
    that has been replaced since.

    Args:
      target: the folder of the format.
      images: whose photos.
      link: an image to the name of its link.

    Raises:
      OutputError: if a link or copy cannot be written.
    """
    folder, states = target.own.folder, Counter[str]()
    for entry in images.entries:
        name = f"{FOLDER}/{link(entry)}"
        before = target.links.get(name, str(entry.photo))
        states[_place(folder / name, entry.photo, Path(before))] += 1
    if missing := states["missing"]:
        photos = "1 photo is" if missing == 1 else f"{missing} photos are"
        images.notes.append(f"{photos} not where the results say, and missing in {folder / FOLDER}.")
    if others := states["another"]:
        files = "1 file is not the photo" if others == 1 else f"{others} files are not the photos"
        images.notes.append(
            f"{files} of that name any more in {folder / FOLDER}: delete it and export again."
        )


def remove_link(place: Path, photo: Path) -> bool:
    """Delete what `link_photos` made of a photo: a link, or a copy that still equals it.

    Returns:
      False for what is kept: another file, or the only one that is left of the photo.

    Raises:
      OutputError: if it cannot be read or deleted.
    """
    try:
        is_link = place.is_symlink() and place.readlink() == photo
        is_photo = is_link or (not place.is_symlink() and photo.is_file() and _is_same(place, photo))
        if is_photo:
            place.unlink()
    except OSError as error:
        raise OutputError(explained(place, error)) from error
    return is_photo


def _is_same(place: Path, photo: Path) -> bool:
    return place.exists() and (place.samefile(photo) or filecmp.cmp(place, photo, shallow=False))


def _place(place: Path, photo: Path, before: Path) -> str:
    """What is in the place: the photo ("placed"), "another" file, or nothing as the photo is "missing".

    A link to the photo that was there before, which is another one, is replaced.
    """
    try:
        if not photo.is_file():
            return "missing"
        if os.path.lexists(place):
            if _is_same(place, photo):
                return "placed"
            if before == photo or not remove_link(place, before):
                return "another"
        place.parent.mkdir(parents=True, exist_ok=True)
        for link in (_hard_link, _symbolic_link):
            with suppress(OSError):
                link(photo, place)
                return "placed"
        shutil.copyfile(photo, place)
    except OSError as error:
        raise OutputError(explained(place, error)) from error
    return "placed"


def _hard_link(photo: Path, place: Path) -> None:
    place.hardlink_to(photo.resolve())


def _symbolic_link(photo: Path, place: Path) -> None:
    place.symlink_to(photo)
