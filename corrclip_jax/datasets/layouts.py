"""Folder layouts of benchmarks: the published trees, as patterns; errors list what is missing."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from corrclip_jax.datasets.dataset import DatasetError, by_stem, some
from corrclip_jax.datasets.label_files import SUFFIXES, label_files
from corrclip_jax.io.photo_files import find_photos


class Pair(NamedTuple):
    """A photo and its label file."""

    photo: Path
    labels: Path


@dataclass(frozen=True)
class Layout:
    """A published tree.

    `folders` are the places it may have below the root; the root may be that folder itself. `photos` and `labels`
    are patterns in it, in which {id} and any other word in braces stand for a part of a name. `ids` is a file that
    lists the ids, one a line; without it every file that fits a pattern counts, and `more_photos` says that the
    photos' folder holds photos of other splits too. `count` is the published number of pictures, where it is known
    for certain. `made_by` is the command that makes the label files.
    """

    folders: tuple[str, ...]
    photos: str
    labels: str
    ids: str | None = None
    more_photos: bool = False
    count: int | None = None
    made_by: str | None = None

    def picture(self, root: Path) -> str:
        """How the tree should look, for people."""
        lines = [f"{root / self.folders[0]}/"]
        for pattern, what in [
            (self.photos, "the photos"),
            (self.labels, f"made by `{self.made_by}`" if self.made_by else "the label files"),
            (self.ids, "the ids, one a line"),
        ]:
            if pattern:
                lines.append("    " + re.sub(r"{(\w+)}", r"<\1>", pattern) + f"    {what}")
        return "\n".join(lines)


def find_pairs(name: str, layout: Layout, root: Path) -> list[Pair]:
    """All photos and label files of a benchmark's tree below `root`, sorted by id (or in the order of its list).

    Raises:
      DatasetError: where there is no such tree, or files of it are missing: which, and how it should look.
    """
    folder = _folder(name, layout, root)
    if layout.ids is None:
        photos, labels = (_fitting(folder, pattern) for pattern in (layout.photos, layout.labels))
        keys = sorted(labels if layout.more_photos else {*photos, *labels})
        pairs = [Pair(_path(folder, layout.photos, key), _path(folder, layout.labels, key)) for key in keys]
        missing = [
            path
            for key, pair in zip(keys, pairs, strict=True)
            for path, there in zip(pair, (photos, labels), strict=True)
            if key not in there
        ]
    else:
        listed = (folder / layout.ids).read_text("utf-8").split()
        pairs = [
            Pair(*(folder / pattern.format(id=id) for pattern in (layout.photos, layout.labels)))
            for id in listed
        ]
        missing = [path for pair in pairs for path in pair if not path.is_file()]
    if missing or not pairs:
        lacking = f"{len(missing)} files" if len(missing) > 1 else "a file"
        files = some([str(path.relative_to(folder)) for path in missing])
        what = f"lacks {lacking}: {files}" if missing else "holds no images"
        raise DatasetError(f"{name}: {folder} {what}.\nIt should look like this:\n{layout.picture(root)}")
    return pairs


def own_pairs(photos: Path, labels: Path) -> list[Pair]:
    """The photos of a folder, each with the label file of the same stem, sorted by name.

    Raises:
      DatasetError: for folders that do not exist, photos without label file or the other way round, and photos or
        label files of one stem.
      PhotoError: for a folder without pictures.
    """
    for folder in (photos, labels):
        if not folder.is_dir():
            raise DatasetError(
                f"{folder} is no folder. --images and --labels are folders of files of equal stems."
            )
    found, maps = by_stem(find_photos([photos])), label_files(labels)
    for what, files in (("photos", found), ("label files", maps)):
        if twice := [str(path) for paths in files.values() if len(paths) > 1 for path in paths]:
            raise DatasetError(f"{what} of one stem cannot be told apart: {some(twice)}. Keep one of each.")
    if lone := sorted(found.keys() ^ maps.keys()):
        names = [f"{stem} ({'no label file' if stem in found else 'no photo'})" for stem in lone]
        raise DatasetError(
            f"photos in {photos} and label files in {labels} must have equal stems: {some(names)}. Label files end "
            f"in {', '.join(SUFFIXES)}."
        )
    return [Pair(paths[0], maps[stem][0]) for stem, paths in found.items()]


def _folder(name: str, layout: Layout, root: Path) -> Path:
    """The tree below the root: where all of its parts begin, or the one place where some do."""
    parts = [pattern.split("{")[0].rsplit("/", 1)[0] for pattern in (layout.photos, layout.labels)]
    wanted = [*parts, *([layout.ids] if layout.ids else [])]
    places = [*(root / folder for folder in layout.folders), root]
    for place in places:
        if all((place / part).exists() for part in wanted):
            return place
    nearest = max(places, key=lambda place: sum((place / part).exists() for part in wanted))
    if any((nearest / part).exists() for part in wanted):
        missing = [str(nearest / part) for part in wanted if not (nearest / part).exists()]
        what = f"the tree lacks {', '.join(missing)}"
    else:
        what = f"there is no such tree in {root}" if root.is_dir() else f"{root} is no folder"
    raise DatasetError(f"{name}: {what}.\nIt should look like this:\n{layout.picture(root)}")


def _fitting(folder: Path, pattern: str) -> set[tuple[str, ...]]:
    """What stands for the words in braces, of every file that fits."""
    expression = re.compile(
        "".join(
            f"(?P<{part}>[^/]+)" if odd % 2 else re.escape(part) for odd, part in enumerate(_split(pattern))
        )
    )
    files = (path.relative_to(folder) for path in folder.glob(re.sub(r"{\w+}", "*", pattern)))
    shown = (path for path in files if not any(part.startswith(".") for part in path.parts))
    matches = map(expression.fullmatch, (path.as_posix() for path in shown))
    return {match.groups() for match in matches if match}


def _path(folder: Path, pattern: str, key: tuple[str, ...]) -> Path:
    return folder / pattern.format(**dict(zip(_split(pattern)[1::2], key, strict=True)))


def _split(pattern: str) -> list[str]:
    """Texts and the words in braces between them, alternating."""
    return re.split(r"{(\w+)}", pattern)
