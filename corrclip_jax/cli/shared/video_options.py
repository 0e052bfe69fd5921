"""Options of `corrclip segment` for videos."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from corrclip_jax.cli.shared.console import UsageError

if TYPE_CHECKING:
    from corrclip_jax.inference.video import Span


class LabelsFormat(StrEnum):
    """Files of labels."""

    mkv = "mkv"
    png = "png"


EveryOption = Annotated[
    int | None,
    typer.Option(
        min=1, help="Videos: label each N-th frame. [dim]\\[default: 1][/]", metavar="N", show_default=False
    ),
]
FromOption = Annotated[
    str | None,
    typer.Option(
        "--from",
        help="Videos: begin at this time, in seconds or h:mm:ss.",
        metavar="TIME",
        show_default=False,
    ),
]
ToOption = Annotated[
    str | None,
    typer.Option("--to", help="Videos: end before this time.", metavar="TIME", show_default=False),
]
LabelsOption = Annotated[
    LabelsFormat | None,
    typer.Option(
        "--labels",
        help="Videos: labels as a lossless video (mkv), or PNGs in a ZIP archive (png). [dim]\\[default: mkv][/]",
        show_default=False,
    ),
]
TrackOption = Annotated[
    bool,
    typer.Option(
        "--track", help="Videos: follow regions from frame to frame and smooth their labels over time."
    ),
]


class VideoOptions(NamedTuple):
    """The options of videos as they were given, None for those that were not."""

    every: int | None = None
    begin: str | None = None
    end: str | None = None
    labels: LabelsFormat | None = None
    track: bool = False

    @property
    def given(self) -> list[str]:
        """The names of those that were given."""
        names = {"begin": "from", "end": "to"}
        return [f"--{names.get(name, name)}" for name, value in self._asdict().items() if value]

    def span(self) -> "Span":
        """Which frames are labelled.

        Raises:
          UsageError: for times of another form, or an end that is not later than the start.
        """
        from corrclip_jax.inference.video import Span

        start, end = _seconds("--from", self.begin), _seconds("--to", self.end)
        if end is not None and end <= (start or 0.0):
            raise UsageError(f"--to must be later than --from. Got {self.begin or 0} to {self.end}.")
        return Span(start or 0.0, end, self.every or 1)


def _seconds(option: str, text: str | None) -> float | None:
    from corrclip_jax.io.video_files import parse_time

    try:
        return None if text is None else parse_time(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from error
