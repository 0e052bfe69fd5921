"""Output folder of an evaluation: report, predictions, contact sheet; no foreign file in it is replaced."""

import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
from jaxtyping import Int
from PIL import Image

from corrclip_jax.datasets.dataset import Dataset
from corrclip_jax.io.files import check_writable, fitting_stem
from corrclip_jax.io.own_files import ForeignFileError, OwnFiles
from corrclip_jax.viz.overlay import label_image

_REPORTS = ("report.json", "report.md", "report.html")
_SHEET = "worst.png"
_MADE = {"command": "evaluate"}


class Output:
    """The files that an evaluation leaves to its user.

    Attributes:
      folder: the folder of them all.
    """

    def __init__(self, folder: Path, dataset: Dataset, *, predictions: bool, overwrite: bool):
        """Check that everything can be written, before a long computation.

        Args:
          folder: created if it is missing.
          dataset: names the label maps.
          predictions: whether label maps will be written.
          overwrite: replace files that this program did not write.

        Raises:
          ForeignFileError: if there are such files, and `overwrite` is False.
          OutputError: if the folder cannot be written.
        """
        check_writable(folder)
        self.folder, self._overwrite, self._own = folder, overwrite, OwnFiles(folder)
        self._names = dataset.class_names
        self._predictions: list[str] = []
        if predictions:
            stems = (fitting_stem(dataset.stem(index), ".png") for index in range(dataset.count))
            self._predictions = [f"predictions/{stem}.png" for stem in stems]
        names = [*_REPORTS, _SHEET, *self._predictions]
        foreign = [name for name in names if os.path.lexists(folder / name) and not self._own.wrote(name)]
        if foreign and not overwrite:
            raise ForeignFileError(folder, foreign)

    @property
    def wants_predictions(self) -> bool:
        """Whether label maps are to be written."""
        return bool(self._predictions)

    def has_prediction(self, index: int) -> bool:
        """Whether the label map of an image is there."""
        return (self.folder / self._predictions[index]).is_file()

    def write_prediction(self, index: int, labels: Int[np.ndarray, "H W"]) -> None:
        """Write the label map of an image."""
        with self._writing(self._predictions[index]) as [partial]:
            label_image(labels, self._names).save(partial)

    def write_report(self, texts: Mapping[str, Callable[[], str]], sheet: Image.Image | None) -> None:
        """Write the texts by the names of their files, and the contact sheet, if there is one."""
        with self._writing(*texts) as partials:
            for partial, text in zip(partials, texts.values(), strict=True):
                # File names may hold bytes that are no UTF-8; in JSON their escapes are read back as these.
                partial.write_text(text(), "utf-8", errors="backslashreplace")
        if sheet is not None:
            with self._writing(_SHEET) as [partial]:
                sheet.save(partial)

    def _writing(self, *names: str) -> AbstractContextManager[list[Path]]:
        return self._own.writing(names, _MADE, overwrite=self._overwrite)
