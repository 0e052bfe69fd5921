"""Many devices give the results of one: eight simulated in a process, and two processes that talk over loopback."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests_shared import with_devices

pytestmark = [pytest.mark.slow, pytest.mark.process]

PROGRAM = Path(__file__).parents[1] / "many_devices.py"


def start(*arguments, devices):
    paths = [str(PROGRAM.parents[1]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return subprocess.Popen(
        [sys.executable, PROGRAM, *map(str, arguments)],
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join(paths),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": with_devices(devices),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def assert_equal(*programs):
    """Wait for all of them, and show what the first that failed had to say."""
    said = [program.communicate() for program in programs]
    for program, (out, errors) in zip(programs, said, strict=True):
        assert program.returncode == 0, errors[-4000:]
        assert out.splitlines()[-1] == "equal"


def test_eight_devices_equal_one():
    assert_equal(start("one", devices=8))


def test_two_processes_equal_one():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert_equal(*(start(process, port, devices=2) for process in range(2)))
