"""Options that every command has: --json, --quiet, --verbose and --debug."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer

from corrclip_jax.cli.shared.console import output
from corrclip_jax.cli.shared.interrupts import run_interruptibly

_PANEL = "Output"
_OPTIONS = {
    "as_json": ("--json", "Print the result on stdout as JSON."),
    "quiet": ("--quiet", "-q", "Print results and errors only."),
    "verbose": ("--verbose", "-v", "Also print log messages, such as what JAX compiles."),
    "debug": ("--debug", "Show the traceback of an error."),
}


def with_common_options(command: Callable[..., None], *, in_thread: bool) -> Callable[..., None]:
    """The command with the options of all commands, which set `console.output`.

    Args:
      command: a command.
      in_thread: run it in a thread, while this one waits for signals: for commands that do not do so themselves.
    """

    @wraps(command)
    def run(**given: Any) -> None:
        for name in _OPTIONS:
            if given.pop(name):
                setattr(output, name, True)
        output.begin()
        if in_thread:
            run_interruptibly(lambda stop: command(**given))
        else:
            command(**given)

    added = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=False,
            annotation=Annotated[bool, typer.Option(*names, help=text, rich_help_panel=_PANEL)],
        )
        for name, (*names, text) in _OPTIONS.items()
    ]
    own = inspect.signature(command)
    kept = [
        one.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=command.__annotations__[name])
        for name, one in own.parameters.items()
    ]
    signature = own.replace(parameters=[*kept, *added])
    run.__signature__ = signature  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in signature.parameters.values()}
    return run
