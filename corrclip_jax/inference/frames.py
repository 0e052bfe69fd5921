"""Frames of any iterator, as a camera or a file, labelled in their order while a thread reads the next ones."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from corrclip_jax.inference.frame_source import FrameSource
from corrclip_jax.inference.label_runner import LabelRunner, OnStart, Outcome, Request
from corrclip_jax.inference.photo_reading import or_error
from corrclip_jax.io.photos import read_photo
from corrclip_jax.text.embedding import TextEmbedding


def label_frames(
    runner: LabelRunner, frames: Iterable[Any], text: TextEmbedding, *, newest: bool, on_start: OnStart
) -> Iterator[tuple[int, Any, Outcome | Exception]]:
    """Label frames in whole batches, so that all of one size share a program.

    Args:
      runner: the model.
      frames: photos as `read_photo` takes them.
      text: the classes.
      newest: label frames alone, and drop those that wait while another is labelled.
      on_start: see `LabelRunner.work`.

    Yields:
      In order a frame's number in the iterator, its pixels, and its results; or, in place of the results, a
      `PhotoError`, or the `JaxRuntimeError` of a device that failed.

    Raises:
      Exception: what the iterator raises, after the results of the frames before.
    """
    together = 1
    with FrameSource(frames, newest=newest) as source:
        while taken := source.take(together):
            read = {number: or_error(read_photo)(frame) for number, frame in taken}
            good = {number: pixels for number, pixels in read.items() if not isinstance(pixels, Exception)}
            found = _outcomes(runner, good, text, on_start, newest)
            for number, pixels in read.items():
                yield number, pixels, found.get(number, pixels)
            if good and not newest:
                sizes = {pixels.shape[:2] for pixels in good.values()}
                together = source.ahead = max(map(runner.together, sizes))


def _outcomes(
    runner: LabelRunner, frames: Mapping[int, np.ndarray], text: TextEmbedding, on_start: OnStart, alone: bool
) -> dict[int, Any]:
    """The outcomes of frames by their numbers."""
    numbers = list(frames)
    items = [Request(pixels, None) for pixels in frames.values()]
    work = runner.work(
        [item.photo.shape[:2] for item in items],
        [False] * len(items),
        items.__getitem__,
        text,
        lambda places, compiles: on_start([numbers[place] for place in places], compiles),
        of_many=not alone,
    )
    return {numbers[place]: outcome for place, _, outcome in work}
