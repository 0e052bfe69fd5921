"""Atomic writes of files and folders, file names that fit, and a check that a folder is writable."""

import errno
import glob
import hashlib
import itertools
import json
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def atomic_folder(path: Path, own: Collection[str] = ()) -> Iterator[Path]:
    """A temporary folder next to `path`, renamed to `path` if the block succeeds and deleted if it fails.

    It takes the place of an existing folder. Files in that folder which this program did not write are kept,
    except below folders that it writes anew.
    Temporary folders of processes that were killed are deleted; a folder that they had moved aside is put back.

    Args:
      path: the folder to write.
      own: names that this program may have written to an existing folder, besides those that it writes now. All
        others are moved into the new folder.

    Raises:
      OSError: if it cannot be written; the message says what to do. Other errors of the block are raised as they
        are.
    """
    mark = f".{path.name}.partial-{platform.node()}-"
    temporary = path.parent / f"{mark}{os.getpid()}"
    old = path.parent / f"{temporary.name}{_OLD}"
    made = False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_up(path, mark, own)
        temporary.mkdir()
        made = True
        _in_use.add(temporary.absolute())
        yield temporary
        _replace(temporary, path, old, own)
    except OSError as error:
        if not is_of_writing(error, path, temporary, old):
            raise
        reason = error.strerror or error
        raise OSError(f"{path} cannot be written: {reason}. Choose another folder, or make room.") from error
    finally:
        if made:
            shutil.rmtree(temporary, ignore_errors=True)
            _in_use.discard(temporary.absolute())


_in_use: set[Path] = set()
"""Temporary folders of this process, whose id may be that of one that was killed."""
_OLD = "-old"
"""Ends the name of a folder that is moved aside until the new one has its name, and the files of others."""


def _clear_up(path: Path, mark: str, own: Collection[str]) -> None:
    """Delete temporary folders of processes that were killed, and put back what they had moved aside."""
    for stale in path.parent.glob(f"{glob.escape(mark)}*"):
        # The name of another machine may begin with that of this one.
        name = re.fullmatch(rf"(\d+)({_OLD})?", stale.name.removeprefix(mark))
        if name is None:
            continue
        temporary = stale.with_name(f"{mark}{name[1]}").absolute()
        if temporary in _in_use or (name[1] != str(os.getpid()) and _is_running(name[1])):
            continue
        with suppress(OSError):  # which hinders nobody: the next run tries again
            if name[2]:
                _put_back(stale, path, own)
            else:
                shutil.rmtree(stale)


def _replace(folder: Path, path: Path, old: Path, own: Collection[str]) -> None:
    """Rename `folder` to `path`; a folder that was there is deleted, without what is not this program's own."""
    if path.exists() and not path.is_dir():
        raise FileExistsError(errno.EEXIST, "a file has this name")
    replaces = path.exists()
    try:
        if replaces:
            path.rename(old)
        folder.rename(path)
    except BaseException:
        if replaces and not path.exists():
            old.rename(path)
        raise
    if replaces:
        _keep_foreign(old, path, own)


def _put_back(old: Path, path: Path, own: Collection[str]) -> None:
    """Undo what a killed process had begun, or end it where the new folder has its name already."""
    if path.is_dir():
        _keep_foreign(old, path, own)
    elif not os.path.lexists(path):
        old.rename(path)


def _keep_foreign(old: Path, path: Path, own: Collection[str]) -> None:
    """Move what is not this program's own from a folder into the one that takes its place; delete the rest."""
    for entry in old.iterdir():
        if entry.name not in own and not os.path.lexists(path / entry.name):
            entry.rename(path / entry.name)
    shutil.rmtree(old, ignore_errors=True)


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def is_of_writing(error: OSError, *places: Path) -> bool:
    """Whether an error that came up while `places` were written is one of writing them, not of reading others.

    It is, if it names one of them, something in one of them, or a folder on the way there. So it is if it names no
    file, as where an open file cannot grow: what reads in the meantime has to name its file. If it names two, one
    of them elsewhere (a file that is copied), it is one of writing only where the disk is full or must not be
    written.
    """
    names = [
        name for name in (error.filename, error.filename2) if isinstance(name, str | bytes | os.PathLike)
    ]
    ours = [any(_lies_on_the_way(name, place) for place in places) for name in names]
    return all(ours) or (any(ours) and error.errno in _FULL)


def _lies_on_the_way(name: str | bytes | os.PathLike, place: Path) -> bool:
    """Whether one of the two is the other, or lies in the other."""
    named, wanted = (Path(os.path.realpath(os.fsdecode(each))) for each in (name, place))
    return named == wanted or named in wanted.parents or wanted in named.parents


