"""Digests of weights: what tells whether two networks are the same."""

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np


def network_digest(params: Mapping[str, Any]) -> str:
    """The SHA-256 of a network's parameters: names, types, shapes and values, in the order of their names."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
