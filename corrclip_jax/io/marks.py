"""Digests of files: of all their bytes.

Names, sizes and times of a file may stay when its content changes.
"""

import hashlib
import os
from pathlib import Path

MARK_BYTES = 16


def file_digest(path: str | os.PathLike) -> str:
    """SHA-256 of a file's content, in hexadecimal digits.

    Raises:
      OSError: if the file cannot be read.
    """
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_mark(path: Path) -> str:
    """A short digest of a file's content; "" for one that cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=MARK_BYTES)).hexdigest()
    except OSError:
        return ""


def folder_digest(folder: Path) -> str:
    """SHA-256 of the names and contents of all files in a folder, in hexadecimal digits.

    Raises:
      OSError: if a file cannot be read.
    """
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()} {file_digest(path)}\n".encode())
    return digest.hexdigest()
