"""The progress bar of commands that work through many files. Imported late: `--help` needs none."""

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
    """A bar on stderr with a description, how many of how many, and the time left; nothing without a terminal."""
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
