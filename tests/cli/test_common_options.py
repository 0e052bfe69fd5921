"""Options that all commands have, one spelling of the same thing, and suggestions for words that are unknown."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import commands, corrclip, plain
from PIL import Image

import corrclip_jax
from corrclip_jax.cli.shared import console
from corrclip_jax.cli.shared.options import checked_assignments

COMMANDS = commands()


def options(command):
    return {
        name
        for parameter in COMMANDS[command].params
        for name in (*parameter.opts, *parameter.secondary_opts)
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_prints_json_and_more_or_less(command):
    assert {"--json", "--quiet", "-q", "--verbose", "-v", "--debug"} <= options(command)


def test_a_result_is_json_whatever_its_numbers_are(capsys, monkeypatch):
    monkeypatch.setattr(console.output, "as_json", True)
    console.result_as_json(
        {"a": np.float32(0.5), 2: [np.int64(3), float("nan"), Path("x")], "b": np.ones(2, bool)}
    )
    assert json.loads(capsys.readouterr().out) == {
        "a": 0.5,
        "2": [3, None, "x"],
        "b": [True, True],
    }


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (("segmnet",), "segment"),
        (("evaluate", "--regoins", "slic"), "--regions"),
        (("evaluate", "vok21"), "voc21"),
        (("evaluate", "scenes", "--regions", "slick"), "slic"),
        (("bench", "--regions", "slick"), "slic"),
        (("regions", "photos", "--regions", "sam2.1-x"), "sam2.1-"),
        (("segment", "photo.jpg", "-c", "cat", "--regions", "slick"), "slic"),
        (("segment", "photo.jpg", "-c", "cat", "--set", "method.strid=56"), "stride"),
        (("evaluate", "scenes", "--set", "method.strides=56"), "stride"),
    ],
)
def test_a_word_that_is_nearly_right_is_suggested(arguments, near):
    found = corrclip(*arguments)
    assert found.exit_code == 2
    assert near in plain(found.stderr).replace("'", "")


@pytest.mark.parametrize("command", [("segment", "photo.jpg", "-c", "cat"), ("evaluate", "scenes")])
def test_numbers_out_of_their_range_are_refused_by_name_before_anything_is_loaded(command):
    found = corrclip(*command, "--set", "method.logit_scale=nan")
    assert found.exit_code == 2
    text = " ".join(plain(found.stderr).replace("│", " ").split())
    assert "method.logit_scale must be a finite number above 0. Got nan." in text


def test_which_window_and_stride_fit_together_is_left_to_the_model():
    """The small models have smaller strides than the published ones."""
    for given in (["method.window=84"], ["method.stride=28", "method.window=28"], ["method.stride=400"]):
        assert checked_assignments(given) == given


@pytest.mark.parametrize("command", ["segment", "regions", "evaluate", "export"])
def test_one_thing_has_one_name(command):
    assert {"--model", "-m", "--out", "-o", "--regions", "--points", "--set", "--overwrite"} <= options(
        command
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("regions", "--images", "gone.jpg", "--source", "slic"),
        ("regions", "gone.jpg", "--regions", "slic"),
        ("evaluate", "--images", "gone", "--labels", "gone", "--classes", "cat"),
        ("evaluate", "gone", "--labels", "gone", "--classes", "cat"),
        ("convert", "gone", "--out", "x", "--force"),
        ("convert", "gone", "--out", "x", "--overwrite"),
    ],
)
def test_older_spellings_mean_the_same(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = corrclip(*arguments)
    assert "gone" in plain(found.stderr)
    assert "No such option" not in found.stderr


@pytest.fixture
def maps(tmp_path):
    """Two of COCO-Stuff's raw maps, one of which is none."""
    Image.new("L", (2, 2), 0).save(tmp_path / "1.png")
    Image.new("L", (2, 2), 190).save(tmp_path / "2.png")
    return "prepare", "coco_stuff", "--maps", tmp_path, "--out", tmp_path / "out"


def test_json_is_all_that_stdout_holds(maps):
    found = corrclip(*maps, "--json")
    content = json.loads(found.stdout)
    assert (content["written"], content["existed"], len(content["unreadable"])) == (1, 0, 1)
    assert "1 label files written" in found.stderr


def test_quiet_leaves_results_and_errors(maps):
    found = corrclip(*maps, "--quiet")
    assert found.exit_code == 1
    assert "label files written" not in found.stderr
    assert "raw maps hold no 190" in found.stderr
    assert "label files written" in corrclip(*maps).stderr, "of the next command nothing is hidden"


@pytest.mark.process
def test_a_reader_that_has_seen_enough_is_no_error():
    command = f"{shlex.quote(sys.executable)} -m corrclip_jax evaluate --list --json | head -c 20"
    environment = os.environ | {"PYTHONPATH": str(Path(corrclip_jax.__file__).parents[1])}
    found = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True)
    assert len(found.stdout) == 20
    assert "Error" not in found.stderr


def test_debug_shows_the_traceback_of_an_error(tmp_path):
    arguments = ("prepare", "coco_stuff", "--maps", tmp_path, "--out", tmp_path / "out")
    assert isinstance(corrclip(*arguments).exception, SystemExit)
    assert isinstance(corrclip(*arguments, "--debug").exception, ValueError)


def test_the_list_of_data_sets_is_also_json():
    content = json.loads(corrclip("evaluate", "--list", "--json").stdout)
    assert content[0]["name"] == "scenes"
    assert {"voc21", "ade20k"} <= {entry["name"] for entry in content}
