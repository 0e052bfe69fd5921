"""Names of the files that `corrclip segment` writes: distinct for all photos, and none that of a photo."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from corrclip_jax.cli.shared.console import UsageError
from corrclip_jax.io.files import PROBABILITIES_SUFFIX, RESULT_SUFFIXES, fitting_stem, result_names


class Job(NamedTuple):
    """A photo, the stem of the names of its results, and whether these include its probabilities."""

    photo: Path
    stem: str
    probabilities: bool = False

    @property
    def names(self) -> list[str]:
        """The names of its results."""
        return result_names(self.stem, probabilities=self.probabilities)


def plan_jobs(photos: Sequence[Path], out: Path, *, probabilities: bool = False) -> list[Job]:
    """Jobs for photos whose results, with their `probabilities` if asked, go to the folder `out`.

    Results have the stem of their photo. Where several photos have the same stem, the name of the folder is put
    before it; if that is not enough, the suffix after it, and finally a number. A name that would be too long
    is cut.

    Raises:
      UsageError: if a result would replace a photo.
    """
    jobs = [Job(photo, stem, probabilities) for photo, stem in zip(photos, _distinct(photos), strict=True)]
    originals = {photo.resolve() for photo in photos}
    for job in jobs:
        for name in job.names:
            if (result := out / name).resolve() in originals:
                raise UsageError(
                    f"The result {result} would replace a photo of the same name. Choose another folder with --out."
                )
    return jobs


def _distinct(photos: Sequence[Path]) -> list[str]:
    """Stems for the results of photos, distinct even if upper and lower case are not."""
    stems = [photo.stem for photo in photos]
    longer: list[Callable[[Path], str]] = [
        lambda photo: f"{photo.resolve().parent.name}-{photo.stem}",
        lambda photo: f"{photo.resolve().parent.name}-{photo.name.replace('.', '-')}",
    ]
    for name in longer:
        # Some file systems do not distinguish upper and lower case.
        counts = Counter(stem.lower() for stem in stems)
        stems = [
            stem if counts[stem.lower()] == 1 else name(photo)
            for stem, photo in zip(stems, photos, strict=True)
        ]
    longest = max((*RESULT_SUFFIXES, PROBABILITIES_SUFFIX), key=len)
    taken: set[str] = set()
    for index, stem in enumerate(fitting_stem(stem, f"-99999{longest}") for stem in stems):
        distinct, number = stem, 1
        while distinct.lower() in taken:
            number += 1
            distinct = f"{stem}-{number}"
        taken.add(distinct.lower())
        stems[index] = distinct
    return stems
