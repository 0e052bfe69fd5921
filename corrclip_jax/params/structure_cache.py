"""Cache on disk of parameter structures, beside JAX's compiled programs: tracing a network takes seconds.

A file's name is a digest of all that makes a structure: the configuration, the package's modules, JAX and Flax.
"""

import hashlib
import json
from collections.abc import Callable
from typing import Any

import flax
import flax.linen as nn
import jax
import numpy as np

from corrclip_jax.runtime.kept_files import kept_folder, read_kept, sources_digest, write_kept

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
    folder = kept_folder("structures")
    if folder is None or not type(network).__module__.startswith("corrclip_jax."):
        return trace()
    digest = hashlib.sha256(f"{jax.__version__} {flax.__version__} {network!r}".encode() + sources_digest())
    file = folder / f"{digest.hexdigest()}.json"
    if (content := read_kept(file)) is not None:
        return _structure(json.loads(content))
    structure = trace()
    leaves = jax.tree.map(lambda leaf: [leaf.shape, leaf.dtype.name], structure)
    write_kept(file, json.dumps(leaves).encode())
    return structure


def _structure(content: Any) -> Any:
    if isinstance(content, dict):
        return {name: _structure(part) for name, part in content.items()}
    shape, dtype = content
    return jax.ShapeDtypeStruct(tuple(shape), np.dtype(dtype))
