"""Counts of an evaluation, kept in files, so that an interrupted run resumes from them.

A folder holds one *base*, the counts of former runs, and one *part* for each process of the present run; the names
of all files hold the number of their generation. A run begins by combining what it finds into the base of the next
generation, in one atomic step, after which older files are ignored. So whenever a run ends, every image is in at
most one of the files that count. Shapes: N images, V variants of the method, K classes.
"""

import dataclasses
import io
import json
import os
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from corrclip_jax.evaluation import metrics
from corrclip_jax.evaluation.batch_counts import BatchCounts
from corrclip_jax.evaluation.provenance import Provenance
from corrclip_jax.io.files import atomic_file

_NAME = re.compile(r"(?:settings|base|part)-(\d+)(?:-\d+)?\.(?:json|npz)")
_ANEW = "start anew (--restart, in Python resume=False)"


class StateError(ValueError):
    """Counts on disk that a run cannot resume."""


@dataclass
class Counts:
    """The counts of some images.

    Attributes:
      counted: which images are counted.
      scores: the mIoU of each of these images, NaN elsewhere.
      matrices: pixels by class (see `metrics`), one matrix for each variant.
      unscored: pixels by predicted class where the truth is no class, for each variant.
      boundary: boundary areas of the first variant.
      predicted: which images' label maps have been written for the user.
      pixels: all pixels of the images, scored or left out.
      seconds: how long scoring took, without compilation.
      unreadable: why images could not be scored, by their indices.
    """

    counted: Bool[np.ndarray, " N"]
    scores: Float[np.ndarray, " N"]
    matrices: Int[np.ndarray, "V K K1"]
    unscored: Int[np.ndarray, "V K"]
    boundary: Int[np.ndarray, "3 K"]
    predicted: Bool[np.ndarray, " N"]
    pixels: int = 0
    seconds: float = 0.0
    unreadable: dict[int, str] = field(default_factory=dict)

    @classmethod
    def empty(cls, images: int, variants: int, classes: int) -> "Counts":
        """Nothing counted."""
        return cls(
            np.zeros(images, bool),
            np.full(images, np.nan),
            np.zeros((variants, classes, classes + 1), np.int64),
            np.zeros((variants, classes), np.int64),
            np.zeros((3, classes), np.int64),
            np.zeros(images, bool),
        )

    def add(self, batch: BatchCounts) -> None:
        """Count a batch.

        Raises:
          RuntimeError: if an image is counted already, which would be a bug.
        """
        indices = list(batch.indices)
        if self.counted[indices].any():
            raise RuntimeError(f"images {indices} are counted twice")
        self.counted[indices] = True
        self.scores[indices] = [metrics.mean_area_iou(each) for each in batch.areas]
        self.matrices += batch.matrices
        self.unscored += batch.unscored
        self.boundary += batch.boundary
        self.pixels += batch.pixels

    def __add__(self, other: "Counts") -> "Counts":
        """The counts of both.

        Raises:
          RuntimeError: if they share images.
        """
        if (self.counted & other.counted).any():
            raise RuntimeError("images are counted twice")
        return Counts(
            self.counted | other.counted,
            np.where(other.counted, other.scores, self.scores),
            self.matrices + other.matrices,
            self.unscored + other.unscored,
            self.boundary + other.boundary,
            self.predicted | other.predicted,
            self.pixels + other.pixels,
            self.seconds + other.seconds,
            self.unreadable | other.unreadable,
        )

    def to_bytes(self) -> bytes:
        """Everything, for a file or another process."""
        file = io.BytesIO()
        unreadable = json.dumps({str(index): message for index, message in self.unreadable.items()})
        np.savez(
            file,
            counted=self.counted,
            scores=self.scores,
            matrices=self.matrices,
            unscored=self.unscored,
            boundary=self.boundary,
            predicted=self.predicted,
            pixels=self.pixels,
            seconds=self.seconds,
            unreadable=np.frombuffer(unreadable.encode(), np.uint8),
        )
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Counts":
        """The inverse of `to_bytes`."""
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            unreadable = json.loads(file["unreadable"].tobytes() or b"{}")
            return cls(
                file["counted"],
                file["scores"],
                file["matrices"],
                file["unscored"],
                file["boundary"],
                file["predicted"],
                int(file["pixels"]),
                float(file["seconds"]),
                {int(index): message for index, message in unreadable.items()},
            )


