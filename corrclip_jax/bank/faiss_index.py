"""Index files of faiss, read without faiss: the published keys of banks (`*.faiss`).

Read are flat indices and inverted files with product quantisation (IVFPQ) under a map of ids ("IxM2"), as the
authors' program writes them. Little-endian; four letters say what follows.
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from corrclip_jax.bank.errors import BankError
from corrclip_jax.method.bank import QuantisedKeys
from corrclip_jax.method.bank_arrays import quantised_keys

_INNER_PRODUCT, _L2 = 0, 1
_WORDS = 256  # of a sub-quantiser of 8 bits
_MOST = 1 << 31  # ids and counts
_UNIT = 1e-3  # by which the length of a key may differ from 1


def read_index(path: str | Path) -> Float[np.ndarray, "N C"] | QuantisedKeys:
    """Read the keys of an index file.

    Args:
      path: the file.

    Returns:
      Keys by their ids, float32 (rows whose id does not occur are zero), of a flat index; or quantised keys.

    Raises:
      BankError: for a file that is cut short or damaged, of another kind, or whose numbers do not fit each other.
      FileNotFoundError: if there is none.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"the index {path} does not exist.")
    file = _File(path)
    file.expect("IxM2")
    width, count, _ = file.header()
    kind = file.letters()
    if kind not in ("IxFI", "IxF2", "IwPQ"):
        raise file.wrong(f"holds an index of the kind {kind!r}; flat ones and IVFPQ are read")
    inner: Any = _ivfpq(file, width, count) if kind == "IwPQ" else _flat(file, width, count)
    ids = _ids(file, count)
    file.end()
    if kind != "IwPQ":
        return _by_id(file, inner, ids)
    centroids, words, list_of, codes = inner
    return quantised_keys(centroids, words, list_of, codes, ids)


class _File:
    """A file that is read sequentially; reading beyond its end is an error."""

    def __init__(self, path: Path):
        self.path, self.position = path, 0
        self.data = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)

    def wrong(self, fault: str) -> BankError:
        return BankError(
            f"{self.path} {fault}. Expected an index that the program of CorrCLIPv2 wrote with faiss. Download or "
            "copy the file again."
        )

    def bytes(self, count: int, what: str) -> np.ndarray:
        if count > len(self.data) - self.position:
            raise self.wrong(
                f"is cut short or damaged: {what} would take {count} bytes from byte {self.position} on, of "
                f"{len(self.data)}"
            )
        self.position += count
        return np.array(self.data[self.position - count : self.position])

    def array(self, kind: str, count: int, what: str) -> np.ndarray:
        return self.bytes(count * np.dtype(kind).itemsize, what).view(kind)

    def number(self, kind: str, what: str) -> int:
        return int(self.array(kind, 1, what)[0])

    def size(self, what: str, wanted: int | None = None) -> int:
        """A uint64, which must be `wanted`."""
        found = self.number("<u8", what)
        if wanted is not None and found != wanted:
            raise self.wrong(f"is damaged: {what} is {found}, and {wanted} would fit the rest")
        return found

    def floats(self, count: int, what: str) -> np.ndarray:
        found = self.array("<f4", self.size(f"the number of {what}", count), what)
        if not np.isfinite(found).all():
            raise self.wrong(f"holds {what} that are not finite")
        return found

    def letters(self) -> str:
        return self.bytes(4, "the kind").tobytes().decode("latin-1")

    def expect(self, wanted: str) -> None:
        if (found := self.letters()) != wanted:
            raise self.wrong(f"has {found!r} at byte {self.position - 4}, where {wanted!r} should be")

    def header(self) -> tuple[int, int, int]:
        """Width, count and metric of an index."""
        width = self.number("<i4", "the width")
        count = self.number("<i8", "the number of keys")
        self.bytes(16, "the header")
        trained, metric = self.number("<u1", "the header"), self.number("<i4", "the metric")
        if not (0 < width < 1 << 20 and 0 <= count < _MOST and metric in (_INNER_PRODUCT, _L2)):
            raise self.wrong(f"is damaged: {count} keys of width {width}, metric {metric}")
        if not trained:
            raise self.wrong("holds an index that was never trained")
        return width, count, metric

    def end(self) -> None:
        if self.position != len(self.data):
            raise self.wrong(f"goes on after its end: {len(self.data) - self.position} bytes too many")


