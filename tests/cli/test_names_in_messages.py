"""Options, commands and modules that strings of the package name (messages, help, docstrings) exist."""

import ast
import re
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer
from command_line import commands

import corrclip_jax
from corrclip_jax.cli import app

PACKAGE = Path(corrclip_jax.__file__).parent
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*+(?!\w)")
COMMAND = re.compile(r"(?<![\w-])corrclip ([a-z]++)(?![\w-])")
MODULE = re.compile(r"\bcorrclip_jax(?:\.\w+)+")
STYLE_SHEETS = {"report_html.py", "explanation.py"}  # CSS variables look like options


@cache
def strings():
    """Every string literal and every constant part of an f-string, each with the path of its module."""
    folders = [PACKAGE, (PACKAGE / "conversion").resolve()]
    return [
        (path, node.value)
        for folder in folders
        for path in sorted(folder.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


@cache
def program():
    return typer.main.get_command(app)


@cache
def options():
    """Options of the program, of every command, and of the modules that are programs of their own."""
    found = set()
    for command in (program(), *program().commands.values(), *commands().values()):
        for parameter in command.params:
            found |= {*parameter.opts, *parameter.secondary_opts}
        found |= set(command.get_help_option(typer.Context(command)).opts)
    for path in (PACKAGE / "bench").glob("*.py"):
        found |= set(re.findall(r'add_argument\(\s*"(--[a-z-]+)"', path.read_text("utf-8")))
    return found


def test_the_collection_sees_the_programs_own_options():
    assert {"--classes", "--quick-gelu", "--exact-gelu", "--sam2", "--help", "--version"} <= options()
    assert sum(bool(OPTION.search(text)) for _, text in strings()) > 30


def test_every_option_that_a_message_names_exists():
    named = {
        (path.name, option)
        for path, text in strings()
        if path.name not in STYLE_SHEETS
        for option in OPTION.findall(text)
    }
    assert {(name, option) for name, option in named if option not in options()} == set()


def test_every_command_that_a_message_names_exists():
    named = {(path.name, command) for path, text in strings() for command in COMMAND.findall(text)}
    assert len(named) > 10
    assert {(name, command) for name, command in named if command not in program().commands} == set()


def exists(name):
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        module = ".".join(parts[:length])
        try:
            known = find_spec(module) is not None
        except ModuleNotFoundError:
            known = False
        if known:
            found = import_module(module) if length < len(parts) else None
            for attribute in parts[length:]:
                if not hasattr(found, attribute):
                    return False
                found = getattr(found, attribute)
            return True
    return False


def test_every_module_that_a_string_names_exists():
    named = {(path.name, name) for path, text in strings() for name in MODULE.findall(text)}
    assert {(path, name) for path, name in named if not exists(name)} == set()


@pytest.mark.parametrize(
    "name", ["corrclip_jax.batching", "corrclip_jax.bench.versus", "corrclip_jax.cli.gone"]
)
def test_a_module_that_is_gone_is_noticed(name):
    assert not exists(name)
