"""Console output, error messages and exit codes of all commands."""

import io
import json
import logging
import math
import os
import sys
from dataclasses import dataclass
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from corrclip_jax.cli.shared.interrupts import Terminated, end_if_interrupted, sigterm_raises

USAGE, FAILED, INTERRUPTED, TERMINATED = 2, 1, 130, 143
"""Exit codes: nothing was started; something failed; stopped by Ctrl-C; stopped by SIGTERM."""


class UsageError(ValueError):
    """Options that contradict each other, or that would overwrite something."""


@dataclass
class Output:
    """What the running command prints, by the options that all commands have.

    Attributes:
      as_json: the result as JSON on stdout, in place of tables.
      quiet: results and errors only.
      verbose: log messages, too.
      debug: tracebacks of errors.
    """

    as_json: bool = False
    quiet: bool = False
    verbose: bool = False
    debug: bool = False

    def begin(self) -> None:
        """Apply the options, before JAX is imported."""
        if self.verbose:
            logging.basicConfig(stream=sys.stderr, format="%(name)s: %(message)s", force=True)
            logging.getLogger("absl").setLevel(logging.INFO)
            os.environ["JAX_LOG_COMPILES"] = "1"


output = Output()


def messages() -> Console:
    """A console on stderr, for progress and notes; new in each call, since tests and pipes replace stderr."""
    return Console(stderr=True, highlight=False, quiet=output.quiet)


def results() -> Console:
    """A console on stdout, for results to be read by people; prints nothing under --json."""
    return Console(highlight=False, quiet=output.as_json)


def result_as_json(content: Any) -> None:
    """Print the result of a command under --json.

    Names of files that are no UTF-8 are escaped; numbers of NumPy are numbers, and null where they are not finite.
    """
    if output.as_json:
        print(json.dumps(_plain(content), indent=1, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if hasattr(value, "tolist"):  # an array or a number of NumPy
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def complain(error: BaseException | str) -> None:
    """Print an error on stderr, without a traceback."""
    text = str(error) or type(error).__name__
    console = Console(stderr=True, highlight=False)
    console.print(f"[bold red]Error:[/] {escape(text)}", soft_wrap=True)


def note(text: str) -> None:
    """Print a note on stderr."""
    messages().print(f"[yellow]Note:[/] {escape(text)}", soft_wrap=True)


def print_any_character() -> None:
    """Let stdout and stderr escape what their encoding lacks: bytes of file names, letters in another locale."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class Program(TyperGroup):
    """A group of commands that turns expected errors (in options, input, files) into messages and exit codes.

    With --debug these errors are raised, with their traceback. Ctrl-C and SIGTERM end any command with a message.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        vars(output).update(vars(Output()))
        logging.getLogger("absl").setLevel(logging.ERROR)  # hide log messages of JAX and Orbax
        print_any_character()
        try:
            with sigterm_raises():
                return super().invoke(ctx)
        except BrokenPipeError:  # as in "| head": the framework ends quietly
            raise
        except (ValueError, OSError, ImportError) as error:
            if ctx.params["debug"] or output.debug:
                raise
            complain(error)
            raise typer.Exit(USAGE) from None
        except KeyboardInterrupt as stopped:
            terminated = isinstance(stopped, Terminated)
            complain("Stopped by SIGTERM." if terminated else "Stopped by Ctrl-C.")
            code = TERMINATED if terminated else INTERRUPTED
            end_if_interrupted(code)
            raise typer.Exit(code) from None