def _is_running(process: str) -> bool:
    """Whether a process with this id may be running."""
    if os.name != "posix":  # elsewhere os.kill(process, 0) is not a harmless check
        return True
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True


RESULT_SUFFIXES = (".png", ".overlay.jpg", ".json")
"""Suffixes of the files of a result: label map, overlay, description."""


PROBABILITIES_SUFFIX = ".probabilities.npz"


def result_names(stem: str, *, probabilities: bool = False) -> list[str]:
    """The names of the files of a result, the description last; with that of the probabilities if asked."""
    *others, description = RESULT_SUFFIXES
    more = [PROBABILITIES_SUFFIX] if probabilities else []
    return [f"{stem}{suffix}" for suffix in (*others, *more, description)]


def json_bytes(content: Any) -> bytes:
    """JSON in lines as UTF-8, whatever the locale is (see `utf8`).

    Raises:
      ValueError: for NaN and infinities, which JSON does not have.
    """
    return utf8(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def utf8(text: str) -> bytes:
    """Text of a JSON file as UTF-8; bytes of file names that are no UTF-8 become escapes like \\udce9."""
    # In some locales Python takes the UTF-8 of a file name for such bytes.
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape")
    return text.encode("utf-8", "backslashreplace")


_PROBE = bytes(1 << 16)


class OutputError(OSError):
    """A file or folder that cannot be written."""


def check_writable(folder: str | os.PathLike) -> None:
    """Check that files can be written to a folder, by writing a small one and deleting it.

    To be called before a long computation. A folder that does not exist is not made, for processes that start
    together check the same one: folders of its names are made and deleted in the one that would hold it.

    Raises:
      OutputError: if the folder cannot be created or written: a file has its name, no permission, a full disk ...
    """
    folder = Path(folder)
    wanted = folder.resolve() if ".." in folder.parts else folder
    there = next(path for path in (wanted, *wanted.parents) if os.path.lexists(path))
    try:
        with tempfile.TemporaryDirectory(dir=there, prefix=".probe-") as trial:
            like = trial / wanted.relative_to(there)
            like.mkdir(parents=True, exist_ok=True)
            with (like / "probe").open("wb") as probe:
                probe.write(_PROBE)
                probe.flush()
                os.fsync(probe.fileno())
    except OSError as e:
        raise OutputError(explained(folder, e)) from e


@contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary file next to `path`, renamed to `path` if the block succeeds and deleted if it fails.

    Missing parent folders are created.

    Raises:
      OutputError: if the file cannot be written. Other errors of the block are raised as they are.
    """
    path = Path(path)
    partial = partial_file(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except OSError as e:
        if not is_of_writing(e, path, partial):
            raise
        raise OutputError(explained(path, e)) from e
    finally:
        with suppress(OSError):
            partial.unlink()


def partial_file(path: Path) -> Path:
    """A new name next to `path` for a file that is being written: hidden, short, with the last suffix of `path`."""
    return path.with_name(f"{_PARTIAL}{os.getpid()}-{next(_numbers)}{path.suffix}")


def remove_stale_partials(folder: Path) -> None:
    """Delete the partial files in a folder whose process, on this machine, was killed."""
    for stale in folder.glob(f"{_PARTIAL}*"):
        if not _is_running(stale.name.removeprefix(_PARTIAL).partition("-")[0]):
            with suppress(OSError):
                stale.unlink()


# Short, for a name may have 255 bytes; processes of other machines may write to the same folder.
_PARTIAL = f".corrclip-partial-{hashlib.sha256(platform.node().encode()).hexdigest()[:8]}-"
_numbers = itertools.count()

_MOST_BYTES = 255  # of a file name, on almost all file systems


def fitting_stem(stem: str, suffix: str) -> str:
    """The stem, cut and marked by a digest where `stem + suffix` is too long for a file name.

    >>> fitting_stem("photo", ".overlay.jpg")
    'photo'
    >>> len(fitting_stem("x" * 250, ".overlay.jpg"))
    243
    """
    name = os.fsencode(stem)
    room = _MOST_BYTES - len(os.fsencode(suffix))
    if len(name) <= room:
        return stem
    mark = "-" + hashlib.sha256(name).hexdigest()[:8]
    cut = stem
    while len(os.fsencode(cut)) > room - len(mark):
        cut = cut[:-1]
    return cut + mark


def explained(path: Path, error: OSError) -> str:
    """The message for a file or folder that cannot be written."""
    return (
        f"Cannot write {path}: {error.strerror or error}. Choose another output folder, or make room and allow"
        " writing there."
    )
