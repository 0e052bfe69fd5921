"""Small index files as faiss writes them."""

import struct

import numpy as np

rng = np.random.default_rng(0)
COUNT, WIDTH, LISTS, PARTS = 20, 8, 5, 4
CENTROIDS = rng.standard_normal((LISTS, WIDTH)).astype("<f4")
WORDS = rng.standard_normal((PARTS, 256, WIDTH // PARTS)).astype("<f4")
LIST_OF = rng.integers(0, 2, COUNT) * 3
CODES = rng.integers(0, 256, (COUNT, PARTS), dtype=np.uint8)
IDS = 3 * rng.permutation(COUNT)


def header(width, count, metric):
    return struct.pack("<iq16xBi", width, count, 1, metric)


def floats(array):
    return struct.pack("<Q", array.size) + array.tobytes()


def flat(vectors):
    return b"IxFI" + header(vectors.shape[1], len(vectors), 0) + floats(vectors)


def mapped(inner, ids=IDS, width=WIDTH):
    return (
        b"IxM2"
        + header(width, len(ids), 1)
        + inner
        + struct.pack("<Q", len(ids))
        + ids.astype("<i8").tobytes()
    )


def ivfpq(sparse=False, by_residual=1, bits=8, metric=1):
    sizes = np.bincount(LIST_OF, minlength=LISTS)
    written = np.array([(i, n) for i, n in enumerate(sizes) if n] if sparse else sizes, "<u8")
    lists = b"".join(
        CODES[number == LIST_OF].tobytes() + np.flatnonzero(number == LIST_OF).astype("<i8").tobytes()
        for number in range(LISTS)
    )
    return (
        b"IwPQ"
        + header(WIDTH, COUNT, metric)
        + struct.pack("<QQ", LISTS, 1)
        + flat(CENTROIDS)
        + struct.pack("<BQBQQQQ", 0, 0, by_residual, PARTS, WIDTH, PARTS, bits)
        + floats(WORDS)
        + b"ilar"
        + struct.pack("<QQ", LISTS, PARTS)
        + (b"sprs" if sparse else b"full")
        + struct.pack("<Q", written.size)
        + written.tobytes()
        + lists
    )


def unit(count=COUNT):
    vectors = rng.standard_normal((count, WIDTH))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("<f4")
