"""A run over good and bad files: killed and resumed, it does every good one once and touches no other file."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from corrclip_jax.io.own_files import JOURNAL

PROGRAM = """
import sys
from fake_segmenter import FakeSegmenter
from corrclip_jax.inference import segmenter
FakeSegmenter.pause = float(sys.argv[1])
segmenter.Segmenter = FakeSegmenter
from corrclip_jax.cli import app
app(sys.argv[2:])
"""


def start(pause, *arguments, **environment):
    root = os.pathsep.join(str(Path(__file__).parents[level]) for level in (1, 2))
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(pause), *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": root} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def stopped_after(run, photos, number):
    """Send a signal once so many photos are done; the lines on stderr, the exit code, and the photos done."""
    lines = []
    while sum(line.startswith(b"did ") for line in lines) < photos:
        line = run.stderr.readline()
        assert line, b"".join(lines)
        lines.append(line)
    run.send_signal(number)
    rest = run.communicate(timeout=30)[1]
    text = (b"".join(lines) + rest).decode()
    return text, run.returncode, re.findall(r"^did '(.*)'$", text, re.MULTILINE)


GOOD = [b"good-%02d.png" % number for number in range(10)] + [
    b"upper.JPG", b"web.jfif", b"caf\xe9.jpg", "日本語.png".encode(), b"x" * 251 + b".png", b"- [red] x.jpg",
]  # fmt: skip
BAD = [b"cut.jpg", b"page.png", b"empty.jpg", b"caf\xe8.jpg", b"taken.png", b"noise.tif"]


@pytest.fixture
def folder(tmp_path):
    """Photos, files that are none, and files of the user where results would go."""
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    out.mkdir()
    for seed, name in enumerate([*GOOD, b"taken.png"]):
        pixels = np.random.default_rng(seed).integers(0, 256, (12, 18, 3), dtype=np.uint8)
        suffix = os.fsdecode(name).rpartition(".")[2].lower()
        Image.fromarray(pixels).save(photos / "made", {"png": "PNG"}.get(suffix, "JPEG"))
        (photos / "made").rename(photos / os.fsdecode(name))
    good = (photos / "upper.JPG").read_bytes()
    contents = {
        b"cut.jpg": good[:300], b"page.png": b"<!DOCTYPE html>", b"empty.jpg": b"", b"caf\xe8.jpg": good[:40],
        b"noise.tif": b"II*\0" + bytes(range(200)), b"._good-00.png": b"\0\5\x16\7", b"notes.txt": b"mine",
    }  # fmt: skip
    for name, content in contents.items():
        (photos / os.fsdecode(name)).write_bytes(content)
    (photos / "dangling.jpg").symlink_to("nowhere.jpg")
    (photos / "a-link.png").symlink_to("good-00.png")
    (out / "taken.json").write_text('{"of": "labelme"}')
    (out / "other.png").write_bytes(b"mine")
    return photos, out


def marks(folder):
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()
    }


@pytest.mark.slow
@pytest.mark.process
def test_a_run_that_was_killed_twice_ends_with_every_good_photo_done_once_and_every_bad_one_named(folder):
    photos, out = folder
    before = marks(photos) | marks(out)
    (photos.parent / "classes.txt").write_text("темно\nhell; été\n", "utf-8")
    command = ("segment", photos, "--classes-file", photos.parent / "classes.txt", "-m", "tiny", "-o", out)
    command += ("--regions", "none")
    done = []
    for pause, number in ((0.1, signal.SIGKILL), (0.1, signal.SIGTERM)):
        text, code, names = stopped_after(start(pause, *command), 4, number)
        done += names
        assert code == (-9 if number == signal.SIGKILL else 143), text
    assert "Stopped by SIGTERM." in text
    assert re.search(r"\d of 22 photos segmented, [34] done before", text)
    # The locale changes neither files nor what is done; where it lacks letters, messages have escapes.
    last = start(0, *command, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    printed, text = (stream.decode("ascii") for stream in last.communicate(timeout=60))
    done += re.findall(r"^did '(.*)'$", text, re.MULTILINE)
    assert last.returncode == 1, text

    results = [path for path in out.iterdir() if path.suffix == ".json" and path.name != "taken.json"]
    assert len(results) == len(GOOD)
    contents = [json.loads(path.read_text("utf-8")) for path in results]
    assert all(
        [one["names"] for one in content["classes"]] == [["темно"], ["hell", "été"]] for content in contents
    )
    described = [content["photo"] for content in contents]
    assert sorted(described) == sorted(str(photos / os.fsdecode(name)) for name in GOOD)
    # At most the photo that was being written when the run was killed is done again, or was not yet said.
    assert len(GOOD) - 2 <= len(done) <= len(GOOD) + 2
    assert set(marks(photos) | marks(out)) >= set(before)
    assert {path: mark for path, mark in (marks(photos) | marks(out)).items() if path in before} == before
    assert {path.name for path in out.iterdir() if path.name.startswith(".")} == {JOURNAL}
    for path in results:
        with Image.open(path.with_suffix(".png")) as labels:
            assert labels.size == (18, 12)
    for name in BAD:
        shown = name.decode("ascii", "surrogateescape").encode("ascii", "backslashreplace").decode()
        assert re.search(rf"^Error: .*{re.escape(shown)}", text, re.MULTILINE), name
    assert text.count("Error: ") == len(BAD)
    assert "taken.json was not written by this program" in text
    assert "Left out: 1 other file (.txt 1)." in text
    assert "good-00.png" in printed + "".join(done)
