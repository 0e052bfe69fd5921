"""The work of `corrclip segment` on videos: which inputs are videos, and each one segmented."""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import Any

import typer
from rich.markup import escape

from corrclip_jax.cli.runs.output_names import plan_jobs
from corrclip_jax.cli.shared.console import (
    FAILED,
    UsageError,
    complain,
    messages,
    note,
    result_as_json,
)
from corrclip_jax.cli.shared.interrupts import run_interruptibly
from corrclip_jax.cli.shared.options import class_names, region_source
from corrclip_jax.cli.shared.progress import Progress
from corrclip_jax.cli.shared.video_options import VideoOptions
from corrclip_jax.hub.model_marks import model_mark
from corrclip_jax.io.files import OutputError, check_writable
from corrclip_jax.io.own_files import OwnFiles
from corrclip_jax.io.photo_files import SUFFIXES, photos_in
from corrclip_jax.io.video_files import VIDEO_SUFFIXES, VideoError, require_video, videos_in

_PHOTO_SUFFIXES = SUFFIXES - {".gif"}  # which may hold many frames
_RECENT = 30  # frames that the shown rate is taken over


def find_videos(photos: Sequence[Path], out: Path, recursive: bool, options: VideoOptions) -> list[Path]:
    """The videos among the inputs; empty if all inputs are others.

    Videos in a folder of photos are left out, unless there are options of videos: the survey of photos counts them.

    Raises:
      UsageError: for videos and other files together, and options of videos without any.
      MissingExtraError: for videos, or options of videos, without the extra `video`.
    """
    if options.given:
        require_video(f"{' and '.join(options.given)}, as all options of videos,")
    found: dict[Path, Path] = {}
    others: list[Path] = []
    folders: list[Path] = []
    named = False
    for path in photos:
        if path.is_dir():
            videos = list(videos_in(path, recursive=recursive, out=out))
            folders.append(path)
        elif path.suffix.lower() in VIDEO_SUFFIXES or (
            options.given and path.suffix.lower() not in _PHOTO_SUFFIXES and path.exists()
        ):
            if OwnFiles(path.parent).wrote(path.name):
                note(f"{path} is left out: it is the result of an earlier run.")
                continue
            named, videos = True, [path]
        else:
            videos = []
            others.append(path)
        found.update({video.resolve(): video for video in videos})
    if not found:
        if options.given:
            raise UsageError(
                f"{', '.join(options.given)} is for videos, and there are none among the inputs."
            )
        return []
    for folder in folders:
        others += photos_in(folder, recursive=recursive, out=out)
    first = next(iter(found.values()))
    if others and not named and not options.given:
        note(
            f"{first}{f' and {len(found) - 1} more' if len(found) > 1 else ''}: videos beside photos are left out. "
            f"Segment them in a run of their own, as in {first.parent / ('*' + first.suffix)}."
        )
        return []
    require_video("videos")
    if others:
        raise UsageError(
            f"{first} is a video, and {others[0]} is none ({len(found)} and {len(others)} files). Segment videos "
            f"and other files in two runs, as in {first.parent / ('*' + first.suffix)} and "
            f"{others[0].parent / ('*' + others[0].suffix)}."
        )
    return list(found.values())


