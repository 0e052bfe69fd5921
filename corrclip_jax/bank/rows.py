"""Rows of a bank on disk: arrays [N, ...] in Zarr, through TensorStore, which also reads and writes buckets."""

from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from corrclip_jax.bank.errors import BankError

CHUNK_ROWS = 4096
"""Rows of a chunk, which is a file of its own: 8 MB of float16 keys of width 1024."""

_AGAIN = "Copy the bank again from where it is whole, or build it again."


class Rows:
    """An array on disk that is read by slices of rows, as NumPy arrays; `shape` counts the rows that are valid.

    Values that were never written, or are not finite, are an error when they are read.
    """

    def __init__(self, path: Path, count: int):
        """Open the array at `path`, of which `count` rows are valid.

        Raises:
          BankError: if it is missing, damaged, or has fewer rows.
        """
        self.path = path
        try:
            self._store = ts.open(_where(path), open=True, read=True).result()
        except ValueError as error:
            raise BankError(f"{path} is missing or damaged ({_reason(error)}). {_AGAIN}") from error
        self.dtype = np.dtype(self._store.dtype.numpy_dtype)
        self.shape = (count, *self._store.shape[1:])
        if self._store.shape[0] < count:
            raise BankError(f"{path} has {self._store.shape[0]} rows, the bank {count}. {_AGAIN}")

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values."""
        return int(np.prod(self.shape))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Read rows."""
        begin, end, _ = rows.indices(len(self))
        try:
            found = np.asarray(self._store[begin:end].read().result())
        except ValueError as error:
            raise BankError(f"{self.path} is cut short or damaged ({_reason(error)}). {_AGAIN}") from error
        if found.dtype.kind == "f" and not all_finite(found):
            raise BankError(f"{self.path} has rows that are missing or not finite (NaN). {_AGAIN}")
        never = _never(found.dtype)
        if found.dtype.kind == "i" and self._store.fill_value == never and never in found:
            raise BankError(f"{self.path} has rows that are missing. {_AGAIN}")
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


def write_rows(path: Path, first: int, rows: np.ndarray) -> None:
    """Write rows from `first` on; the array is made, and made longer, where that is needed.

    Raises:
      OSError: where they cannot be written.
    """
    try:
        store = _opened(path, rows)
        if store.shape[0] < first + len(rows):
            store = store.resize(exclusive_max=[first + len(rows), *rows.shape[1:]]).result()
        store[first : first + len(rows)].write(rows).result()
    except ValueError as error:
        raise OSError(
            f"{path} cannot be written: {_reason(error)}. Make room, or allow writing there."
        ) from error


def _opened(path: Path, rows: np.ndarray) -> Any:
    """The array at `path` for writing; a new one for such rows where there is none."""
    if (path / "zarr.json").is_file():
        return ts.open(_where(path), open=True).result()
    metadata = {
        "shape": [0, *rows.shape[1:]],
        "data_type": rows.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [CHUNK_ROWS, *rows.shape[1:]]}},
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "fill_value": _never(rows.dtype),
    }
    return ts.open({**_where(path), "metadata": metadata}, create=True).result()


def _never(dtype: np.dtype) -> int | str:
    """What stands for values that were never written; unsigned numbers, which may have any value, have none."""
    if dtype.kind == "f":
        return "NaN"
    return int(np.iinfo(dtype).min)


def _where(path: Path) -> dict[str, Any]:
    return {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path.absolute())}}


def all_finite(x: np.ndarray) -> bool:
    """Whether no value is NaN or infinite."""
    if x.dtype == np.float16:  # NumPy computes with these one by one
        return not ((x.view(np.uint16) & 0x7C00) == 0x7C00).any()
    return bool(np.isfinite(x).all())


def _reason(error: ValueError) -> str:
    return str(error).split(" [")[0].split("\n")[0]
