"""Unfinished build of a bank: a plan, and the entries of the images that are done, part by part.

A part is some images that are computed together; its file appears whole or not at all, so that a build may be
killed at any moment. When all parts are there, `commit` appends their entries to the bank in the order of the
images and writes `bank.json`, from which on they count; killed before, it begins again and writes the same rows.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from corrclip_jax.bank.errors import BankError
from corrclip_jax.bank.folder import (
    BOXES,
    DESCRIPTION,
    KEYS,
    REGIONS,
    BankImage,
    Description,
    Network,
    read_description,
    read_images,
    write_description,
    write_images,
)
from corrclip_jax.bank.rows import CHUNK_ROWS, write_rows
from corrclip_jax.io.files import atomic_file

FOLDER, PLAN = "unfinished", "plan.json"


class Entries(NamedTuple):
    """The entries of one image, region by region.

    Attributes:
      keys: [R, C], values: by CLIP [R, D]; float16.
      regions: ids of the regions.
      boxes: (x0, y0, x1, y1) of each in pixels of the image, ends included.
    """

    keys: np.ndarray
    values: dict[str, np.ndarray]
    regions: np.ndarray
    boxes: np.ndarray


class PlannedImage(NamedTuple):
    """An image that is to be added: path below its folder, the folder's number, digest of the file, its size."""

    name: str
    root: int
    mark: str
    height: int
    width: int


@dataclass(frozen=True)
class Plan:
    """What a build does.

    Attributes:
      generation: the bank's, once it is finished.
      backbone, values, settings: as in `Description`; another build with others does not continue this one.
      roots: folders of the images, those of the bank first.
      images: in the order of their entries.
      unreadable: why images are left out that could not even be opened, by path.
      parts: batches of each part, as lists of plain JSON types whose last element is the images' indices.
    """

    generation: int
    backbone: Network
    values: dict[str, Network]
    settings: dict[str, Any]
    roots: list[str]
    images: list[PlannedImage]
    unreadable: dict[str, str]
    parts: list[list[Any]]

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Plan":
        """The plan that `dataclasses.asdict` made plain JSON types of.

        Raises:
          ValueError, KeyError, TypeError: for other content.
        """
        plain = {
            "backbone": Network(**content["backbone"]),
            "values": {name: Network(**value) for name, value in content["values"].items()},
            "images": [PlannedImage(*image) for image in content["images"]],
        }
        return cls(**{**content, **plain})


