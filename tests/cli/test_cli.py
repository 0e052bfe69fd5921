"""The command line: help, which waits for nothing, and what `corrclip convert` refuses and passes on."""

import inspect
import os
import re
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
    assert "JAX was imported" not in run_python("-c", program).stderr


def run_python(*arguments, **environment):
    root = str(Path(corrclip_jax.__file__).parents[1])
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": root} | environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("arguments", [["--help"], ["evaluate", "--help"]])
def test_help_loads_nothing_that_is_slow_to_import(arguments):
    program = (
        "import sys; from corrclip_jax.cli import app\n"
        f"try: app({arguments!r})\n"
        "finally: print([name for name in ('jax', 'numpy', 'PIL', 'flax', 'orbax', 'rich.progress')"
        " if name in sys.modules], file=sys.stderr)"
    )
    assert run_python("-c", program).stderr.splitlines()[-1] == "[]"


def test_the_package_runs_as_a_program():
    run = run_python("-m", "corrclip_jax", "--version")
    assert (run.returncode, run.stdout) == (0, f"corrclip {corrclip_jax.__version__}\n"), run.stderr


@pytest.mark.parametrize(
    ("words", "completed"), [("corrclip se", "segment"), ("corrclip segment --points", "--points")]
)
def test_a_shell_completes_commands_and_options(words, completed):
    program = "from corrclip_jax.cli import app; app(prog_name='corrclip')"
    environment = {
        "_CORRCLIP_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    run = run_python("-c", program, **environment)
    assert completed in run.stdout.split(), run.stderr


@pytest.mark.parametrize("command", ["segment", "evaluate", "export", "bench", "regions"])
def test_help_lists_the_sources_of_regions(command):
    text = " ".join(plain(corrclip(command, "--help").stdout).split())
    assert re.search(r"sam2(, |\|)sam1(, |\|)eomt(, |\|)mask2former(, |\|)slic(, |\|)none", text)


@pytest.mark.parametrize(
    "arguments",
    [
        ("regions", "photos", "--regions", "sam9"),
        ("export", "-o", "out", "-c", "cat", "--regions", "sam9"),
        ("bench", "--regions", "sam9"),
        ("regions", "-i", "photos", "-o", "out", "--source", "sam9"),
    ],
)
def test_an_unknown_source_of_regions_is_refused(arguments):
    result = corrclip(*arguments)
    assert result.exit_code == 2
    assert "must be one of sam2, sam1, eomt, mask2former, slic, none, or a published network" in plain(
        result.stderr
    )


def test_completion_can_be_installed():
    assert "--install-completion" in plain(corrclip("--help").stdout)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("--out", "x"),
            r"--clip and a backbone for similarities \(--dino, .*, --radio, --pe\) missing",
        ),
        (("--clip", "c.safetensors", "--out", "x"), r"\(--dino, .*\) missing"),
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
    options = {
        "out": Path("models/x"),
        "vocabulary": None,
        "spare_vocabulary": None,
        "name": None,
        "quick_gelu": False,
        "force": False,
    }
    others = {
        "out": Path("y"),
        "vocabulary": Path("v"),
        "spare_vocabulary": None,
        "name": "n",
        "quick_gelu": None,
        "force": True,
    }
    checkpoints = {"clip": Path("c"), "dino": Path("d")}
    assert calls == [((Path("in"),), options), ((checkpoints,), others)]
