"""Which files `corrclip segment` writes for which photo: never one over another, nor over a photo."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from corrclip_jax.cli.shared.console import UsageError
from corrclip_jax.io.files import RESULT_SUFFIXES


class Job(NamedTuple):
    """A photo and the stem of its results' names."""

    photo: Path
    stem: str


def plan_jobs(photos: Sequence[Path], out: Path) -> list[Job]:
    """Jobs for photos, their results in the folder `out`.

    A result is named for its photo's stem; where stems are alike, for the photo's folder and stem, then for the
    whole name, then by number.

    Raises:
      UsageError: where a result would replace a photo.
    """
    jobs = [Job(photo, stem) for photo, stem in zip(photos, _unlike(photos), strict=True)]
    originals = {photo.resolve() for photo in photos}
    for job in jobs:
        for suffix in RESULT_SUFFIXES:
            if (result := (out / f"{job.stem}{suffix}")).resolve() in originals:
                raise UsageError(
                    f"The result {result} would replace a photo of the same name. Choose another folder with --out."
                )
    return jobs


def _unlike(photos: Sequence[Path]) -> list[str]:
    stems = [photo.stem for photo in photos]
    longer: list[Callable[[Path], str]] = [
        lambda photo: f"{photo.resolve().parent.name}-{photo.stem}",
        lambda photo: f"{photo.resolve().parent.name}-{photo.name.replace('.', '-')}",
    ]
    for name in longer:
        # Some file systems take upper and lower case for the same.
        often = Counter(stem.lower() for stem in stems)
        stems = [
            stem if often[stem.lower()] == 1 else name(photo)
            for stem, photo in zip(stems, photos, strict=True)
        ]
    taken: set[str] = set()
    for index, stem in enumerate(stems):
        unlike, number = stem, 1
        while unlike.lower() in taken:
            number += 1
            unlike = f"{stem}-{number}"
        taken.add(unlike.lower())
        stems[index] = unlike
    return stems
