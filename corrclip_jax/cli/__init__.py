"""The command line, `corrclip`: one module a command.

Nothing here imports JAX before a command needs it, so that help and refusals come at once.
"""

from typing import Annotated

import typer

from corrclip_jax.cli.commands import (
    bench,
    convert,
    demo,
    evaluate,
    export,
    models,
    prepare,
    regions,
    segment,
)
from corrclip_jax.cli.shared.console import Program

app = typer.Typer(
    name="corrclip",
    cls=Program,
    help="Labels every pixel of a photo with one of any list of class names, without training.",
    epilog="[bold]corrclip COMMAND --help[/bold] shows a command's options and examples.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(help=segment.HELP)(segment.segment)
app.command(help=regions.HELP)(regions.regions)
app.command(help=convert.HELP)(convert.convert)
app.command(help=models.HELP)(models.models)
app.command(help=demo.HELP)(demo.demo)
app.command(help=evaluate.HELP)(evaluate.evaluate)
app.command(help=prepare.HELP)(prepare.prepare)
app.command(help=export.HELP)(export.export)
app.command(help=bench.HELP)(bench.bench)


def _version(wanted: bool) -> bool:
    if wanted:
        from corrclip_jax._version import __version__

        typer.echo(f"corrclip {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[
        bool,
        typer.Option("--debug", envvar="CORRCLIP_DEBUG", help="Show where in the program an error arose."),
    ] = False,
) -> None:
    """Take the options that stand before a command; `Program` reads `debug`."""


def main() -> None:
    """Run the program; the entry point of the script `corrclip`."""
    app()
