"""Cache on disk of parameter structures, beside JAX's compiled programs: tracing a network takes seconds.

A file's name is a digest of all that makes a structure: the configuration, the package's networks, JAX and Flax.
"""

import hashlib
import json
import os
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import flax
import flax.linen as nn
import jax
import numpy as np

import corrclip_jax.models

Structure = dict[str, Any]


def kept(network: nn.Module, trace: Callable[[], Structure]) -> Structure:
    """The structure of a network's parameters, read from the cache or traced and kept.

    Args:
      network: the network with its configuration.
      trace: gives the structure, nested dicts of `jax.ShapeDtypeStruct`.

    Returns:
      The structure. It is traced each time where JAX has no cache folder (`jax_compilation_cache_dir`), where the
      folder cannot be written, and for networks from outside of this package.
    """
    folder = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if folder is None or "://" in folder or not type(network).__module__.startswith("corrclip_jax."):
        return trace()
    file = Path(folder) / "structures" / f"{_digest(network)}.json"
    if (structure := _read(file)) is None:
        structure = trace()
        _write(file, structure)
    return structure


def _digest(network: nn.Module) -> str:
    """What the structure depends on."""
    digest = hashlib.sha256(f"{jax.__version__} {flax.__version__} {network!r}".encode())
    digest.update(_sources())
    return digest.hexdigest()


@cache
def _sources() -> bytes:
    """A digest of the modules of all networks."""
    digest = hashlib.sha256()
    for file in sorted(Path(corrclip_jax.models.__path__[0]).rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.digest()


def _read(file: Path) -> Structure | None:
    """The structure in a file; None where there is none or it is damaged."""
    try:
        content = json.loads(file.read_text("utf-8"))
        return _struct(content)
    except (OSError, ValueError, TypeError):
        return None


def _struct(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _struct(part) for name, part in content.items()}
    shape, dtype = content
    return jax.ShapeDtypeStruct(tuple(map(int, shape)), np.dtype(dtype))


def _write(file: Path, structure: Structure) -> None:
    content = jax.tree.map(lambda leaf: [leaf.shape, leaf.dtype.name], structure)
    partial = file.with_name(f".{os.getpid()}-{file.name}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(content), "utf-8")
        partial.replace(file)
    except OSError:  # a full disk or a folder of another user: traced again next time
        with suppress(OSError):
            partial.unlink()
