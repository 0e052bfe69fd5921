"""Writing results: whole files or none, and folders that cannot be written are found out early."""

import os
import resource
from contextlib import contextmanager

import pytest

from corrclip_jax.io.files import OutputError, atomic_file, check_writable, json_bytes


@contextmanager
def full_disk(room):
    """Files stop growing at `room` bytes, as on a disk without space."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def ordinary_user():
    """root may write where permissions forbid it: step down for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_trying_a_folder_out_leaves_nothing_behind(tmp_path):
    (tmp_path / "there").mkdir()
    for folder in ("there", "new", "new/deep"):
        check_writable(tmp_path / folder)
    assert [p.name for p in tmp_path.rglob("*")] == ["there"]


def test_trying_a_folder_out_needs_no_folder_to_itself(tmp_path, monkeypatch):
    """Processes that start together try the same missing folder, and one may write while another still tries."""
    monkeypatch.chdir(tmp_path)
    made, mkdir = [], os.mkdir
    monkeypatch.setattr(os, "mkdir", lambda path, *mode: made.append(str(path)) or mkdir(path, *mode))
    check_writable("missing/deep")
    check_writable("missing/../deep")
    assert made
    assert all(".probe-" in path for path in made)


def test_a_link_to_nowhere(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for folder in ("link", "link/out"):
        with pytest.raises(OutputError, match=f"Cannot write .*{folder}"):
            check_writable(tmp_path / folder)


def test_a_name_that_is_too_long(tmp_path):
    with pytest.raises(OutputError, match="name too long"):
        check_writable(tmp_path / "new" / ("a" * 300))


def test_folders_on_the_way_are_made(tmp_path):
    with atomic_file(tmp_path / "new" / "deep" / "a.txt") as partial:
        partial.write_text("a")
    assert (tmp_path / "new" / "deep" / "a.txt").read_text() == "a"


def test_a_folder_below_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "out"):
        with pytest.raises(OutputError, match=rf"Cannot write {folder}.*Choose another"):
            check_writable(folder)


def test_a_read_only_folder(tmp_path):
    (tmp_path / "locked").mkdir(mode=0o555)
    with ordinary_user(), pytest.raises(OutputError, match="Permission denied"):
        check_writable(tmp_path / "locked")


def test_a_full_disk(tmp_path):
    with full_disk(100), pytest.raises(OutputError, match="Cannot write"):
        check_writable(tmp_path)
    with (
        full_disk(100),
        pytest.raises(OutputError, match=r"large\.bin"),
        atomic_file(tmp_path / "large.bin") as f,
    ):
        f.write_bytes(bytes(1000))
    assert not list(tmp_path.iterdir())


def test_an_error_of_reading_is_no_error_of_writing(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="absent") as caught, atomic_file(tmp_path / "a.txt"):
        (tmp_path / "absent").read_text()
    assert "Cannot write" not in str(caught.value)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match=r"Cannot write .*a\.txt"), atomic_file("a.txt") as partial:
        (partial.absolute() / "deep").write_text("")
    assert not list(tmp_path.iterdir())


def test_a_file_is_replaced_only_when_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    with atomic_file(path) as partial:
        partial.write_text("new")
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_numbers_that_json_does_not_have_are_refused(number):
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_bytes({"segments": [{"probability": number}]})
