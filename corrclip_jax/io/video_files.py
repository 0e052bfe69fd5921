"""Video files: which suffixes they have, what is among files and folders, and times of a video as text."""

import re
from collections.abc import Iterator
from pathlib import Path

from corrclip_jax.io.own_files import OwnFiles
from corrclip_jax.io.photo_files import is_hidden
from corrclip_jax.runtime.extras import require

VIDEO_SUFFIXES = frozenset(
    {
        ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".mts", ".m2ts", ".ts", ".wmv", ".flv",
        ".3gp", ".ogv", ".mxf", ".vob", ".y4m",
    }
)  # fmt: skip
"""Suffixes of videos."""

_TIME = re.compile(r"(?:(?:(\d+):)?([0-5]?\d):)?(\d+(?:\.\d*)?|\.\d+)", re.ASCII)


class VideoError(ValueError):
    """A video that cannot be read, or has nothing to read."""


def require_video(purpose: str) -> None:
    """Check that the package of the extra `video` is installed.

    Args:
      purpose: what needs it, a plural, for the message.

    Raises:
      MissingExtraError: if it is not.
    """
    require("av", purpose, "video")


def videos_in(folder: Path, *, recursive: bool = False, out: Path | None = None) -> Iterator[Path]:
    """The videos of a folder, sorted by name, without hidden files and those that this program wrote.

    Args:
      folder: where.
      recursive: look into its folders, too.
      out: a folder for results, which is not searched.
    """
    own: dict[Path, OwnFiles] = {}
    results = None if out is None or out.resolve() == folder.resolve() else out.resolve()
    for file in sorted(folder.rglob("*") if recursive else folder.iterdir()):
        if file.suffix.lower() not in VIDEO_SUFFIXES or is_hidden(file, folder) or not file.is_file():
            continue
        if results is not None and results in file.resolve().parents:
            continue
        if file.parent not in own:
            own[file.parent] = OwnFiles(file.parent)
        if not own[file.parent].wrote(file.name):
            yield file


def parse_time(text: str) -> float:
    """Seconds of "90", "1:30" or "0:01:30.5".

    >>> parse_time("1:01:30.5")
    3690.5

    Raises:
      ValueError: for text of another form.
    """
    match = _TIME.fullmatch(text.strip())
    if match is None or (match[2] is not None and float(match[3]) >= 60):
        raise ValueError(f"a time is given in seconds or as hh:mm:ss, as in 90 or 0:01:30.5. Got {text!r}.")
    hours, minutes, seconds = (float(part or 0) for part in match.groups())
    return 3600 * hours + 60 * minutes + seconds


def clock(seconds: float) -> str:
    """A time as "0:01:30.50".

    >>> clock(90.5)
    '0:01:30.50'
    """
    hundredths = round(100 * max(0.0, seconds))
    minutes, rest = divmod(hundredths, 6000)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest // 100:02d}.{rest % 100:02d}"
