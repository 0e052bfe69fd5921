"""Label maps of the worst and the best images so far, kept in a folder for the report.

An image that leaves the worst or best ones never returns, so a run keeps few maps, and the report has no image to
label again.
"""

import bisect
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from PIL import Image, UnidentifiedImageError

from corrclip_jax.io.files import atomic_file


class KeptLabels:
    """The label maps of the `most` worst and the `most` best images, in files of a folder by their indices."""

    def __init__(self, folder: Path, most: int, scores: Float[np.ndarray, " N"]):
        """Go on from the scores of former runs, NaN for images that were not counted."""
        self._folder, self._most = folder, most
        known = sorted((scores[index], index) for index in np.flatnonzero(~np.isnan(scores)).tolist())
        self._worst, self._best = known[:most], known[-most:]

    def offer(self, index: int, score: float, labels: Int[np.ndarray, "H W"]) -> None:
        """Keep the labels of an image, -1 and above, if it is one of the worst or best ones."""
        if np.isnan(score):
            return
        bisect.insort(self._worst, (score, index))
        bisect.insort(self._best, (score, index))
        out = [*self._worst[self._most :], *self._best[: -self._most]]
        self._worst, self._best = self._worst[: self._most], self._best[-self._most :]
        chosen = {image for _, image in (*self._worst, *self._best)}
        if index in chosen:
            with atomic_file(self._path(index)) as partial:
                Image.fromarray((labels + 1).astype(np.uint16)).save(partial)
        for _, image in out:
            if image not in chosen:
                self._path(image).unlink(missing_ok=True)

    def read(self, index: int) -> Int[np.ndarray, "H W"] | None:
        """The labels of an image; None if they are not there or damaged."""
        try:
            with Image.open(self._path(index)) as image:
                return np.asarray(image).astype(np.int32) - 1
        except (OSError, SyntaxError, UnidentifiedImageError):
            return None

    def keep_only(self, indices: Iterable[int]) -> None:
        """Delete the label maps of all other images."""
        wanted = {self._path(index) for index in indices}
        for path in self._folder.glob("labels-*.png"):
            if path not in wanted and path.stem.removeprefix("labels-").isdigit():
                path.unlink(missing_ok=True)

    def _path(self, index: int) -> Path:
        return self._folder / f"labels-{index}.png"
