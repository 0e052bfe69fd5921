"""Photo files: which photos are at the paths that a user names, and what a folder holds besides."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from corrclip_jax.io.own_files import OwnFiles
from corrclip_jax.io.photos import PhotoError

SUFFIXES = frozenset(
    {
        ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".jp2", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm",
        ".pgm", ".avif",
    }
)  # fmt: skip
"""Suffixes of photos in a folder; a file that is given by name may have any suffix."""

_HEIC = frozenset({".heic", ".heif"})


@dataclass
class PhotoFiles:
    """Photos at some paths.

    Attributes:
      photos: their files, each once.
      others: how many files of folders were left out, by suffix.
      folders: folders in folders that were not searched.
      links: links to folders in folders that were searched, which are not followed.
      own: files left out because an earlier run of this program wrote them.
      problems: messages about paths that do not exist, and folders that hold no images or cannot be read.
    """

    photos: list[Path] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    folders: int = 0
    links: int = 0
    own: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def left_out(self) -> str:
        """What was left out, as a sentence; empty if it was nothing."""
        parts = []
        if others := +self.others:
            kinds = ", ".join(f"{suffix or 'no suffix'} {n}" for suffix, n in sorted(others.items()))
            heic = "; convert HEIC images to JPEG" if _HEIC & others.keys() else ""
            parts.append(f"{_count(others.total(), 'other file')} ({kinds}{heic})")
        if self.folders:
            parts.append(f"{_count(self.folders, 'folder')} (--recursive looks into folders)")
        if self.links:
            parts.append(f"{_count(self.links, 'link')} to folders")
        if self.own:
            parts.append(f"{_count(self.own, 'result')} of earlier runs")
        return f"Left out: {', '.join(parts)}." if parts else ""

    def without_problems(self) -> "PhotoFiles":
        """The same.

        Raises:
          PhotoError: if there are problems.
        """
        if self.problems:
            raise PhotoError(" ".join(self.problems))
        return self


def find_photos(paths: Iterable[str | os.PathLike]) -> list[Path]:
    """List the photos at `paths`: files, and the images in folders, sorted by name, without subfolders.

    A file that is given by name is listed whatever its suffix; every file is listed once. No file is opened.

    Raises:
      PhotoError: for a path that does not exist, or a folder that holds no images or cannot be read.
    """
    return survey_photos(paths).without_problems().photos


def photos_in(folder: Path, *, recursive: bool = False, out: Path | None = None) -> list[Path]:
    """The photos of a folder as `survey_photos` finds them; empty where it would raise."""
    try:
        return survey_photos([folder], recursive=recursive, out=out).photos
    except PhotoError:
        return []


def survey_photos(
    paths: Iterable[str | os.PathLike], *, recursive: bool = False, out: Path | None = None
) -> PhotoFiles:
    """List the photos at `paths`, and what is left out.

    In folders, names that begin with "." and links to nothing are no photos, and neither are files that this
    program wrote. A link and the file that it leads to are one photo, under the name of the file.

    Args:
      paths: files, which may have any suffix, and folders.
      recursive: look into the folders of a folder, too; links to folders are not followed.
      out: a folder for results, which is not searched.

    Raises:
      PhotoError: if there are only problems.
    """
    survey = _Survey(recursive, out)
    for path in map(Path, paths):
        survey.add(path)
    found = survey.found
    found.photos = list(survey.listed.values())
    if not found.photos:
        raise PhotoError(" ".join(found.problems) or f"There are no photos. {found.left_out}")
    return found


def is_hidden(path: Path, folder: Path) -> bool:
    """Whether a path below a folder has a name with "." in front, as the companion files of macOS ("._a.jpg").

    >>> is_hidden(Path("photos/.thumbnails/a.jpg"), Path("photos"))
    True
    """
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


class _Survey:
    """The state of `survey_photos`: photos by their real paths, and the own files of each folder."""

    def __init__(self, recursive: bool, out: Path | None):
        self.found = PhotoFiles()
        self.listed: dict[Path, Path] = {}
        self._recursive = recursive
        self._out = None if out is None else out.resolve()
        self._own: dict[Path, OwnFiles] = {}

    def add(self, path: Path) -> None:
        """Add a file or the photos of a folder."""
        try:
            is_folder, exists = path.is_dir(), os.path.lexists(path)
        except OSError as error:
            self.found.problems.append(f"{path} cannot be read: {error.strerror or error}.")
            return
        if is_folder:
            problems, own = len(self.found.problems), self.found.own
            files = list(self._in_folder(path))
            if not files and problems == len(self.found.problems) and own == self.found.own:
                self.found.problems.append(
                    f"{path} is a folder without images. Looked for {', '.join(sorted(SUFFIXES))}."
                    f" {self.found.left_out}".rstrip()
                )
        elif exists and not path.is_file():
            kind = "pipe or a device. Save the photo as a file" if path.exists() else "link to nothing"
            self.found.problems.append(f"{path} is a {kind}.")
            return
        elif exists:
            files = [] if self._is_own(path) else [path]
        else:
            self.found.problems.append(_missing(path))
            return
        for file in files:
            real = file.resolve()
            if real not in self.listed or self.listed[real].is_symlink():
                self.listed[real] = file

    def _in_folder(self, folder: Path) -> Iterator[Path]:
        """The photos in a folder, sorted by name, those of its folders last."""
        found, inside = self.found, []
        try:
            entries = sorted(folder.iterdir())
        except OSError as error:
            found.problems.append(f"The folder {folder} cannot be read: {error.strerror or error}.")
            return
        for entry in entries:
            if is_hidden(entry, folder):
                continue
            try:
                is_folder, is_file = entry.is_dir(), entry.is_file()
            except OSError as error:
                found.problems.append(f"{entry} cannot be read: {error.strerror or error}.")
                continue
            if is_folder:
                inside.append(entry)
            elif is_file and entry.suffix.lower() not in SUFFIXES:
                found.others[entry.suffix.lower()] += not self._is_own(entry)
            elif is_file and not self._is_own(entry):
                yield entry
        for entry in inside:
            if entry.resolve() == self._out:
                continue
            if not self._recursive:
                found.folders += 1
            elif entry.is_symlink():
                found.links += 1
            else:
                yield from self._in_folder(entry)

    def _is_own(self, path: Path) -> bool:
        """Whether this program wrote a file: `*.jpg` of a second run may name results of the first."""
        folder = path.parent
        if folder not in self._own:
            self._own[folder] = OwnFiles(folder)
        if self._own[folder].wrote(path.name):
            self.found.own += 1
            return True
        return False


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"


def _missing(path: Path) -> str:
    if address := re.match(r"(https?|ftp|s3|gs|file):/", str(path)):
        place = f"{address[1]}://{str(path)[address.end() :]}"
        return f"{place} is an address, not a file. Download it first, or use --engine ray."
    return f"{path} does not exist. Give photos, or folders of photos."