class Unfinished:
    """The folder of an unfinished build within a bank's."""

    def __init__(self, bank: Path):
        self.bank, self.folder = bank, bank / FOLDER

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Lock the bank against other builds; the lock ends with the process at the latest.

        Raises:
          BankError: if there is one.
        """
        self.bank.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.bank / ".lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise BankError(f"{self.bank} is being built by another process. Wait for it.") from None
        try:
            yield
        finally:
            lock.release()

    def read(self) -> Plan | None:
        """The plan of the build that was interrupted; None where there is none. What is left of a finished build is
        deleted.

        Raises:
          BankError: if the plan is damaged.
        """
        if not (self.folder / PLAN).is_file():
            return None
        try:
            plan = Plan.from_json(json.loads((self.folder / PLAN).read_text("utf-8")))
        except (ValueError, KeyError, TypeError) as error:
            raise BankError(
                f"{self.folder / PLAN} is damaged ({error}). Start this build again (--restart)."
            ) from error
        if (self.bank / DESCRIPTION).is_file() and read_description(self.bank).generation >= plan.generation:
            self.clear()
            return None
        return plan

    def begin(self, plan: Plan) -> None:
        """Write a plan, in place of what is there."""
        self.clear()
        with atomic_file(self.folder / PLAN) as partial:
            partial.write_text(json.dumps(asdict(plan)), "utf-8")

    def clear(self) -> None:
        """Forget the build."""
        (self.folder / PLAN).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def todo(self, plan: Plan) -> list[int]:
        """The parts that are not done."""
        return [part for part in range(len(plan.parts)) if not self._file(part).is_file()]

    def save(self, part: int, found: dict[int, Entries | str]) -> None:
        """Write a part: the entries of its images, or why they have none, by their indices."""
        done = {index: entries for index, entries in sorted(found.items()) if isinstance(entries, Entries)}
        about = [
            [index, len(entries.regions) if isinstance(entries, Entries) else entries]
            for index, entries in sorted(found.items())
        ]
        arrays = _joined(list(done.values())) if done else {}
        with atomic_file(self._file(part)) as partial:
            save_file(arrays, partial, metadata={"images": json.dumps(about)})

    def commit(self, plan: Plan) -> tuple[Description, dict[str, str], list[str]]:
        """Append all entries to the bank.

        Returns:
          The bank; why images were left out, and which have no regions, by path.

        Raises:
          BankError: if a part is missing or damaged.
        """
        old = self._description(plan)
        images = read_images(self.bank, old)
        unreadable, without, first = dict(plan.unreadable), [], old.entries
        waiting: list[Entries] = []
        for index, found in self._entries(plan):
            image = plan.images[index]
            path = str(Path(plan.roots[image.root]) / image.name)
            if isinstance(found, str):
                unreadable[path] = found
            elif found is None:
                without.append(path)
            else:
                images.append(BankImage(*image[:3], first + _count(waiting), len(found.regions)))
                waiting.append(found)
                while _count(waiting) >= CHUNK_ROWS - first % CHUNK_ROWS:
                    first, waiting = self._write(first, waiting, CHUNK_ROWS - first % CHUNK_ROWS)
        first, _ = self._write(first, waiting, _count(waiting))
        if first == old.entries and (self.bank / DESCRIPTION).is_file():
            self.clear()
            return old, unreadable, without
        write_images(self.bank, images)
        new = replace(old, entries=first, images=len(images), roots=plan.roots, generation=plan.generation)
        write_description(self.bank, new)
        self.clear()
        return new, unreadable, without

    def _description(self, plan: Plan) -> Description:
        if (self.bank / DESCRIPTION).is_file():
            return read_description(self.bank)
        return Description(0, 0, plan.backbone, plan.values, settings=plan.settings)

    def _file(self, part: int) -> Path:
        return self.folder / f"part-{part:06d}.safetensors"

    def _entries(self, plan: Plan) -> Iterator[tuple[int, Entries | str | None]]:
        """The entries of all images, in their order (None: no regions); parts are read as they are needed."""
        places: dict[int, tuple[int, int, int] | str] = {}
        for part in range(len(plan.parts)):
            row = 0
            for index, found in self._images(part):
                places[index] = found if isinstance(found, str) else (part, row, row + found)
                row += 0 if isinstance(found, str) else found
        opened = lru_cache(maxsize=32)(lambda part: safe_open(self._file(part), framework="np"))
        for index, place in sorted(places.items()):
            if isinstance(place, str):
                yield index, place
                continue
            part, begin, end = place
            if begin == end:
                yield index, None
                continue
            file = opened(part)
            arrays = {name: file.get_slice(name)[begin:end] for name in file.keys()}  # noqa: SIM118
            yield index, _from_arrays(arrays)

    def _images(self, part: int) -> list[tuple[int, int | str]]:
        try:
            with safe_open(self._file(part), framework="np") as file:
                return [(index, found) for index, found in json.loads(file.metadata()["images"])]
        except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
            raise BankError(
                f"{self._file(part)} is missing or damaged ({error}). Delete it and build again: its images are "
                "computed anew."
            ) from error

    def _write(self, first: int, waiting: list[Entries], count: int) -> tuple[int, list[Entries]]:
        """Write `count` of the waiting entries from row `first` on; the next row, and what waits on."""
        if not count:
            return first, waiting
        arrays = _joined(waiting)
        for name, rows in arrays.items():
            write_rows(self.bank / name, first, rows[:count])
        rest = _from_arrays({name: rows[count:] for name, rows in arrays.items()})
        return first + count, [rest] if len(rest.regions) else []


def _joined(entries: Sequence[Entries]) -> dict[str, np.ndarray]:
    """The arrays of several images by the names of their files."""
    names = entries[0].values
    return {
        KEYS: np.concatenate([one.keys for one in entries]),
        **{f"values/{name}": np.concatenate([one.values[name] for one in entries]) for name in names},
        REGIONS: np.concatenate([one.regions for one in entries]),
        BOXES: np.concatenate([one.boxes for one in entries]),
    }


def _from_arrays(arrays: dict[str, np.ndarray]) -> Entries:
    values = {name.removeprefix("values/"): x for name, x in arrays.items() if name.startswith("values/")}
    return Entries(arrays[KEYS], values, arrays[REGIONS], arrays[BOXES])


def _count(entries: Sequence[Entries]) -> int:
    return sum(len(one.regions) for one in entries)
