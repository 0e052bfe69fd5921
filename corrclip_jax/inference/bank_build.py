"""Build of a bank: images to entries, resumable at any moment, by one process or several.

Images are planned once, in the order of their file stems, and computed in parts that several processes share. After
an interruption the next call continues with the parts that are not there (`bank.unfinished`).
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from corrclip_jax.bank.errors import BankError
from corrclip_jax.bank.folder import (
    DESCRIPTION,
    Description,
    Network,
    differences,
    read_description,
    read_images,
)
from corrclip_jax.bank.unfinished import Entries, Plan, PlannedImage, Unfinished
from corrclip_jax.inference.buckets import Batch, Bucket, Size
from corrclip_jax.inference.not_finite import NOT_FINITE
from corrclip_jax.inference.photo_reading import read_photo_sizes
from corrclip_jax.io.marks import file_mark
from corrclip_jax.io.photo_files import survey_photos
from corrclip_jax.runtime import distributed

_PART = 16  # images, at least, whose entries are saved together

Progress = Callable[[int, int], object]
"""A callback with how many images are done, and of how many."""


@runtime_checkable
class Extractor(Protocol):
    """What makes entries of images.

    Attributes:
      backbone: the network that makes keys.
      clips: those that make values, by name.
      settings: what the entries depend on besides, plain JSON types.
    """

    backbone: Network
    clips: Mapping[str, Network]
    settings: Mapping[str, Any]

    def plan(self, sizes: Sequence[Size]) -> list[Batch]:
        """Images that are computed together."""
        ...

    def __call__(
        self, batches: Sequence[Batch], photos: Mapping[int, Path], sizes: Mapping[int, Size]
    ) -> Iterator[tuple[int, dict[int, Entries | str]]]:
        """For each batch, by its number and in any order, the entries of its images, or why they have none."""
        ...


@dataclass(frozen=True)
class BankBuild:
    """What a build did.

    Attributes:
      description: the bank.
      added: how many entries are new.
      unreadable: why images were left out, by path.
      without_regions: images in which no regions were found; they have no entries.
      left_out: what the folders hold besides images, as a sentence; empty if it is nothing.
    """

    description: Description
    added: int
    unreadable: dict[str, str]
    without_regions: list[str]
    left_out: str = ""


def build(
    images: Sequence[Path],
    out: Path,
    extractor: Extractor,
    *,
    restart: bool = False,
    progress: Progress = lambda done, total: None,
) -> BankBuild:
    """Add the entries of images to a bank, which is made where there is none.

    An interrupted build is finished first. Images that the bank has already are left out.

    Args:
      images: photos, or folders of photos, with all their sub-folders.
      out: the bank's folder.
      extractor: what makes the entries.
      restart: forget an interrupted build.
      progress: called after each batch of this process.

    Raises:
      BankError: a bank, or an interrupted build, of other networks or settings; a damaged one.
      PhotoError: no images.
    """
    unfinished, leads = Unfinished(out), jax.process_index() == 0
    unreadable: dict[str, str] = {}
    without: set[str] = set()
    left_out = ""

    def planned() -> Plan | None:
        nonlocal left_out
        listed, left_out = bank_images(images, out)
        return _planned(listed, out, extractor, {*unreadable, *without})

    def add(plan: Plan) -> None:
        distributed.gather(b"")  # the plan is there
        _work(plan, unfinished, extractor, progress)
        distributed.gather(b"")  # all parts are there
        if leads:
            _, failed, empty = unfinished.commit(plan)
            unreadable.update(failed)
            without.update(empty)
        distributed.gather(b"")  # the bank is there

    with unfinished.alone() if leads else nullcontext():
        if leads and restart:
            unfinished.clear()
        before = _entries(out)
        interrupted = _agreed(lambda: _checked(unfinished.read(), extractor, out))
        if interrupted is not None:
            add(interrupted)
        fresh = _agreed(planned)
        if fresh is not None:
            if leads:
                unfinished.begin(fresh)
            add(fresh)
    description = read_description(out)
    return BankBuild(description, description.entries - before, unreadable, sorted(without), left_out)


def _entries(out: Path) -> int:
    return read_description(out).entries if (out / DESCRIPTION).is_file() else 0


def _agreed(make: Callable[[], Plan | None]) -> Plan | None:
    """A plan that the first process makes, on all processes."""
    if jax.process_count() == 1:
        return make()
    message = b""
    if jax.process_index() == 0:
        try:
            plan = make()
            message = json.dumps(None if plan is None else asdict(plan)).encode()
        except (ValueError, OSError) as error:
            message = json.dumps(str(error)).encode()
    content = json.loads(distributed.from_first(message))
    if isinstance(content, str):
        raise BankError(content)
    return None if content is None else Plan.from_json(content)


def _checked(plan: Plan | None, extractor: Extractor, out: Path) -> Plan | None:
    """An interrupted build's plan, if it makes the same entries as this one."""
    if plan is None:
        return None
    _check_same(f"{out} holds an interrupted build", plan, extractor, "; or forget it with --restart")
    paths = [Path(plan.roots[image.root]) / image.name for image in plan.images]
    marks = zip(paths, plan.images, _marks(paths), strict=True)
    if changed := [str(path) for path, image, mark in marks if mark != image.mark]:
        raise BankError(
            f"{len(changed)} images changed since the build in {out} was interrupted ({', '.join(changed[:3])}). "
            "Put them back, or forget that build with --restart."
        )
    return plan


