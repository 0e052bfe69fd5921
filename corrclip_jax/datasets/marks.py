"""Content marks: digests of all that the examples of a data set are read from.

Whether two examples are the same is decided by every byte of their files: names, sizes and times of a file may stay
when its content changes.
"""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from corrclip_jax.datasets.dataset import Dataset
from corrclip_jax.io.marks import MARK_BYTES, file_mark

_THREADS = 8  # they wait for files; hashing releases Python's lock
_KINDS = {"photos": "image", "labels": "labels", "regions": "regions"}


def content_marks(
    dataset: Dataset, progress: Callable[[int], object] = lambda done: None
) -> dict[str, list[str]]:
    """A digest of the photo, the labels and, where they are given, the regions of every example.

    Args:
      dataset: examples from files (`Dataset.files`) are marked by the files' bytes, all others by their arrays.
      progress: called with the number of examples done so far.

    Returns:
      By kind, "photos", "labels" and "regions", one digest for each example; "" for a file that cannot be read.
    """

    def one(index: int) -> dict[str, str]:
        if dataset.files is not None:
            return {kind: file_mark(path) for kind, path in dataset.files(index).items()}
        return _example_marks(dataset, index)

    found: list[dict[str, str]] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for marks in pool.map(one, range(dataset.count)):
            found.append(marks)
            progress(len(found))
    kinds = [kind for kind in _KINDS if any(kind in marks for marks in found)]
    return {kind: [marks.get(kind, "") for marks in found] for kind in kinds}


def _example_marks(dataset: Dataset, index: int) -> dict[str, str]:
    try:
        example = dataset.example(index)
    except (ValueError, OSError):  # what examples raise that cannot be read
        return {}
    return {
        kind: _array_mark(array)
        for kind, name in _KINDS.items()
        if (array := getattr(example, name)) is not None
    }


def _array_mark(array: np.ndarray) -> str:
    digest = hashlib.blake2b(f"{array.dtype} {array.shape}".encode(), digest_size=MARK_BYTES)
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
