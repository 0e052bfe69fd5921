"""Console output, error messages and exit codes of all commands."""

import logging
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

USAGE, FAILED, INTERRUPTED = 2, 1, 130
"""Exit codes: nothing was started; something failed; stopped by Ctrl-C."""


class UsageError(ValueError):
    """Options that contradict each other, or that would overwrite something."""


def messages() -> Console:
    """A console on stderr, for progress and errors; new in each call, since tests and pipes replace stderr."""
    return Console(stderr=True, highlight=False)


def results() -> Console:
    """A console on stdout, for results."""
    return Console(highlight=False)


def complain(error: BaseException | str) -> None:
    """Print an error on stderr, without a traceback."""
    text = str(error) or type(error).__name__
    messages().print(f"[bold red]Error:[/] {escape(text)}", soft_wrap=True)


class Program(TyperGroup):
    """A group of commands that turns expected errors (in options, input, files) into messages and exit codes.

    With --debug these errors are raised, with their traceback.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        logging.getLogger("absl").setLevel(logging.ERROR)  # hide log messages of JAX and Orbax
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
