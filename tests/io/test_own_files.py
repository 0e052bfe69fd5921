"""Own files: nothing foreign is replaced, what is done is known, and a run may be killed at any moment."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from corrclip_jax.io.files import OutputError, atomic_file, fitting_stem
from corrclip_jax.io.marks import file_digest
from corrclip_jax.io.own_files import JOURNAL, ForeignFileError, OwnFiles, Standing

NAMES = ["x.png", "x.json"]


def write(folder, content="one", made=None, **options):
    with OwnFiles(folder).writing(NAMES, made or {"classes": "a"}, **options) as partials:
        for partial in partials:
            partial.write_text(content + partial.suffix)


def look(folder, **made):
    return OwnFiles(folder).look(NAMES, made or {"classes": "a"})


def test_what_was_written_is_done_in_the_same_way_only(tmp_path):
    assert look(tmp_path) == Standing(False)
    write(tmp_path)
    assert look(tmp_path) == Standing(True, made={"classes": "a"})
    found = look(tmp_path, classes="b", model="m")
    assert found == Standing(False, changed=("classes", "model"), made={"classes": "a"})
    assert look(tmp_path, classes="a", _path="elsewhere").done
    write(tmp_path, "two", {"classes": "b"})
    assert (tmp_path / "x.png").read_text() == "two.png"
    assert look(tmp_path, classes="b").done
    assert sorted(path.name for path in tmp_path.iterdir()) == [JOURNAL, "x.json", "x.png"]


@pytest.mark.parametrize("name", NAMES)
def test_a_foreign_file_is_kept_unless_asked(tmp_path, name):
    (tmp_path / name).write_text("mine")
    assert look(tmp_path) == Standing(False, foreign=(name,))
    with pytest.raises(ForeignFileError, match=rf"{name} was not written by this program.*--overwrite"):
        write(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "mine"}
    write(tmp_path, overwrite=True)
    assert look(tmp_path).done


@pytest.mark.parametrize("kind", ["link", "dangling link", "folder"])
def test_a_link_or_a_folder_in_the_way_is_foreign(tmp_path, kind):
    target = tmp_path / "target"
    if kind == "folder":
        (tmp_path / "x.png").mkdir()
    else:
        target.write_text("mine") if kind == "link" else None
        (tmp_path / "x.png").symlink_to(target)
    assert look(tmp_path).foreign == ("x.png",)
    with pytest.raises(ForeignFileError):
        write(tmp_path)
    assert kind != "link" or target.read_text() == "mine"


def test_a_file_that_was_changed_since_is_kept(tmp_path):
    write(tmp_path)
    (tmp_path / "x.png").write_text("corrected by hand")
    assert look(tmp_path) == Standing(True, edited=("x.png",), made={"classes": "a"})
    assert look(tmp_path, classes="b").foreign == ("x.png",)
    with pytest.raises(ForeignFileError, match=r"x\.png"):
        write(tmp_path, "two", {"classes": "b"})
    assert (tmp_path / "x.png").read_text() == "corrected by hand"
    assert (tmp_path / "x.json").read_text() == "one.json"


def test_a_file_that_is_missing_is_written_again(tmp_path):
    write(tmp_path)
    (tmp_path / "x.png").unlink()
    assert look(tmp_path) == Standing(False, made={"classes": "a"})
    write(tmp_path)
    assert look(tmp_path).done


def test_a_failure_changes_nothing(tmp_path):
    with pytest.raises(RuntimeError), OwnFiles(tmp_path).writing(NAMES, {}) as partials:
        partials[0].write_text("half")
        raise RuntimeError
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"Cannot write .*x\.png"):
        write(tmp_path / "file")


def test_an_error_of_reading_is_no_error_of_writing(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent") as caught, OwnFiles(tmp_path).writing(NAMES, {}):
        (tmp_path / "absent").read_text()
    assert not isinstance(caught.value, OutputError)
    with (
        pytest.raises(OutputError, match=r"Cannot write .*x\.png"),
        OwnFiles(tmp_path).writing(NAMES, {}) as [_, last],
    ):
        (last / "deep").write_text("")
    assert not list(tmp_path.iterdir())


KILLED = """
import os, signal, sys
from pathlib import Path
from corrclip_jax.io.own_files import OwnFiles
folder, moment = sys.argv[1], int(sys.argv[2])
steps = 0
def step(*_):
    global steps
    steps += 1
    if steps == moment:
        os.kill(os.getpid(), signal.SIGKILL)
real, journal = Path.replace, OwnFiles._record
Path.replace = lambda self, target: (step(), real(self, target))[1]
OwnFiles._record = lambda self, line: (step(), journal(self, line))[1]
with OwnFiles(folder).writing(["x.png", "x.json"], {"classes": "b"}) as partials:
    for partial in partials:
        partial.write_text("two" + partial.suffix)
step()
"""


@pytest.mark.process
@pytest.mark.parametrize("before", ["nothing", "an older result"])
def test_a_run_may_be_killed_at_any_moment(tmp_path, before):
    (tmp_path / "foreign.txt").write_text("mine")
    for moment in (1, 2, 3, 4):
        folder = tmp_path / str(moment)
        if before != "nothing":
            write(folder)
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        run = subprocess.run([sys.executable, "-c", KILLED, folder, str(moment)], env=environment)
        assert run.returncode == -signal.SIGKILL
        standing = look(folder, classes="b")
        assert standing.done == (moment == 4)
        assert not standing.foreign
        write(folder, "two", {"classes": "b"})
        assert sorted(path.name for path in folder.iterdir()) == [JOURNAL, "x.json", "x.png"]
        assert look(folder, classes="b").done


def test_a_journal_that_was_cut_short_loses_one_line_only(tmp_path):
    write(tmp_path)
    journal = tmp_path / JOURNAL
    journal.write_bytes(journal.read_bytes() + b'{"files": {"y.p')
    write(tmp_path, "two", {"classes": "b"})
    assert look(tmp_path, classes="b").done
    journal.write_bytes(b"\xff\x00 no journal\n[1]\n")
    assert look(tmp_path).foreign == tuple(NAMES)


def test_two_runs_may_write_to_one_folder(tmp_path):
    first, second = OwnFiles(tmp_path), OwnFiles(tmp_path)
    for own, content in ((first, "one"), (second, "two")):
        with own.writing(NAMES, {}) as partials:
            for partial in partials:
                partial.write_text(content)
    assert (tmp_path / "x.png").read_text() == "two"


def test_names_of_any_bytes_are_remembered(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    with OwnFiles(tmp_path).writing([name], {"photo": name}) as [partial]:
        partial.write_text("one")
    assert OwnFiles(tmp_path).look([name], {"photo": name}).done
    json.loads((tmp_path / JOURNAL).read_text("ascii"))


@pytest.mark.parametrize("stem", ["x" * 251, "é" * 125, os.fsdecode(b"\xe9" * 251)])
def test_names_that_are_too_long_are_cut(tmp_path, stem):
    names = [fitting_stem(stem, ".overlay.jpg") + suffix for suffix in (".png", ".overlay.jpg")]
    assert 230 < len(os.fsencode(names[1])) <= 255
    assert fitting_stem(stem + "a", ".overlay.jpg") + ".png" != names[0]
    with OwnFiles(tmp_path).writing(names, {}) as partials:
        for partial in partials:
            partial.write_text("one")
    with atomic_file(tmp_path / names[0]) as partial:
        partial.write_text("two")
    assert file_digest(tmp_path / names[0]) != file_digest(tmp_path / names[1])
