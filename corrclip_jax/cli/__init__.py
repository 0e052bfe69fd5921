"""The program `corrclip`: one module per command in `commands`, its work in `runs`, what they share in `shared`.

Nothing here imports JAX before a command needs it, so that `--help` and errors in the
options appear immediately. Begin with `commands/segment.py`.
"""

import gc
from typing import Annotated

import typer

from corrclip_jax.cli.commands import app as app_command
from corrclip_jax.cli.commands import (
    bank,
    bench,
    convert,
    demo,
    evaluate,
    explain,
    export,
    export_labels,
    models,
    prepare,
    regions,
    segment,
)
from corrclip_jax.cli.shared.common_options import with_common_options
from corrclip_jax.cli.shared.console import Program

app = typer.Typer(
    name="corrclip",
    cls=Program,
    help="Open-vocabulary segmentation: label every pixel of a photo with one of your class names, "
    "without training.",
    epilog="[bold]corrclip COMMAND --help[/bold] shows the options of a command and examples.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# Commands that wait for signals themselves, and save what is done; the others run in a thread.
_WAIT_FOR_SIGNALS = (segment, regions, evaluate, demo, app_command)
for _module in (
    segment,
    regions,
    convert,
    models,
    demo,
    evaluate,
    prepare,
    explain,
    export,
    export_labels,
    app_command,
    bench,
):
    _word = _module.__name__.rpartition(".")[2]
    _command = getattr(_module, _word)
    app.command(_word.replace("_", "-"), help=_module.HELP)(
        with_common_options(_command, in_thread=_module not in _WAIT_FOR_SIGNALS)
    )
_banks = typer.Typer(help=bank.HELP, no_args_is_help=True, rich_markup_mode="rich")
for _name, (_command, _help) in bank.COMMANDS.items():
    _banks.command(_name, help=_help)(with_common_options(_command, in_thread=True))
app.add_typer(_banks, name="bank")


def _version(show: bool) -> bool:
    if show:
        from corrclip_jax._version import __version__

        typer.echo(f"corrclip {__version__}")
        raise typer.Exit
    return show


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", envvar="CORRCLIP_DEBUG", help="Show the traceback of an error."),
    ] = False,
) -> None:
    """Declare the options before a command; `Program` reads `debug`."""


def main() -> None:
    """Run the program; the entry point of the script `corrclip`."""
    # Traces are hundreds of thousands of objects that stay. To look through them all again and again for cycles
    # would take a fifth of the time.
    gc.set_threshold(50_000, 20, 100)
    app()
