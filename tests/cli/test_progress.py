"""Progress and interrupts: lines for pipes, a bar for terminals, and an end with a message whatever goes on."""

import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from corrclip_jax.cli.shared import progress as module
from corrclip_jax.cli.shared.progress import Progress


def test_a_pipe_gets_lines_of_a_long_job(capfd, monkeypatch):
    monkeypatch.setattr(module, "_EVERY", 0.1)
    with Progress(first=0.1) as progress:
        progress.phase("Loading [tiny]")
        time.sleep(0.25)
        progress.phase("Photos", total=8, done=2)
        progress.advance()
        progress.show("a.jpg")
        time.sleep(0.25)
    lines = capfd.readouterr().err.splitlines()
    assert "Loading [tiny]: 0 s" in lines
    assert re.fullmatch(r"Photos: 3 of 8, a\.jpg, about 0:0\d left", lines[-1])
    assert 2 <= len(lines) <= 6


def test_a_short_job_is_silent_in_a_pipe(capfd):
    with Progress() as progress:
        progress.phase("Photos", total=1)
        progress.advance()
    assert capfd.readouterr().err == ""


def test_no_line_comes_after_the_end(capfd, monkeypatch):
    begun = threading.Event()

    def line(progress):
        begun.set()
        time.sleep(0.1)
        return "Working"

    monkeypatch.setattr(Progress, "line", line)
    with Progress(first=0.1) as progress:
        progress.phase("Working")
        assert begun.wait(5)
    assert capfd.readouterr().err == "Working\n"
    time.sleep(0.2)
    assert capfd.readouterr().err == ""


def test_the_time_left_is_that_of_the_steps_of_this_run():
    progress = Progress()
    progress.phase("Photos", total=104, done=100)
    progress._phase_started -= 60
    assert progress.line() == "Photos: 100 of 104, 60 s"
    progress.advance(2)
    assert progress.line() == "Photos: 102 of 104, about 1:00 left"
    progress.leave_out(30.0)  # of compilation
    assert progress.line() == "Photos: 102 of 104, about 0:30 left"


PROGRAM = r"""
import os
import signal
import time
import typer
from corrclip_jax.cli.shared.console import Program
from corrclip_jax.cli.shared.interrupts import run_interruptibly
from corrclip_jax.cli.shared.progress import Progress

signal.signal(signal.SIGINT, signal.default_int_handler)  # which jobs in a shell's background do without
app = typer.Typer(cls=Program)

@app.callback()
def options(debug: bool = False): pass

@app.command()
def work():
    with Progress() as progress:
        progress.phase("Working", total=3)
        os.write(1, b"begun\n")
        run_interruptibly(lambda stop: time.sleep(20))

app()
"""


@pytest.mark.process
@pytest.mark.parametrize(
    ("number", "code", "words"), [(signal.SIGINT, 130, "Ctrl-C"), (signal.SIGTERM, 143, "SIGTERM")]
)
def test_a_signal_ends_work_that_cannot_be_stopped_and_leaves_a_whole_terminal(number, code, words):
    ours, theirs = pty.openpty()
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "TERM": "xterm"}
    command = [sys.executable, "-c", PROGRAM, "work"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=theirs) as run:
        os.close(theirs)
        assert run.stdout.readline() == b"begun\n"
        time.sleep(0.3)
        run.send_signal(number)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:  # Linux says so when the other end is closed
                break
            if not piece:
                break
            shown += piece
        assert run.wait(10) == code
    os.close(ours)
    assert f"Stopped by {words}." in shown.decode()
    assert shown.rindex(b"\x1b[?25h") > shown.index(b"\x1b[?25l"), "the cursor is shown again"