def run(
    videos: Sequence[Path],
    out: Path,
    options: VideoOptions,
    classes: tuple[str | None, Path | None],
    model: tuple[str, str | None, dict[str, Any]],
    refused: Mapping[str, Any],
    overwrite: bool,
) -> None:
    """Segment all videos; those that fail or are damaged are listed at the end.

    Args:
      videos: their files.
      out: the folder of the results.
      options: of videos.
      classes: --classes and --classes-file.
      model: its name, the source of regions, and more arguments of `Segmenter`.
      refused: options that videos do not have, by name.
      overwrite: make everything again.
    """
    if wrong := [name for name, value in refused.items() if value]:
        raise UsageError(f"{', '.join(wrong)} is not for videos.")
    names = class_names(*classes)
    regions = region_source(model[0], model[1], "videos")
    if options.track and regions == "none":
        raise UsageError(
            "--track follows regions, and --regions none finds none. Choose another source, as slic."
        )
    span = options.span()
    jobs = plan_jobs(videos, out)
    originals = {video.resolve() for video in videos}
    for job in jobs:
        for end in (*(f".overlay{end}" for end in (".mp4", ".mov", ".mkv")), ".labels.mkv"):
            if (result := out / f"{job.stem}{end}").resolve() in originals:
                raise UsageError(
                    f"The result {result} would replace a video. Choose another folder with --out."
                )
    check_writable(out)
    done: list[dict[str, Any]] = []
    failed = [f"{job.photo} does not exist." for job in jobs if not job.photo.exists()]
    if len(failed) == len(jobs):
        raise UsageError(f"{' '.join(failed)} Give videos, or folders of videos.")

    def work(stop: Event) -> None:
        from jax.errors import JaxRuntimeError

        from corrclip_jax.inference.segmenter import Segmenter
        from corrclip_jax.inference.video import VideoStopped, segment_video
        from corrclip_jax.runtime.memory import exhausted, too_large

        progress.phase(f"Loading {model[0]}")
        segmenter = Segmenter(model[0], regions=regions, probability_points=None, **model[2])
        mark = model_mark(model[0], regions)
        for job in jobs:
            if not job.photo.exists():
                continue
            progress.phase(f"{job.photo.name}: first frames")
            try:
                result = segment_video(
                    segmenter,
                    job.photo,
                    names,
                    out,
                    stem=job.stem,
                    span=span,
                    labels="mkv" if options.labels is None else options.labels.value,
                    track=options.track,
                    made={"model": mark},
                    overwrite=overwrite,
                    on_frame=_Shown(progress, job.photo.name),
                    stop=stop.is_set,
                )
            except VideoStopped:
                return
            except (VideoError, OutputError) as error:
                failed.append(str(error))
                continue
            except JaxRuntimeError as error:
                if not exhausted(error):
                    raise
                failed.append(too_large(job.photo))
                continue
            if result.damage is not None:
                failed.append(
                    f"{result.damage}; the {result.frames} frames that could be read are segmented."
                )
            done.append(
                {
                    "video": str(job.photo),
                    "files": [str(path) for path in result.paths],
                    "frames": result.frames,
                    "shares": result.shares,
                    "damage": result.damage,
                    "done_before": result.before,
                }
            )

    with Progress() as progress:
        try:
            run_interruptibly(work)
        except KeyboardInterrupt:
            progress.stop()
            if done:
                messages().print(f"{len(done)} of {len(jobs)} videos are done: the same command continues.")
            raise
    where = f" -> {escape(str(out))}" if done else ""
    before = sum(one["done_before"] for one in done)
    earlier = f", {before} of them before" if before else ""
    messages().print(f"{len(done)} of {len(jobs)} videos segmented{earlier}{where}", soft_wrap=True)
    for line in failed:
        complain(line)
    result_as_json({"videos": done, "out": str(out), "failed": failed})
    if failed:
        raise typer.Exit(FAILED)


class _Shown:
    """How far a video is, with the rate of the last frames and the time left."""

    def __init__(self, progress: Progress, name: str):
        self._progress, self._name = progress, name
        self._times: deque[float] = deque(maxlen=_RECENT)

    def __call__(self, done: int, total: int | None, compiled: bool) -> None:
        """Show it, after every frame. The first frame, which waits for compilation, counts for no rate."""
        now = time.monotonic()
        if done == 1 or compiled:
            self._times.clear()
            self._progress.phase(self._name, total=total, done=done)
        else:
            self._progress.advance()
        self._times.append(now)
        if len(self._times) > 1 and now > self._times[0]:
            rate = (len(self._times) - 1) / (now - self._times[0])
            self._progress.show(f"{rate:.3g} frames/s")
