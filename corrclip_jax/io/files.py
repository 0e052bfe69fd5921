"""Files and folders that are written whole or not at all."""

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary sibling of `path` that takes its place when the block ends well, and vanishes when it fails.

    Raises:
      OSError: where it cannot be written, with what to do about it.
    """
    mark = f".{path.name}.partial-{platform.node()}-"
    temporary = path.parent / f"{mark}{os.getpid()}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for stale in path.parent.glob(f"{mark}*"):
            if not _is_running(stale.name.removeprefix(mark)):
                shutil.rmtree(stale)
        temporary.mkdir()
        yield temporary
        _take_place(temporary, path)
    except OSError as error:
        reason = error.strerror or error
        raise OSError(f"{path} cannot be written: {reason}. Choose another folder, or make room.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _take_place(folder: Path, path: Path) -> None:
    """Rename `folder` to `path`; what stood there goes once the new one stands."""
    old = folder.with_name(folder.name + "-old")
    if path.exists():
        path.rename(old)
    folder.rename(path)
    shutil.rmtree(old, ignore_errors=True)


def _is_running(process: str) -> bool:
    if os.name != "posix":  # elsewhere signal 0 is no harmless question
        return True
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return True


RESULT_SUFFIXES = (".png", ".overlay.jpg", ".json")
"""What the files of a photo's result end in: label map, overlay, description."""

_PROBE = bytes(1 << 16)


class OutputError(OSError):
    """A place that results cannot be written to."""


def check_writable(folder: str | os.PathLike) -> None:
    """Try a folder out with a small file, before hours are spent on what belongs there; nothing stays behind.

    Raises:
      OutputError: it cannot be made or written: a file of that name, no permission, a full disk ...
    """
    folder = Path(folder)
    missing: list[Path] = []
    try:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-") as probe:
            probe.write(_PROBE)
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as e:
        raise OutputError(_explained(folder, e)) from e
    finally:
        with suppress(OSError):
            for path in missing:
                path.rmdir()


@contextmanager
def atomic_file(path: str | os.PathLike) -> Iterator[Path]:
    """A path beside `path` to write to, which takes its name when all went well and vanishes otherwise.

    Folders on the way are made.

    Raises:
      OutputError: the file cannot be written.
    """
    path = Path(path)
    partial = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except OSError as e:
        raise OutputError(_explained(path, e)) from e
    finally:
        with suppress(OSError):
            partial.unlink()


def _explained(path: Path, error: OSError) -> str:
    return (
        f"Cannot write {path}: {error.strerror or error}. Choose another output folder, or make room and allow"
        " writing there."
    )
