"""Arrays of a bank: quantised keys from what an index holds, and banks on the devices of a mesh."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, UInt8

from corrclip_jax.method.bank import MOST_LISTS, Bank, QuantisedKeys

_ROWS = 4096  # that are decoded at a time


def quantised_keys(
    centroids: Float[np.ndarray, "L C"],
    words: Float[np.ndarray, "M 256 C/M"],
    list_of: Int[np.ndarray, " N"],
    codes: UInt8[np.ndarray, "N M"],
    ids: Int[np.ndarray, " N"],
    lists: int = MOST_LISTS,
) -> QuantisedKeys:
    """Quantised keys from the list, the code words and the id of each, in any order.

    Args:
      centroids: of the lists.
      words: code words by part.
      list_of: list of each key.
      codes: words of each key.
      ids: entry of each key.
      lists: how many lists are searched.
    """
    order = np.lexsort((ids, list_of))
    list_of, codes, ids = list_of[order], codes[order], ids[order]
    squares = np.zeros(len(codes), np.float32)
    for begin in range(0, len(codes), _ROWS):
        rows = slice(begin, begin + _ROWS)
        decoded = words[np.arange(len(words)), codes[rows]].reshape(-1, centroids.shape[1])
        squares[rows] = np.square(centroids[list_of[rows]] + decoded).sum(axis=1)
    starts = np.searchsorted(list_of, np.arange(len(centroids) + 1)).astype(np.int32)
    make: Any = QuantisedKeys  # whose fields are JAX arrays from the first program on
    return make(
        centroids, words, starts, codes, ids.astype(np.int32), squares, lists=min(lists, len(centroids))
    )


def bank_specs(bank: Bank, axes: tuple[str, ...]) -> Bank:
    """The bank as a tree of `PartitionSpec`: rows divided over the mesh axes, what belongs to no row copied."""
    rows: Any = P(axes)
    keys: Any = rows
    if isinstance(bank.keys, QuantisedKeys):
        copied: Any = P()
        keys = QuantisedKeys(copied, copied, copied, rows, rows, rows, lists=bank.keys.lists)
    return Bank(keys, dict.fromkeys(bank.values, rows))


def put_bank(bank: Bank, mesh: Mesh) -> Bank:
    """A bank on a mesh, its rows divided over all devices as evenly as possible.

    Args:
      bank: its arrays may be anything that has a shape and a dtype and is read by slices, such as an array on
        disk; only the rows of this process's devices are read.
      mesh: the devices.

    Returns:
      The bank as JAX arrays, filled up with rows that are no entries.
    """

    def put(x: Any, spec: P) -> Array:
        count = len(x) if spec == P() else -(-len(x) // mesh.size) * mesh.size
        shape = (count, *x.shape[1:])

        def read(index: Any) -> np.ndarray:
            begin, end, _ = index[0].indices(count)
            part = np.asarray(x[begin : min(end, len(x))])
            return np.pad(part, ((0, end - begin - len(part)), *[(0, 0)] * (part.ndim - 1)))

        return jax.make_array_from_callback(shape, NamedSharding(mesh, spec), read)

    return jax.tree.map(put, bank, bank_specs(bank, mesh.axis_names))
