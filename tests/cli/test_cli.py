"""The command line: help, which waits for nothing, and what `corrclip convert` refuses and passes on."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import assert_refused, corrclip, plain

import corrclip_jax


def test_help_and_version():
    assert corrclip("--version").stdout == f"corrclip {corrclip_jax.__version__}\n"
    assert "segment" in corrclip().output
    for command in ("segment", "convert"):
        result = corrclip(command, "--help")
        assert result.exit_code == 0
        assert "Examples" in plain(result.stdout)
        assert f"corrclip {command}" in plain(result.stdout)


@pytest.mark.process
@pytest.mark.parametrize(
    "arguments", [["--help"], ["segment", "--help"], ["segment", "gone.jpg", "-c", "cat"]]
)
def test_help_and_refusals_do_not_wait_for_jax(arguments):
    program = (
        "import sys; from corrclip_jax.cli import app\n"
        f"try: app({arguments!r})\n"
        "finally: assert 'jax' not in sys.modules, 'JAX was imported'"
    )
    root = str(Path(corrclip_jax.__file__).parents[1])
    run = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": root}, capture_output=True
    )
    assert b"JAX was imported" not in run.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--out", "x"), "--clip and --dino missing"),
        (("--clip", "c.safetensors", "--out", "x"), "--dino missing"),
        (("here", "--clip", "c.safetensors", "--out", "x"), "not both"),
        (("gone", "--out", "x"), "gone is no folder"),
        (("--clip", "gone.pt", "--dino", "gone.pt", "--out", "x"), r"no checkpoint gone\.pt"),
    ],
)
def test_conversions_that_are_refused(tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    Path("here").mkdir()
    assert_refused(corrclip("convert", *arguments), words)
    assert not Path("x").exists()


def test_what_convert_passes_on(tmp_path, monkeypatch):
    from corrclip_jax.conversion import convert as module

    calls = []

    def fake(real):
        def run(*sources, report, **options):
            inspect.signature(real).bind(*sources, report=report, **options)
            calls.append((sources, options))
            report("Converting [this] ...")
            return options["out"]

        return run

    for name in ("convert", "convert_folder"):
        monkeypatch.setattr(module, name, fake(getattr(module, name)))
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    result = corrclip("convert", "in", "--out", "models/x", "--exact-gelu")
    assert result.exit_code == 0, result.output
    assert plain(result.stdout) == "models/x\n"
    assert "Converting [this] ..." in plain(result.stderr)
    corrclip(
        "convert", "--clip", "c", "--dino", "d", "--out", "y", "--vocabulary", "v", "--name", "n", "--force"
    )
    options = {"out": Path("models/x"), "vocabulary": None, "name": None, "quick_gelu": False, "force": False}
    others = {"out": Path("y"), "vocabulary": Path("v"), "name": "n", "quick_gelu": None, "force": True}
    others |= dict.fromkeys(("sam1", "eomt", "mask2former"))
    assert calls == [((Path("in"),), options), ((Path("c"), Path("d"), None), others)]
