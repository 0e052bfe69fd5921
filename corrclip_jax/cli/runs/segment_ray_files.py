"""Actors that write the files of `corrclip segment` to a folder that all machines see."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from corrclip_jax.cli.runs.output_names import Job
from corrclip_jax.cli.runs.plan import Task
from corrclip_jax.io.photos import BandsOf
from corrclip_jax.ray.segment_images import SegmentImages


def task_text(index: int, task: Task) -> list[Any]:
    """A task as JSON types, with its number."""
    job = task.job
    return [index, str(job.photo), str(job.photo.absolute()), job.stem, job.probabilities, task.made]


class WriteFiles:
    """Labels chunks of tasks and writes their files; existing ones are kept."""

    def __init__(
        self,
        out: str,
        settings: tuple[str, str, dict[str, Any], list[list[str]]],
        sizes: Mapping[tuple[int, int], int],
        bands: tuple[int, ...] | None,
        overwrite: bool,
    ):
        self._model, self._regions, options, self._names = settings
        self._options = options
        self._out, self._bands, self._overwrite = Path(out), bands, overwrite
        self._segment = SegmentImages(
            self._model, self._names, regions=self._regions, sizes=sizes, bands=bands, **options
        )

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Work on a batch of chunks.

        Args:
          batch: `chunk`, lists of `task_text` as JSON.

        Returns:
          `key` (the number), `error` ("" for none) and `done` (width, height, shares, seconds as JSON) of each
          task; or one error with the key "" that ends the run.
        """
        found: dict[str, list[str]] = {"key": [], "error": [], "done": []}
        try:
            for text in batch["chunk"]:
                self._write(json.loads(str(text)), found)
        except (ValueError, OSError, ImportError) as error:
            return {"key": [""], "error": [str(error) or type(error).__name__], "done": [""]}
        return found

    def _write(self, tasks: list[list[Any]], found: dict[str, list[str]]) -> None:
        from corrclip_jax.cli.runs.segment import Done, Work, describe

        work = Work(
            self._names, self._out, self._model, self._regions, self._options, overwrite=self._overwrite
        )
        photos: list[Any] = []
        planned = []
        for _, shown, place, stem, probabilities, made in tasks:
            source = Path(place) if self._bands is None else BandsOf(place, self._bands)
            photos.append(source)
            planned.append(Task(Job(Path(shown), stem, probabilities), source, None, made))
        for index, result, notes in self._segment.results(photos):
            task = planned[index]
            timings = {"load": 0.0, "text": 0.0}
            details = describe(self._segment.segmenter, self._regions)
            work.notes = {str(task.job.photo): notes} if notes else {}
            outcome = work.outcome(task, result, details, timings)
            is_done = isinstance(outcome, Done)
            found["key"].append(str(tasks[index][0]))
            found["error"].append("" if is_done else str(outcome))
            found["done"].append(json.dumps(outcome[1:]) if is_done else "")
