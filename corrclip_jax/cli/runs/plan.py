"""Plan of a run over photos: what is done already, what is to be made again and why, and what cannot be done.

The commands `segment` and `regions` share it. No JAX: a run that has nothing to do ends at once.
"""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from corrclip_jax.cli.runs.output_names import Job
from corrclip_jax.io.marks import file_digest
from corrclip_jax.io.own_files import ForeignFileError, OwnFiles, Standing, value_digest
from corrclip_jax.io.photos import BandsOf
from corrclip_jax.io.region_maps import RegionError, region_file


class Task(NamedTuple):
    """A photo to work on.

    Attributes:
      job: the photo and the names of its results.
      source: what is read: the photo, or some of its bands.
      region_map: the file of its region map, or None.
      made: from what and how the results will be made, for the journal of own files.
    """

    job: Job
    source: Path | BandsOf
    region_map: Path | None
    made: dict[str, Any]


@dataclass
class Plan:
    """What a run has to do.

    Attributes:
      tasks: photos to work on.
      done: how many were done before, in the same way.
      kept: the jobs of those.
      edited: files of those that were changed since, which are kept.
      again: photos whose results were made in another way and are made again, by what differs.
      failed: messages about photos that cannot be worked on.
    """

    tasks: list[Task] = field(default_factory=list)
    done: int = 0
    kept: list[Job] = field(default_factory=list)
    edited: list[Path] = field(default_factory=list)
    again: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """What the user should know before the work begins."""
        notes = [
            f"{number} result{'s' * (number != 1)} made before with other {what}: made again."
            for what, number in self.again.items()
        ]
        if self.edited:
            shown = ", ".join(map(str, self.edited[:3])) + (", ..." if len(self.edited) > 3 else "")
            notes.append(f"Changed since they were written, and kept (--overwrite replaces them): {shown}.")
        return notes


def plan_tasks(
    jobs: Sequence[Job],
    out: Path,
    made: Mapping[str, Any],
    *,
    names: Callable[[Job], Sequence[str]] = lambda job: job.names,
    region_maps: Path | None = None,
    bands: tuple[int, ...] | None = None,
    overwrite: bool = False,
) -> Plan:
    """Compare what is there with what is to be made.

    Args:
      jobs: all photos.
      out: the folder of the results.
      made: settings and inputs that all photos share.
      names: the files of a job, the last of which is written last.
      region_maps: a folder with a region map for each photo, or None.
      bands: the bands of the photos to read, or None.
      overwrite: make everything again.
    """
    own, plan = OwnFiles(out), Plan()

    def look(job: Job) -> tuple[Task, Standing] | str:
        try:
            region_map = None if region_maps is None else region_file(region_maps, job.photo)
            source = job.photo if bands is None else BandsOf(job.photo, bands)
            task = Task(job, source, region_map, {**made, **inputs_of(job.photo, region_map)})
            return task, Standing(False) if overwrite else own.look(names(job), task.made)
        except (RegionError, OSError) as error:
            return str(error)

    with ThreadPoolExecutor() as pool:
        found = list(pool.map(look, jobs))
    for one in found:
        if isinstance(one, str):
            plan.failed.append(one)
            continue
        task, standing = one
        if standing.done:
            plan.done += 1
            plan.kept.append(task.job)
            plan.edited += [out / name for name in standing.edited]
        elif standing.foreign:
            plan.failed.append(f"{task.job.photo}: {ForeignFileError(out, standing.foreign)}")
        elif other := of_another_photo(out / names(task.job)[0], task.made, standing):
            plan.failed.append(f"{task.job.photo}: {other}")
        else:
            plan.again.update([", ".join(standing.changed)] if standing.changed else [])
            plan.tasks.append(task)
    return plan


def inputs_of(photo: Path, region_map: Path | None = None) -> dict[str, Any]:
    """What a result is made from, for the journal of own files; the photo's path is for `of_another_photo`."""
    inputs = {"photo": _digest(photo), "_path": os.path.realpath(photo)}
    return inputs if region_map is None else inputs | {"region map": _digest(region_map)}


def _digest(path: Path) -> str | None:
    """The digest of an input; None if it cannot be read, which is found out later."""
    with suppress(OSError):
        return file_digest(path)
    return None


def of_another_photo(file: Path, made: Mapping[str, Any], standing: Standing) -> str | None:
    """Why a result must not be replaced: it belongs to another photo, which is still there; None if it does not.

    Args:
      file: the result.
      made: how it would be made, with `inputs_of` the photo.
      standing: what is there.
    """
    before = standing.made.get("_path")
    if "photo" not in standing.changed or before in (None, made["_path"]) or not Path(before).exists():
        return None
    return (
        f"{file} is the result of another photo, {before}. Choose another folder with --out, or replace it with "
        "--overwrite."
    )


def bank_mark(bank: Path) -> str:
    """What stands for a bank in the journal of own files: a digest of all its files, wherever it lies."""
    inside = (path.relative_to(bank) for path in bank.rglob("*") if path.is_file())
    names = sorted(name for name in inside if name.parts[0] not in (".lock", "unfinished"))
    with ThreadPoolExecutor() as pool:  # hashing releases Python's lock
        digests = pool.map(lambda name: file_digest(bank / name), names)
        return value_digest([[name.as_posix(), digest] for name, digest in zip(names, digests, strict=True)])
