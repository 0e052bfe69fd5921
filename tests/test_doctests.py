"""Doctests of the package: every example in a docstring gives what it says."""

import doctest
import importlib
from pathlib import Path

import pytest

import corrclip_jax

ROOT = Path(corrclip_jax.__file__).parent
# The recipes in weights/ are scripts and no modules of the package.
WITH_EXAMPLES = sorted(
    ".".join(file.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
    for room in ROOT.iterdir()
    if room.name != "weights"
    for file in ([room] if room.suffix == ".py" else room.rglob("*.py"))
    if ">>>" in file.read_text("utf-8")
)


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples(name):
    assert not doctest.testmod(importlib.import_module(name)).failed


def test_some_modules_have_examples():
    assert len(WITH_EXAMPLES) > 5
