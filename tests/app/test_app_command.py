"""`corrclip app` from the command line: what it refuses before it serves, and how it ends."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import assert_refused, corrclip

import corrclip_jax
from corrclip_jax.hub import presets


def test_a_port_that_is_taken_is_refused():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert_refused(corrclip("app", "--port", port), f"port {port} is taken.*--port")
    assert_refused(corrclip("app", "--host", "192.0.2.7", "--port", port), "cannot be listened on.*--host")


def test_a_model_that_does_not_exist_is_refused_as_by_other_commands(tmp_path):
    with pytest.raises(ValueError, match="Did you mean vit-b") as error:
        presets.load("vitb")
    result = corrclip("app", "-m", "vitb")
    assert_refused(result, "model must be one of tiny, .*Got 'vitb'")
    assert str(error.value) in result.stderr
    assert_refused(corrclip("app", "-m", tmp_path), "holds neither a converted model")


# Python crashes if it ends while a thread is in the middle of a compilation: hooks of its end would be called.
PROGRAM = """
import atexit
atexit.register(print, "Python ends")
from corrclip_jax.cli import app
app(["app", "-m", "tiny"])
"""


@pytest.mark.slow
@pytest.mark.process
def test_a_signal_ends_it_while_a_model_is_compiled():
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | {"PYTHONPATH": str(Path(corrclip_jax.__file__).parents[1]), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert "The page is at" in program.stdout.readline()
    program.send_signal(signal.SIGTERM)
    rest, errors = program.communicate(timeout=30)
    assert program.returncode == 143, errors
    assert errors.splitlines()[-1].startswith("Error: Stopped by ")
    assert "Python ends" not in rest
