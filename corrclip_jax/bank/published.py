"""Published banks: the authors' faiss index and stores of values, written as a bank folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from corrclip_jax.bank.errors import BankError
from corrclip_jax.bank.faiss_index import read_index
from corrclip_jax.bank.folder import (
    EXACT,
    KEYS,
    QUANTISED,
    TABLES,
    Description,
    Network,
    check_free,
    write_description,
)
from corrclip_jax.bank.rows import CHUNK_ROWS, all_finite, write_rows
from corrclip_jax.conversion.readers import read_rows
from corrclip_jax.io.files import atomic_folder
from corrclip_jax.method.bank import QuantisedKeys


def import_bank(
    index: Path, values: Mapping[str, Path], out: Path, backbone: str, clips: Mapping[str, str]
) -> Description:
    """Write a published bank as a bank folder.

    Args:
      index: the keys, a faiss file.
      values: the values by name of their CLIP ("main"): a torch pickle with one tensor [N, D] (needs torch), or a
        `.npy` file.
      out: the folder; it appears whole or not at all.
      backbone: family of the network that made the keys.
      clips: what the CLIPs are called, by the names of the values.

    Raises:
      BankError: for files that are damaged or do not fit each other, and a folder that holds a bank or
        what one would replace.
      ConversionError: for values that cannot be read.
      FileNotFoundError: for a missing file.
    """
    check_free(out)
    if missing := [str(path) for path in values.values() if not path.is_file()]:
        raise FileNotFoundError(f"{', '.join(missing)} does not exist.")
    if "main" not in values:
        raise BankError("a bank needs the values of the segmenting CLIP, under the name main.")
    stores = {name: _store(path) for name, path in values.items()}
    counts = {len(store) for store in stores.values()}
    if len(counts) > 1:
        shapes = ", ".join(f"{values[name]} {len(store)}" for name, store in stores.items())
        raise BankError(f"stores of values must have as many rows as each other. Got {shapes}.")
    count = counts.pop()
    keys: Any = read_index(index)
    quantised = isinstance(keys, QuantisedKeys)
    rows = int(np.max(keys.ids, initial=-1)) + 1 if quantised else len(keys)
    if not 0 < rows <= count:
        raise BankError(
            f"{index} has ids up to {rows - 1}, the values have {count} rows. They are of other banks."
        )
    arrays: dict[str, Any] = {name: getattr(keys, name) for name in TABLES} if quantised else {KEYS: keys}
    width = arrays["centroids" if quantised else KEYS].shape[1]
    with atomic_folder(out) as folder:
        for name, array in {**arrays, **{f"values/{name}": store for name, store in stores.items()}}.items():
            for first in range(0, len(array), CHUNK_ROWS):
                part = np.ascontiguousarray(array[first : first + CHUNK_ROWS])
                if part.dtype.kind == "f" and not all_finite(part):
                    raise BankError(
                        f"{values.get(name.removeprefix('values/'), index)} has rows that are not finite."
                    )
                write_rows(folder / name, first, part)
        networks = {name: Network(clips[name], store.shape[1]) for name, store in stores.items()}
        description = Description(
            count,
            0,
            Network(backbone, width),
            networks,
            keys=QUANTISED if quantised else EXACT,
            settings={"imported": index.name},
            generation=1,
            key_rows=len(keys.codes) if quantised else rows,
        )
        write_description(folder, description)
    return description


def _store(path: Path) -> Any:
    """A store of values, float16."""
    store = read_rows(path)
    if store.ndim != 2 or store.dtype.kind != "f" or 0 in store.shape:
        raise BankError(
            f"{path} must hold floating-point values [N, D]. Got {store.dtype} {list(store.shape)}."
        )
    return store if store.dtype == np.float16 else store.astype(np.float16)
