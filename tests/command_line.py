"""The command line as tests call it, and how a refusal looks."""

import re

import typer
from typer.testing import CliRunner

from corrclip_jax.cli import app


def commands():
    """All commands by their names, those of groups as "bank build"."""
    found = {}
    for name, command in typer.main.get_command(app).commands.items():
        group = getattr(command, "commands", None)
        found |= {name: command} if group is None else {f"{name} {sub}": one for sub, one in group.items()}
    return found


def corrclip(*arguments, **options):
    return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "250"}, **options)


def plain(text):
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def assert_refused(result, words):
    assert result.exit_code == 2, result.output
    assert not result.stdout
    assert len(plain(result.stderr).splitlines()) == 1
    assert re.search(words, plain(result.stderr)), result.stderr
