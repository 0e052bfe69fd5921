"""Files kept beside JAX's compiled programs, made from this package's sources: written whole, read if undamaged."""

import hashlib
import os
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path

import jax

_PACKAGE = Path(__file__).parents[1]
_DIGEST = 32  # bytes


def kept_folder(name: str) -> Path | None:
    """The folder of this name in JAX's cache (`jax_compilation_cache_dir`).

    None where JAX keeps nothing, or keeps it in a bucket.
    """
    folder = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    return None if folder is None or "://" in folder else Path(folder) / name


@cache
def sources_digest() -> bytes:
    """A digest of this package's modules."""
    digest = hashlib.sha256()
    for root, folders, files in os.walk(_PACKAGE, followlinks=True):
        folders.sort()
        for name in sorted(file for file in files if file.endswith(".py")):
            digest.update(name.encode())
            digest.update(Path(root, name).read_bytes())
    return digest.digest()


def read_kept(file: Path) -> bytes | None:
    """The content of a file; None where there is none or it is damaged."""
    try:
        content = file.read_bytes()
    except OSError:
        return None
    digest, content = content[:_DIGEST], content[_DIGEST:]
    return content if hashlib.sha256(content).digest() == digest else None


def write_kept(file: Path, content: bytes) -> None:
    """Write a file; where that fails (a full disk, a folder of another user) nothing is kept."""
    partial = file.with_name(f".{os.getpid()}-{threading.get_native_id()}-{file.name}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(hashlib.sha256(content).digest() + content)
        partial.replace(file)
    except OSError:
        with suppress(OSError):
            partial.unlink()
