"""Marks of files: short digests of their bytes.

Names, sizes and times of a file may stay when its content changes.
"""

import hashlib
from pathlib import Path

MARK_BYTES = 16


def file_mark(path: Path) -> str:
    """A digest of a file's bytes; "" for one that cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=MARK_BYTES)).hexdigest()
    except OSError:
        return ""
