"""Finding photos: what a folder holds is taken or said, and a file is one photo, whatever leads to it."""

import os
from pathlib import Path

import pytest

from corrclip_jax.io.own_files import OwnFiles
from corrclip_jax.io.photo_files import find_photos, survey_photos
from corrclip_jax.io.photos import PhotoError, read_photo


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def names(photos):
    return [photo.name for photo in photos]


def test_photos_of_files_and_folders_each_once(tmp_path):
    touch(tmp_path, "in/b.JPG", "in/a.png", "in/notes.txt", "odd")
    found = find_photos([tmp_path / "odd", tmp_path / "in", str(tmp_path / "in" / "a.png")])
    assert names(found) == ["odd", "a.png", "b.JPG"]


def test_what_a_folder_leaves_out_is_said(tmp_path):
    touch(
        tmp_path,
        "x.jpg",
        "tile.jp2",
        "web.jfif",
        "old.jpe",
        "two.mpo",
        "IMG_1.HEIC",
        "a.txt",
        "b.txt",
        "README",
    )
    touch(tmp_path, "sub/y.jpg", "sub/deep/z.jpg")
    (tmp_path / "dangling.jpg").symlink_to("nowhere.jpg")
    found = survey_photos([tmp_path])
    assert names(found.photos) == ["old.jpe", "tile.jp2", "two.mpo", "web.jfif", "x.jpg"]
    assert found.left_out == (
        "Left out: 4 other files (no suffix 1, .heic 1, .txt 2; convert HEIC images to JPEG), 1 folder (--recursive"
        " looks into folders)."
    )
    deep = survey_photos([tmp_path], recursive=True)
    assert names(deep.photos)[-2:] == ["y.jpg", "z.jpg"]
    assert "folder" not in deep.left_out
    assert survey_photos([tmp_path / "sub" / "deep"]).left_out == ""


def test_companion_files_of_macos_are_left_out_without_a_word(tmp_path):
    touch(tmp_path, "a.jpg", "._a.jpg", ".DS_Store", ".trash/b.jpg", "__MACOSX/._a.jpg")
    found = survey_photos([tmp_path], recursive=True)
    assert names(found.photos) == ["a.jpg"]
    assert found.left_out == ""


@pytest.mark.parametrize("link", ["a-link.jpg", "z-link.jpg"])
def test_a_link_and_its_file_are_one_photo_under_the_name_of_the_file(tmp_path, link):
    touch(tmp_path, "in/x.jpg", "elsewhere/y.jpg")
    (tmp_path / "in" / link).symlink_to("x.jpg")
    assert names(find_photos([tmp_path / "in"])) == ["x.jpg"]
    assert names(find_photos([tmp_path / "in" / link, tmp_path / "in" / "x.jpg"])) == ["x.jpg"]
    (tmp_path / "in" / "of-elsewhere.jpg").symlink_to(tmp_path / "elsewhere" / "y.jpg")
    assert "of-elsewhere.jpg" in names(find_photos([tmp_path / "in"]))


def test_a_folder_without_images_says_what_is_deeper_down(tmp_path):
    touch(tmp_path, "in/sub/a.jpg", "in/b.heic")
    with pytest.raises(
        PhotoError, match=r"in is a folder without images\..*1 other file .*1 folder \(--recursive"
    ):
        find_photos([tmp_path / "in"])
    with pytest.raises(PhotoError, match=r"gone\.jpg does not exist"):
        find_photos([tmp_path / "gone.jpg"])


def test_a_path_that_is_missing_does_not_hide_the_others(tmp_path):
    touch(tmp_path, "a.jpg")
    (tmp_path / "bare").mkdir()
    found = survey_photos([tmp_path / "gone.jpg", tmp_path / "a.jpg", tmp_path / "bare"])
    assert names(found.photos) == ["a.jpg"]
    assert [problem.split("/")[-1][:14] for problem in found.problems] == ["gone.jpg does ", "bare is a fold"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    touch(tmp_path, "in/a.jpg", "in/locked/b.jpg")
    real = Path.iterdir

    def iterdir(self):
        if self.name == "locked":
            raise PermissionError(13, "Permission denied")
        return real(self)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    found = survey_photos([tmp_path / "in"], recursive=True)
    assert names(found.photos) == ["a.jpg"]
    assert found.problems == [f"The folder {tmp_path / 'in' / 'locked'} cannot be read: Permission denied."]


def test_a_link_to_a_folder_is_not_followed_and_no_option_is_named_that_is_given(tmp_path):
    touch(tmp_path, "in/a.jpg", "in/sub/b.jpg", "elsewhere/c.jpg")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "elsewhere")
    found = survey_photos([tmp_path / "in"], recursive=True)
    assert names(found.photos) == ["a.jpg", "b.jpg"]
    assert found.left_out == "Left out: 1 link to folders."
    assert (
        survey_photos([tmp_path / "in"]).left_out == "Left out: 2 folders (--recursive looks into folders)."
    )


def test_results_of_an_earlier_run_are_no_photos(tmp_path):
    touch(tmp_path, "x.jpg", "out/y.jpg")
    with OwnFiles(tmp_path).writing(["x.overlay.jpg", "x.json"], {}) as partials:
        for partial in partials:
            partial.write_text("result")
    paths = sorted(tmp_path.glob("*.jpg"))
    assert names(paths) == ["x.jpg", "x.overlay.jpg"]
    for given in (paths, [tmp_path]):
        found = survey_photos(given, recursive=True, out=tmp_path / "out")
        assert names(found.photos) == ["x.jpg"]
    assert found.left_out == "Left out: 2 results of earlier runs."


def test_names_of_any_bytes(tmp_path):
    odd = os.fsdecode(b"caf\xe9.jpg")
    touch(tmp_path, odd)
    assert names(find_photos([tmp_path])) == [odd]


def test_an_address_is_said_to_be_one():
    with pytest.raises(
        PhotoError, match=r"^https://example\.org/a\.jpg is an address, not a file\. Download"
    ):
        find_photos(["https://example.org/a.jpg"])


def test_what_is_no_file_is_named_and_the_others_are_found(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"photo")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    (tmp_path / "lost.jpg").symlink_to("nowhere.jpg")
    assert survey_photos([tmp_path]).photos == [tmp_path / "a.jpg"]
    found = survey_photos([tmp_path / f"{name}.jpg" for name in ("pipe", "a", "loop", "lost")])
    assert found.photos == [tmp_path / "a.jpg"]
    pipe, *links = found.problems
    assert "pipe.jpg is a pipe or a device. Save the photo as a file." in pipe
    assert links == [f"{tmp_path / name}.jpg is a link to nothing." for name in ("loop", "lost")]
    with pytest.raises(PhotoError, match=r"pipe\.jpg is a pipe or a device"):
        read_photo(tmp_path / "pipe.jpg")
