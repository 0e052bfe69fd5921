"""What an evaluation has counted so far: kept in files, so that a run that was broken off goes on where it was.

A folder holds one *base*, what former runs have counted, and a *part* for each process of the present run; all
have the number of their generation in their names. A run begins by making the base of the next generation from what
it finds, in one step: from then on the older files count no more. So whatever moment a run ends at, every picture
is in at most one of the files that count. Shapes: N pictures, V variants of the method, K classes.
"""

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
from corrclip_jax.evaluation.scorer import BatchCounts
from corrclip_jax.io.files import atomic_file


class StateError(ValueError):
    """Counts on disk that cannot be gone on from."""


@dataclass
class Tally:
    """Counts of the pictures that are `counted`; `scores` are these pictures' own mIoU, NaN elsewhere."""

    counted: Bool[np.ndarray, " N"]
    scores: Float[np.ndarray, " N"]
    matrices: Int[np.ndarray, "V K K1"]
    boundary: Int[np.ndarray, "3 K"]
    seconds: float = 0.0
    broken: dict[int, str] = field(default_factory=dict)

    @classmethod
    def empty(cls, pictures: int, variants: int, classes: int) -> "Tally":
        """Nothing counted."""
        return cls(
            np.zeros(pictures, bool),
            np.full(pictures, np.nan),
            np.zeros((variants, classes, classes + 1), np.int64),
            np.zeros((3, classes), np.int64),
        )

    def add(self, scored: BatchCounts) -> None:
        """Count a batch.

        Raises:
          RuntimeError: for a picture that is counted already, which would be a fault of the program.
        """
        indices = list(scored.indices)
        if self.counted[indices].any():
            raise RuntimeError(f"pictures {indices} are counted twice")
        self.counted[indices] = True
        self.scores[indices] = [metrics.mean_area_iou(each) for each in scored.areas]
        self.matrices += scored.matrices
        self.boundary += scored.boundary

    def __add__(self, other: "Tally") -> "Tally":
        """The counts of both.

        Raises:
          RuntimeError: where they share pictures.
        """
        if (self.counted & other.counted).any():
            raise RuntimeError("pictures are counted twice")
        return Tally(
            self.counted | other.counted,
            np.where(other.counted, other.scores, self.scores),
            self.matrices + other.matrices,
            self.boundary + other.boundary,
            self.seconds + other.seconds,
            self.broken | other.broken,
        )

    def to_bytes(self) -> bytes:
        """All of it, for a file or another process."""
        file = io.BytesIO()
        broken = json.dumps({str(index): message for index, message in self.broken.items()})
        np.savez(
            file,
            counted=self.counted,
            scores=self.scores,
            matrices=self.matrices,
            boundary=self.boundary,
            seconds=self.seconds,
            broken=np.frombuffer(broken.encode(), np.uint8),
        )
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Tally":
        """The inverse of `to_bytes`."""
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            broken = json.loads(file["broken"].tobytes() or b"{}")
            return cls(
                file["counted"],
                file["scores"],
                file["matrices"],
                file["boundary"],
                float(file["seconds"]),
                {int(index): message for index, message in broken.items()},
            )


class Store:
    """The folder with the counts of a run, of processes numbered from 0; number 0 begins generations."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.generation = 0

    def read(self, empty: Tally, settings: Mapping[str, Any]) -> Tally:
        """What former runs of the same settings have counted; `empty` where there is none.

        Raises:
          StateError: where settings have changed (which), or a file is damaged.
        """
        bases = self._files("base")
        if not bases:
            return empty
        self.generation = max(bases)
        then = json.loads((self.folder / f"settings-{self.generation}.json").read_text("utf-8"))
        if changed := differences(then, settings):
            raise StateError(
                f"{self.folder} holds the counts of a run with other settings:\n  "
                + "\n  ".join(changed)
                + "\nGive them again to go on, another --out to begin beside it, or --restart to begin anew."
            )
        parts = sorted(self.folder.glob(f"part-{self.generation}-*.npz"))
        return after(_read(bases[self.generation]), [_read(part) for part in parts])

    def begin(self, base: Tally, settings: Mapping[str, Any]) -> int:
        """Begin the next generation from a base: older files count no more and go. Returns its number."""
        self.generation += 1
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(settings, indent=1, ensure_ascii=False) + "\n"
        _write(self.folder / f"settings-{self.generation}.json", text.encode())
        _write(self.folder / f"base-{self.generation}.npz", base.to_bytes())
        for path in self.folder.iterdir():
            if str(self.generation) not in re.findall(r"\d+", path.name)[:1]:
                path.unlink(missing_ok=True)
        return self.generation

    def save(self, tally: Tally, process: int) -> None:
        """Write what a process has counted in this generation, in one step."""
        _write(self.folder / f"part-{self.generation}-{process}.npz", tally.to_bytes())

    def clear(self) -> None:
        """Forget everything."""
        for path in self.folder.glob("*"):
            path.unlink()

    def _files(self, kind: str) -> dict[int, Path]:
        return {int(path.stem.split("-")[1]): path for path in self.folder.glob(f"{kind}-*.npz")}


def after(base: Tally, parts: Sequence[Tally]) -> Tally:
    """The counts of former runs and of the processes of one more, whose time was the same."""
    total = sum(parts, start=base)
    total.seconds = base.seconds + max((part.seconds for part in parts), default=0.0)
    return total


def differences(then: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between two trees of settings, a line each."""
    lines = []
    for key in sorted({*then, *now}):
        before, after = then.get(key), now.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: was {_short(before)}, is {_short(after)}")
    return lines


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _read(path: Path) -> Tally:
    try:
        return Tally.from_bytes(path.read_bytes())
    except (ValueError, KeyError, EOFError, OSError, zipfile.BadZipFile, zlib.error) as error:
        raise StateError(
            f"{path} is damaged ({error}). It was not so when it was written: look after the disk, and begin anew "
            "with --restart."
        ) from error


def _write(path: Path, data: bytes) -> None:
    """A file that is there whole or not at all, after a loss of power too."""
    with atomic_file(path) as partial, partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
