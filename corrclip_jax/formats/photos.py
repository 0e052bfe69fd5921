"""Photos beside annotations, for tools that look for them there: links, or copies where links are not possible.

Hard links come first: some tools refuse symbolic links that leave the folder.
"""

import filecmp
import os
import shutil
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from corrclip_jax.formats.images import Images
from corrclip_jax.io.files import OutputError, explained

FOLDER = "images"


def link_photos(folder: Path, images: Images, names: Iterable[str]) -> None:
    """Link to every photo from images/<name>; what is there already is kept.

    Photos that are missing are noted, and so are files in the place of a photo that are not it, as a link to one
    that has been replaced since.

    Args:
      folder: of the format.
      images: whose photos.
      names: of the links, in the order of the images.

    Raises:
      OutputError: if a link or copy cannot be written.
    """
    states = Counter(
        _place(folder / FOLDER / name, entry.photo) for name, entry in zip(names, images.entries, strict=True)
    )
    if missing := states["missing"]:
        photos = "1 photo is" if missing == 1 else f"{missing} photos are"
        images.notes.append(f"{photos} not where the results say, and missing in {folder / FOLDER}.")
    if others := states["another"]:
        files = "1 file is not the photo" if others == 1 else f"{others} files are not the photos"
        images.notes.append(
            f"{files} of that name any more in {folder / FOLDER}: delete it and export again."
        )


def _place(place: Path, photo: Path) -> str:
    """What is in the place: the photo ("placed"), "another" file, or nothing as the photo is "missing"."""
    try:
        if not photo.is_file():
            return "missing"
        if os.path.lexists(place):
            same = place.exists() and (place.samefile(photo) or filecmp.cmp(place, photo, shallow=False))
            return "placed" if same else "another"
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
