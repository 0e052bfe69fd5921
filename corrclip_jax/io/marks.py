"""Digests of files: of all their bytes.

Names, sizes and times of a file may stay when its content changes.
"""

import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
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


def folder_digests(folders: Mapping[str, Path]) -> dict[str, str]:
    """The digest of each folder (`folder_digest`), several at a time."""
    with ThreadPoolExecutor() as pool:  # hashing releases Python's lock
        return dict(zip(folders, pool.map(folder_digest, folders.values()), strict=True))


def vocabulary_digest(vocabulary: str | None) -> str | None:
    """A digest of the tokenizer's file, or of all files of its folder that a tokenizer may be read from."""
    if vocabulary is None:
        return None
    path = Path(vocabulary)
    names = ("tokenizer.json", "vocab.json", "merges.txt", "*.txt.gz")
    files = sorted(file for name in names for file in path.glob(name)) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes() if file.is_file() else b"")
    return digest.hexdigest()