def _same(file: _File, what: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise file.wrong(f"is damaged: {what} is {found}, and {wanted} would fit the rest")


def _flat(file: _File, width: int, count: int) -> Float[np.ndarray, "N C"]:
    """The vectors of a flat index whose kind was read."""
    own_width, own_count, _ = file.header()
    _same(file, "the width", own_width, width)
    _same(file, "the number of keys", own_count, count)
    return file.floats(count * width, "vectors").reshape(count, width)


def _ivfpq(file: _File, width: int, count: int) -> tuple[np.ndarray, ...]:
    """Centroids, code words, the list of each key and its codes, in the order of positions."""
    own_width, own_count, metric = file.header()
    _same(file, "the width", own_width, width)
    _same(file, "the number of keys", own_count, count)
    if metric != _L2:
        raise file.wrong("holds an IVFPQ index of inner products; one of L2 distances is read")
    lists = file.size("the number of lists")
    file.size("nprobe")  # the method has its own
    file.expect("IxFI")
    if not 0 < lists < _MOST:
        raise file.wrong(f"is damaged: it has {lists} lists")
    centroids = _flat(file, width, lists)
    if file.number("<u1", "the direct map") or file.size("the direct map"):
        raise file.wrong("holds a direct map, which is not read")
    if file.number("<u1", "by_residual") != 1:
        raise file.wrong("holds codes of whole vectors; codes of residuals are read")
    code_size = file.size("the size of a code")
    file.size("the width", width)
    parts, bits = file.size("the number of sub-quantisers"), file.size("bits")
    if bits != 8 or not 0 < parts <= width or width % parts:
        raise file.wrong(f"has {parts} sub-quantisers of {bits} bits for a width of {width}; 8 bits are read")
    _same(file, "the size of a code", code_size, parts)
    words = file.floats(width * _WORDS, "code words").reshape(parts, _WORDS, width // parts)
    file.expect("ilar")
    file.size("the number of lists", lists)
    file.size("the size of a code", code_size)
    sizes = _list_sizes(file, lists)
    _same(file, "the number of keys in the lists", int(sizes.sum()), count)
    list_of, codes = np.full(count, -1, np.int32), np.zeros((count, parts), np.uint8)
    for number in np.flatnonzero(sizes):
        size = int(sizes[number])
        code = file.bytes(size * parts, "codes").reshape(size, parts)
        position = file.array("<i8", size, "positions")
        if position.min() < 0 or position.max() >= count:
            raise file.wrong(f"is damaged: list {number} holds a position beyond the {count} keys")
        list_of[position], codes[position] = number, code
    if (list_of < 0).any():
        raise file.wrong("is damaged: a position occurs in two lists")
    return centroids, words, list_of, codes


def _list_sizes(file: _File, lists: int) -> Int[np.ndarray, " L"]:
    """How many keys each list has; written for all lists, or for those that are not empty."""
    match file.letters():
        case "full":
            sizes = file.array("<u8", file.size("the number of sizes", lists), "sizes")
        case "sprs":
            pairs = file.array("<u8", file.size("the number of sizes"), "sizes")
            if len(pairs) % 2 or (len(pairs) and pairs[::2].max() >= lists):
                raise file.wrong("is damaged: the sizes of its lists are no pairs of a list and a size")
            sizes = np.zeros(lists, np.uint64)
            sizes[pairs[::2].astype(np.int64)] = pairs[1::2]
            _same(file, "the number of lists with a size", int(np.unique(pairs[::2]).size), len(pairs) // 2)
        case other:
            raise file.wrong(f"is damaged: sizes of lists are written as {other!r}, not as 'full' or 'sprs'")
    if len(sizes) and sizes.max() >= _MOST:
        raise file.wrong(f"is damaged: a list has {sizes.max()} keys")
    return sizes.astype(np.int64)


def _ids(file: _File, count: int) -> Int[np.ndarray, " N"]:
    ids = file.array("<i8", file.size("the number of ids", count), "ids")
    if count and (ids.min() < 0 or ids.max() >= _MOST or len(np.unique(ids)) < count):
        raise file.wrong("holds ids that are negative, above 31 bits, or there twice")
    return ids


def _by_id(
    file: _File, vectors: Float[np.ndarray, "n C"], ids: Int[np.ndarray, " n"]
) -> Float[np.ndarray, "N C"]:
    """Vectors in rows of their ids; they must have unit length, since a search looks at directions alone."""
    lengths = np.linalg.norm(vectors, axis=1)
    if (abs(lengths - 1) > _UNIT).any():
        raise file.wrong(f"holds keys that are not of unit length, but of {lengths.min()} to {lengths.max()}")
    keys = np.zeros((int(ids.max(initial=-1)) + 1, vectors.shape[1]), np.float32)
    keys[ids] = vectors
    return keys