class CountsFolder:
    """The folder of the counts of a run, whose processes are numbered from 0; process 0 begins generations."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.generation = 0

    def read(self, empty: Counts, provenance: Provenance) -> tuple[Counts, dict[str, Any]]:
        """The counts of former runs of the same provenance, and what made them; `empty` if there are none.

        Raises:
          StateError: if settings, weights or files have changed, with a list of them, or if a file is damaged.
        """
        bases = self._files("base")
        if not bases:
            return empty, {}
        self.generation = max(bases)
        then = self._provenance()
        parts = sorted(self.folder.glob(f"part-{self.generation}-*.npz"))
        total = combined(_read(bases[self.generation]), [_read(part) for part in parts])
        if changed := provenance.changes_since(then, total.counted):
            raise StateError(
                f"{self.folder} holds the counts of a run with other settings or files:\n  "
                + "\n  ".join(changed)
                + f"\nUse those again to resume it, choose another folder (--out), or {_ANEW}."
            )
        return total, then.made

    def weights_of(self, files: Mapping[str, str]) -> dict[str, str] | None:
        """The digests of the weights that former runs read from these files; None where that is not known."""
        bases = self._files("base")
        self.generation = max(bases, default=0)
        try:
            then = self._provenance() if bases and files else None
        except StateError:  # `read` reports it
            return None
        return then.settings.get("weights_sha256") if then and then.weights_files == files else None

    def begin(self, base: Counts, provenance: Provenance) -> int:
        """Begin the next generation from a base and delete older files. Returns its number."""
        self.generation += 1
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(dataclasses.asdict(provenance), indent=1) + "\n"
        _write(self.folder / f"settings-{self.generation}.json", text.encode())
        _write(self.folder / f"base-{self.generation}.npz", base.to_bytes())
        for path, generation in self._own().items():
            if generation != self.generation:
                path.unlink(missing_ok=True)
        return self.generation

    def save(self, counts: Counts, process: int) -> None:
        """Write what a process has counted in this generation, atomically."""
        _write(self.folder / f"part-{self.generation}-{process}.npz", counts.to_bytes())

    def clear(self) -> None:
        """Delete all counts."""
        for path in self._own():
            path.unlink(missing_ok=True)

    def _provenance(self) -> Provenance:
        path = self.folder / f"settings-{self.generation}.json"
        try:
            return Provenance(**json.loads(path.read_text("utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise StateError(
                f"{path} cannot be read, or is of an earlier version of this program, which did not note what the "
                f"counted files hold ({error}): choose another folder (--out), or {_ANEW}."
            ) from error

    def _own(self) -> dict[Path, int]:
        """The files that this class writes, with their generations."""
        matches = [(path, _NAME.fullmatch(path.name)) for path in self.folder.glob("*")]
        return {path: int(match[1]) for path, match in matches if match}

    def _files(self, kind: str) -> dict[int, Path]:
        return {number: path for path, number in self._own().items() if path.name.startswith(f"{kind}-")}


def combined(base: Counts, parts: Sequence[Counts]) -> Counts:
    """The counts of former runs and of the processes of one more, which ran at the same time."""
    total = sum(parts, start=base)
    total.seconds = base.seconds + max((part.seconds for part in parts), default=0.0)
    return total


def _read(path: Path) -> Counts:
    try:
        return Counts.from_bytes(path.read_bytes())
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise StateError(
            f"{path} is damaged ({error}), although it was written whole: check the disk, and {_ANEW}."
        ) from error


def _write(path: Path, data: bytes) -> None:
    """Write a file atomically, on the disk itself before its name changes: it survives a loss of power."""
    with atomic_file(path) as partial, partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
