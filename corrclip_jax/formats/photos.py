"""Photos beside annotations, for tools that look for them there: links, or copies where links are not possible.

Hard links come first: some tools refuse symbolic links that leave the folder.
"""

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from corrclip_jax.formats.images import Images
from corrclip_jax.io.files import OutputError, explained

FOLDER = "images"


def link_photos(folder: Path, images: Images, names: Iterable[str]) -> None:
    """Link to every photo from images/<name>; what is there already is kept. Photos that are missing are noted.

    Args:
      folder: of the format.
      images: whose photos.
      names: of the links, in the order of the images.

    Raises:
      OutputError: if a link or copy cannot be written.
    """
    missing = sum(
        not _placed(folder / FOLDER / name, entry.photo)
        for name, entry in zip(names, images.entries, strict=True)
    )
    if missing:
        photos = "1 photo is" if missing == 1 else f"{missing} photos are"
        images.notes.append(f"{photos} not where the results say, and missing in {folder / FOLDER}.")


def _placed(place: Path, photo: Path) -> bool:
    if not photo.is_file():
        return False
    if os.path.lexists(place):
        return True
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        for link in (_hard_link, _symbolic_link):
            with suppress(OSError):
                link(photo, place)
                return True
        shutil.copyfile(photo, place)
    except OSError as error:
        raise OutputError(explained(place, error)) from error
    return True


def _hard_link(photo: Path, place: Path) -> None:
    place.hardlink_to(photo.resolve())


def _symbolic_link(photo: Path, place: Path) -> None:
    place.symlink_to(photo)
