"""Progress of commands: a bar in a terminal, elsewhere a line now and then, for every job longer than two seconds.

    with Progress() as progress:
        progress.phase("Loading vit-b")
        ...
        progress.phase("Photos", total=8, done=2)        # two were done by an earlier run
        for photo in photos:
            progress.show(photo.name)
            ...
            progress.advance()

Everything goes to stderr. Import this module inside commands: `--help` does not need it.
"""

import threading
import time
from types import TracebackType

from rich import progress as rich_progress
from rich.markup import escape

from corrclip_jax.cli.shared.console import messages

_FIRST, _EVERY, _LONGEST = 2.0, 5.0, 60.0
"""Seconds until the first line, until the next at least, and at most. Between them a tenth of the time so far."""


class Progress:
    """How far a command is. Threads may call its methods."""

    def __init__(self, *, first: float = _FIRST) -> None:
        """Show nothing before the first `phase`; without a terminal, nothing in the first `first` seconds."""
        self._console = messages()
        self._bar = _bar(self._console) if self._console.is_terminal else None
        self._task: rich_progress.TaskID | None = None
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._printing = threading.Lock()
        self._reporter = threading.Thread(target=self._report, name="corrclip-progress", daemon=True)
        self._description, self._detail = "", ""
        self._total: int | None = None
        self._done = self._before = 0
        self._started = self._phase_started = time.monotonic()
        self._left_out = 0.0
        self._next_line = self._started + first

    def __enter__(self) -> "Progress":
        if self._bar is not None:
            self._bar.start()
        else:
            self._reporter.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the display and leave the terminal as it was; no line comes later."""
        with self._printing:
            self._ended.set()
        if self._bar is not None:
            self._bar.stop()

    def phase(self, description: str, *, total: int | None = None, done: int = 0) -> None:
        """Begin the next part of the job.

        Args:
          description: what is being done ("Loading vit-b", "Photos").
          total: the number of its steps, None if it has none.
          done: steps that were done before; the time left is computed without them.
        """
        with self._lock:
            self._description, self._detail = description, ""
            self._total, self._done, self._before = total, done, done
            self._phase_started, self._left_out = time.monotonic(), 0.0
            if self._bar is not None:
                if self._task is not None:
                    self._bar.remove_task(self._task)
                self._task = self._bar.add_task(escape(description), total=total, completed=done)

    def show(self, detail: str) -> None:
        """Show what is being worked on, beside the description."""
        with self._lock:
            self._detail = detail
            if self._bar is not None and self._task is not None:
                text = f"{self._description}: {detail}" if detail else self._description
                self._bar.update(self._task, description=escape(text))

    def advance(self, steps: int = 1) -> None:
        """Count steps as done."""
        with self._lock:
            self._done += steps
            if self._bar is not None and self._task is not None:
                self._bar.update(self._task, completed=self._done)

    def leave_out(self, seconds: float) -> None:
        """Compute the time left without so much of this phase's time, which compilation took."""
        with self._lock:
            self._left_out = seconds

    def line(self) -> str:
        """How far it is, as a line of text: "Photos: 3 of 8, a.jpg, about 0:12 left"."""
        with self._lock:
            elapsed = time.monotonic() - self._phase_started
            parts = [] if self._total is None else [f"{self._done} of {self._total}"]
            parts += [self._detail] if self._detail else []
            steps = self._done - self._before
            if self._total is not None and steps:
                pace = max(0.0, elapsed - self._left_out) / steps
                parts.append(f"about {_clock(pace * (self._total - self._done))} left")
            else:
                parts.append(f"{elapsed:.0f} s")
            return f"{self._description}: {', '.join(parts)}"

    def _report(self) -> None:
        while not self._ended.wait(max(0.0, self._next_line - time.monotonic())):
            now = time.monotonic()
            self._next_line = now + min(_LONGEST, max(_EVERY, (now - self._started) / 10))
            with self._printing:
                if self._description and not self._ended.is_set():
                    self._console.print(self.line(), markup=False, soft_wrap=True)


def _bar(console: rich_progress.Console) -> rich_progress.Progress:
    return rich_progress.Progress(
        rich_progress.SpinnerColumn(),
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
        transient=True,
    )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
