"""Files at paths and addresses: local folders, object stores (fsspec, or PyArrow's own S3 and GCS), HTTP."""

import re
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

from corrclip_jax.io.files import OutputError, atomic_file, explained
from corrclip_jax.runtime.extras import require

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_WEB_SECONDS = 60
# What object stores call a version of a file, the surest first.
_VERSIONS = (
    "ETag",
    "etag",
    "md5Hash",
    "content_md5",
    "LastModified",
    "last_modified",
    "mtime",
    "updated",
    "created",
)


class StorageError(ValueError):
    """A place that cannot be listed or read."""


class StoredFile(NamedTuple):
    """A file: its path or address, and a mark that changes when the file does."""

    place: str
    mark: str


def is_address(place: str) -> bool:
    """Whether a place is an address, as s3://bucket/key, and not a path.

    >>> is_address("s3://bucket/a.jpg"), is_address("photos/a.jpg")
    (True, False)
    """
    return _ADDRESS.match(place) is not None


def is_web(place: str) -> bool:
    """Whether a place is read by HTTP."""
    return place.startswith(("http://", "https://"))


def file_system(place: str) -> tuple[Any, str]:
    """The file system of fsspec that holds a place, and the path in it.

    An address with a query, as `s3://bucket/key?endpoint_override=...`, is opened by PyArrow, as is one whose
    package for fsspec is not installed.

    Raises:
      StorageError: if neither knows the address.
    """
    require(("fsspec", "pyarrow"), "addresses", "ray")
    import fsspec
    from fsspec.implementations.arrow import ArrowFSWrapper
    from pyarrow.fs import FileSystem

    reason = ""
    if "?" not in place:
        try:
            return fsspec.core.url_to_fs(place)
        except (ImportError, ValueError) as error:
            reason = f" {error}"
    try:
        system, path = FileSystem.from_uri(place)
    except (OSError, ValueError) as error:
        raise StorageError(f"{place} cannot be opened: {error}.{reason}") from error
    return ArrowFSWrapper(system), path


def list_files(folder: str, *, recursive: bool = False, may_be_empty: bool = False) -> list[StoredFile]:
    """The files in a folder at an address, or those that a pattern with * names, sorted.

    Raises:
      StorageError: if it cannot be listed, or holds nothing and may not be empty.
    """
    system, path = file_system(folder)
    bare, mark, query = folder.partition("?")
    whole, path = bare.rstrip("/"), path.rstrip("/")
    before = whole.removesuffix(path) if whole.endswith(path) else f"{bare.split('://', 1)[0]}://"
    try:
        if "*" in path:
            found = system.glob(path, detail=True)
        else:
            found = system.find(path, maxdepth=None if recursive else 1, detail=True)
    except Exception as error:  # every object store raises its own
        raise StorageError(f"{folder} cannot be listed: {_reason(error)}") from error
    files = [info for info in found.values() if info["type"] == "file"]
    if not files and not may_be_empty:
        raise StorageError(f"{folder} holds no files, or does not exist.")
    return [
        StoredFile(f"{before}{info['name']}{mark}{query}", mark_of(info))
        for info in sorted(files, key=lambda info: info["name"])
    ]


def stored_file(place: str) -> StoredFile | None:
    """The file at an address with its mark, "" for a page of the web; None for a folder.

    Raises:
      StorageError: if there is no such file.
    """
    if is_web(place):
        return StoredFile(place, "")
    system, path = file_system(place)
    try:
        info = system.info(path)
    except Exception as error:  # every object store raises its own
        raise StorageError(f"{place} cannot be found: {_reason(error)}") from error
    return None if info["type"] == "directory" else StoredFile(place, mark_of(info))


def mark_of(info: dict[str, Any]) -> str:
    """What stands for the content of a file in fsspec's description: its ETag, or its size and time."""
    version = next((str(info[name]) for name in _VERSIONS if info.get(name)), "")
    return f"{info.get('size')} {version}"


def stat_mark(path: Path) -> str:
    """What stands for the content of a local file: size and time; "" for one that cannot be found."""
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"


def open_file(place: str) -> Any:
    """Open a file that can be sought, at a path or an address."""
    if not is_address(place):
        return Path(place).open("rb")
    system, path = file_system(place)
    return system.open(path, "rb")


def read_bytes(place: str) -> bytes:
    """The content of a file at a path or an address.

    Raises:
      StorageError: if it cannot be read.
    """
    try:
        if is_web(place):
            request = urllib.request.Request(place, headers={"User-Agent": "corrclip-jax"})
            with urllib.request.urlopen(request, timeout=_WEB_SECONDS) as answer:
                return answer.read()
        with open_file(place) as file:
            return file.read()
    except StorageError:
        raise
    except Exception as error:  # every object store raises its own
        raise StorageError(f"{place} cannot be read: {_reason(error)}") from error


def write_bytes(place: str, data: bytes) -> None:
    """Write a file that appears whole or not at all, at a path or an address of an object store.

    Raises:
      OutputError: if it cannot be written.
    """
    if not is_address(place):
        with atomic_file(place) as partial:
            partial.write_bytes(data)
        return
    system, path = file_system(place)
    try:
        system.pipe_file(path, data)
    except Exception as error:  # every object store raises its own
        raise OutputError(f"{place} cannot be written: {_reason(error)}") from error


def remove(place: str) -> None:
    """Delete a file.

    Raises:
      OutputError: if it cannot be deleted.
    """
    try:
        if is_address(place):
            system, path = file_system(place)
            system.rm_file(path)
        else:
            Path(place).unlink()
    except OSError as error:
        raise OutputError(explained(Path(place), error)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "it does not exist."
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}."
    return f"{str(error) or type(error).__name__}".rstrip(".") + "."