def _marks(paths: Sequence[Path]) -> list[str]:
    with ThreadPoolExecutor() as pool:
        return list(pool.map(file_mark, paths))


def _check_same(what: str, made: Plan | Description, extractor: Extractor, advice: str = "") -> None:
    same = {
        "backbone": (made.backbone, extractor.backbone),
        "CLIPs": (made.values, dict(extractor.clips)),
        "settings": (made.settings, dict(extractor.settings)),
    }
    for name, (old, new) in same.items():
        if found := differences(old, new):
            raise BankError(
                f"{what} with other {name}: {'; '.join(found)}. Use the model and the options that it was begun "
                f"with{advice}."
            )


def _planned(
    listed: Sequence[tuple[Path, str]], out: Path, extractor: Extractor, tried: Set[str]
) -> Plan | None:
    """The plan for the images that the bank does not have and that were not tried; None where there are none."""
    roots: list[str] = []
    known: set[tuple[str, str]] = set()  # names below their folders, and whole paths, each with the digest
    generation = 1
    if (out / DESCRIPTION).is_file():
        bank = read_description(out)
        if bank.keys != "exact":
            raise BankError(f"{out} was imported from a published index, to which nothing can be added.")
        _check_same(f"{out} is a bank", bank, extractor)
        roots, generation = list(bank.roots), bank.generation + 1
        for image in read_images(out, bank):
            known |= {(image.name, image.mark), (str(Path(roots[image.root]) / image.name), image.mark)}
    found = []
    for (root, name), mark in zip(listed, _marks([root / name for root, name in listed]), strict=True):
        path = str(root.resolve())
        file = str(Path(path) / name)
        if not known & {(name, mark), (file, mark)} and file not in tried:
            known |= {(name, mark), (file, mark)}
            roots += [path] * (path not in roots)
            found.append((name, roots.index(path), mark))
    if not found:
        return None
    sizes, failures = read_photo_sizes([Path(roots[root]) / name for name, root, _ in found])
    order = sorted(sizes, key=lambda index: (Path(found[index][0]).stem, found[index][:2]))
    batches = extractor.plan([sizes[index] for index in order]) if order else []
    return Plan(
        generation,
        extractor.backbone,
        dict(extractor.clips),
        dict(extractor.settings),
        roots,
        [PlannedImage(*found[index], *sizes[index]) for index in order],
        {
            str(Path(roots[found[index][1]]) / found[index][0]): str(error)
            for index, error in failures.items()
        },
        [
            [[*asdict(batch.bucket).values(), batch.batch_size, list(batch.indices)] for batch in part]
            for part in parts_of(batches)
        ],
    )


def bank_images(paths: Sequence[Path], out: Path) -> tuple[list[tuple[Path, str]], str]:
    """The images at paths, and what the folders hold besides, as a sentence.

    Each image is a folder and a path below it with "/"; of a file the folder is its own. `survey_photos` says which
    files of a folder are images; the official program knows .png, .jpg, .jpeg, .bmp and .tiff.

    Raises:
      PhotoError: for a path that does not exist, or a folder without images.
    """
    found = survey_photos(paths, recursive=True, out=out).without_problems()
    order = {path: number for number, path in enumerate(dict.fromkeys(paths))}
    images = []
    for file in found.photos:
        given = min(order.keys() & {file, *file.parents}, key=order.__getitem__)
        root = file.parent if given == file else given
        images.append((root, file.relative_to(root).as_posix()))
    return images, found.left_out


def parts_of(batches: Sequence[Batch]) -> Iterator[list[Batch]]:
    """Batches in runs whose entries are saved together; the batches of whole parts give these parts again."""
    part: list[Batch] = []
    for batch in batches:
        part.append(batch)
        if sum(len(one.indices) for one in part) >= _PART:
            yield part
            part = []
    if part:
        yield part


def _work(plan: Plan, unfinished: Unfinished, extractor: Extractor, progress: Progress) -> None:
    """Compute this process's share of the parts that are not there."""
    # By their numbers: another process may have done some of its own already.
    own = range(jax.process_index(), len(plan.parts), jax.process_count())
    todo = [part for part in unfinished.todo(plan) if part in own]
    batches = [
        (part, Batch(Bucket(*shape), tuple(indices), size))
        for part in todo
        for *shape, size, indices in plan.parts[part]
    ]
    total = sum(len(batch.indices) for _, batch in batches)
    photos = {i: Path(plan.roots[image.root]) / image.name for i, image in enumerate(plan.images)}
    sizes = {i: (image.height, image.width) for i, image in enumerate(plan.images)}
    done: dict[int, dict[int, Entries | str]] = {}
    left = Counter(part for part, _ in batches)
    seen = 0
    progress(0, total)
    for number, found in extractor([batch for _, batch in batches], photos, sizes):
        part = batches[number][0]
        done.setdefault(part, {}).update(found)
        seen += len(found)
        left[part] -= 1
        if not left[part]:
            unfinished.save(part, done.pop(part))
        progress(seen, total)


def as_stored(keys: np.ndarray, values: Mapping[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Keys and values as they are stored, float16.

    Raises:
      BankError: for features that are not finite.
    """
    stored = {name: np.asarray(x, np.float16) for name, x in {"": keys, **values}.items()}
    if not all(np.isfinite(x).all() for x in stored.values()):
        raise BankError(NOT_FINITE)
    return stored.pop(""), stored
