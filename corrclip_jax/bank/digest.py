"""Digest of a bank: what tells whether two banks hold the same entries, wherever they lie."""

import hashlib
from typing import Any

import jax
import numpy as np

from corrclip_jax.bank.rows import CHUNK_ROWS
from corrclip_jax.method.bank import Bank


def bank_digest(bank: Bank) -> str:
    """The SHA-256 of keys and values: names, types, shapes and rows, in the order of their names.

    Args:
      bank: its arrays may lie on disk; rows are read some at a time.

    Raises:
      BankError: for rows on disk that are damaged.
    """
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(bank):
        rows: Any = np.asarray(leaf) if isinstance(leaf, jax.Array) else leaf
        digest.update(f"{jax.tree_util.keystr(path)} {rows.dtype} {tuple(rows.shape)}\n".encode())
        for begin in range(0, len(rows), CHUNK_ROWS):
            some = np.ascontiguousarray(rows[begin : begin + CHUNK_ROWS])
            digest.update(some.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
