"""Folders that appear whole or not at all."""

import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
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
