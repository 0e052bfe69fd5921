"""Progress bar of commands that process many files. Imported inside commands: `--help` does not need it."""

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

from corrclip_jax.cli.shared.console import messages


def progress_bar() -> Progress:
    """A bar on stderr with a description, a count and the time left; shows nothing if stderr is no terminal."""
    console = messages()
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
