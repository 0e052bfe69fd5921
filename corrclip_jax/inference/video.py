"""Videos: every frame labelled, written as an overlay with the original's audio, labels and a description."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from corrclip_jax.inference.descriptions import read_description
from corrclip_jax.inference.segmentation import Segmentation, describe_classes
from corrclip_jax.inference.segmenter import Classes, Segmenter
from corrclip_jax.io.files import json_bytes
from corrclip_jax.io.marks import file_digest
from corrclip_jax.io.own_files import OwnFiles, value_digest
from corrclip_jax.io.video import Frame, VideoReader
from corrclip_jax.io.video_output import (
    label_images_writer,
    label_video_writer,
    overlay_suffix,
    overlay_writer,
    region_video_writer,
)
from corrclip_jax.runtime.environment import device_name, versions
from corrclip_jax.text.classes import normalise_classes
from corrclip_jax.viz.overlay import tinted

LabelFiles = Literal["mkv", "png"]
"""How labels are written: as a lossless video, or as PNGs in a ZIP archive."""

OnFrame = Callable[[int, int | None, bool], object]
"""Called with how many frames are done, about how many there are (None if unknown), and whether a program was
compiled for the last one."""

_LABEL_SUFFIXES: dict[str, str] = {"mkv": ".mkv", "png": ".zip"}


class Span(NamedTuple):
    """Which frames of a video are labelled.

    Attributes:
      start: seconds; frames before are left out.
      end: seconds; frames from there on are left out; None for none.
      every: of so many frames the first one is labelled and written.
    """

    start: float = 0.0
    end: float | None = None
    every: int = 1

    def check(self) -> None:
        """Refuse what does not fit.

        Raises:
          ValueError: with what is expected.
        """
        if self.start < 0 or (self.end is not None and self.end <= self.start):
            raise ValueError(f"the end must be later than the start. Got {self.start:g} s to {self.end} s.")
        if self.every < 1:
            raise ValueError(f"every must be at least 1. Got {self.every}.")


_ALL = Span()


@dataclass(frozen=True)
class VideoResult:
    """Where the results of a video are, and what it shows.

    Attributes:
      paths: of the files: overlay, labels, regions if they are followed, preview, description.
      frames: how many were labelled.
      shares: the share of the pixels of all frames, 0..1, of each class, by its first name.
      damage: what of the video could not be read; None if nothing is known to be missing.
      before: whether an earlier run made it.
    """

    paths: list[Path]
    frames: int
    shares: dict[str, float]
    damage: str | None
    before: bool


class VideoStopped(Exception):
    """The run was asked to end; nothing of this video is kept."""


def segment_video(
    segmenter: Segmenter,
    video: str | os.PathLike,
    classes: Classes,
    out: str | os.PathLike,
    *,
    stem: str | None = None,
    span: Span = _ALL,
    labels: LabelFiles = "mkv",
    track: bool = False,
    made: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    on_frame: OnFrame = lambda done, total, compiled: None,
    stop: Callable[[], bool] = lambda: False,
) -> VideoResult:
    """Label the frames of a video, and write an overlay, the labels, a preview with a legend and a description.

    <stem>.overlay.mp4 (.mov, .mkv) has the video's times, size, rotation and audio. <stem>.labels.mkv holds labels
    as grey values, without loss. A result that was made in the same way is kept. Memory does not depend
    on the length.

    Args:
      segmenter: the model.
      video: a file.
      classes: class names; a list inside is synonyms of one class.
      out: the folder of the results.
      stem: of their names; by default the video's.
      span: which frames are labelled.
      labels: "mkv", or "png" for <stem>.labels.zip with a PNG for each frame.
      track: regions are followed, and their labels smoothed over time (see `RegionTracks`); <stem>.regions.mkv has
        their ids, as 65536 red + 256 green + blue.
      made: more that the result depends on, for the journal of own files.
      overwrite: make it again, and replace files that this program did not write.
      on_frame: called after every frame.
      stop: asked between frames whether to end.

    Raises:
      VideoError: a file that is no video, or has no frame that can be read in this time.
      ForeignFileError: if a file that this program did not write would be replaced, and `overwrite` is False.
      OutputError: if a file cannot be written, or the description of an earlier result is damaged.
      MissingExtraError: if PyAV is not installed.
      ValueError: for other arguments that do not fit.
      VideoStopped: if `stop` said so.
    """
    span.check()
    if labels not in _LABEL_SUFFIXES:
        raise ValueError(f"labels must be {' or '.join(_LABEL_SUFFIXES)}. Got {labels!r}.")
    path = Path(video)
    listed = [list(names) for names in normalise_classes(classes)]
    with VideoReader(path, span.start, span.end) as reader:
        stem = stem or path.stem
        names = [f"{stem}.overlay{overlay_suffix(reader)}", f"{stem}.labels{_LABEL_SUFFIXES[labels]}"]
        names += [f"{stem}.regions.mkv"] if track else []
        names += [f"{stem}.preview.jpg", f"{stem}.video.json"]
        own = OwnFiles(out)
        paths = [own.folder / name for name in names]
        if any(one.resolve() == path.resolve() for one in paths):
            raise ValueError(f"the results would replace {path}. Choose another folder.")
        made = {
            "video": file_digest(path),
            "classes": value_digest(listed),
            "settings": value_digest(repr(segmenter.config)),
            "span": list(span),
            "labels": labels,
            "track": track,
            **(made or {}),
        }
        if own.look(names, made).done and not overwrite:
            return _described(paths)
        own.check(names, overwrite=overwrite)
        with own.writing(names, made, overwrite=overwrite) as partials:
            work = _Work(segmenter, reader, listed, span, track)
            work.run(partials, labels, on_frame, stop)
            partials[-1].write_bytes(json_bytes({**work.summary(), "made": made}))
        return VideoResult(paths, work.frames, work.shares, reader.damage, False)


class _Work:
    """One video."""

    def __init__(
        self, segmenter: Segmenter, reader: VideoReader, classes: list[list[str]], span: Span, track: bool
    ):
        self._segmenter, self._reader, self._classes = segmenter, reader, classes
        self._span, self._track = span, track
        self._names = [names[0] for names in classes]
        self._pixels = np.zeros(len(classes), np.int64)
        self._size = 0, 0
        self._most = 0
        self._preview: Any = None
        self.frames = 0

    @property
    def shares(self) -> dict[str, float]:
        """Of the pixels of all frames, by the classes' first names."""
        return dict(zip(self._names, (self._pixels / max(1, self._pixels.sum())).tolist(), strict=True))

    def run(
        self, files: Sequence[Path], labels: LabelFiles, on_frame: OnFrame, stop: Callable[[], bool]
    ) -> None:
        """Label all frames and write all files but the description; a thread draws and encodes meanwhile."""
        overlay_file, labels_file, *region_files, preview_file, _ = files
        every, expected = self._span.every, self._reader.expected
        total = None if expected is None else -(-expected // every)
        waiting: deque[Frame] = deque()
        with ExitStack() as stack:
            draw = stack.enter_context(overlay_writer(overlay_file, self._reader, every))
            if labels == "mkv":
                file = label_video_writer(labels_file, self._reader, len(self._names), every)
            else:
                file = label_images_writer(labels_file, self._names)
            keep = stack.enter_context(file)
            follow = [
                stack.enter_context(region_video_writer(one, self._reader, every)) for one in region_files
            ]

            def write(frame: Frame, result: Segmentation) -> None:
                draw(frame, tinted(result.photo, result.labels, self._names))
                keep(frame, result.labels)
                for each in follow:
                    each(frame, result.regions)

            pool = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="corrclip-encode"))
            written: deque[Future] = deque()
            results = self._segmenter.stream(self._frames(waiting), self._classes, track=self._track)
            stack.callback(results.close)  # ends the thread that reads
            for _, result in results:
                if isinstance(result, Exception):
                    raise result
                self._count(result)
                written.append(pool.submit(write, waiting.popleft(), result))
                if len(written) > 2:
                    written.popleft().result()
                on_frame(self.frames, total, result.compiled)
                if stop():
                    raise VideoStopped(f"{self._reader.path} is not finished")
            for future in written:
                future.result()
        self._preview.overlay().save(preview_file, quality=90)

    def _frames(self, waiting: deque[Frame]) -> Iterator[np.ndarray]:
        """The pixels of the frames to label; the frames wait for their results."""
        for frame in self._reader.frames():
            if frame.number % self._span.every == 0:
                waiting.append(frame)
                yield frame.pixels

    def _count(self, result: Segmentation) -> None:
        pixels = np.bincount(result.labels.ravel(), minlength=len(self._names))
        self._pixels += pixels
        self._size = result.labels.shape
        self.frames += 1
        if (classes := int(np.count_nonzero(pixels))) > self._most:
            self._most, self._preview = classes, result

    def summary(self) -> dict[str, Any]:
        """The description of the result, as plain JSON types."""
        shape = self._reader.format
        return {
            "video": str(self._reader.path),
            "width": self._size[1],
            "height": self._size[0],
            "rate": None if shape.rate is None else float(shape.rate / self._span.every),
            "frames": self.frames,
            "from": self._span.start,
            "to": self._span.end,
            "every": self._span.every,
            "track": self._track,
            "damage": self._reader.damage,
            "classes": describe_classes(self._classes, self._pixels),
            "model": self._segmenter.config.name,
            "device": device_name(),
            "versions": versions(),
        }


def _described(paths: list[Path]) -> VideoResult:
    """What the description of a result says."""

    def take(content: Any) -> VideoResult:
        shares = {one["names"][0]: float(one["share"]) for one in content["classes"]}
        return VideoResult(paths, int(content["frames"]), shares, content["damage"], True)

    return read_description(paths[-1], take)
