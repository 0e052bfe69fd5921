"""What the commands share: where they print, and how they refuse."""

import logging
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

USAGE, FAILED, INTERRUPTED = 2, 1, 130
"""Exit codes: nothing was begun; something was not done; stopped by Ctrl-C."""


class UsageError(ValueError):
    """Options that do not go together, or that would do harm."""


def messages() -> Console:
    """A console on stderr, for progress and complaints (made anew: tests and pipes exchange the stream)."""
    return Console(stderr=True, highlight=False)


def results() -> Console:
    """A console on stdout, for what was asked for."""
    return Console(highlight=False)


def complain(error: BaseException | str) -> None:
    """Print an error on stderr as it is, without a traceback."""
    text = str(error) or type(error).__name__
    messages().print(f"[bold red]Error:[/] {escape(text)}", soft_wrap=True)


class Program(TyperGroup):
    """Commands whose expectable errors (wrong input, files) are messages and exit codes.

    With --debug they are raised, traceback and all.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        logging.getLogger("absl").setLevel(logging.ERROR)  # remarks of JAX's and Orbax's on themselves
        try:
            return super().invoke(ctx)
        except (ValueError, OSError, ImportError) as error:
            if ctx.params["debug"]:
                raise
            complain(error)
            raise typer.Exit(USAGE) from None
        except KeyboardInterrupt:
            complain("Stopped by Ctrl-C.")
            raise typer.Exit(INTERRUPTED) from None
