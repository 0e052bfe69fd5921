"""`corrclip export-labels`: what it refuses, keeps, names as failed, and how sub-folders stay apart."""

import json

import numpy as np
import pytest
import yaml
from annotation_results import save_results
from command_line import assert_refused, corrclip, plain
from PIL import Image

from corrclip_jax.cli.shared.format_options import FormatName
from corrclip_jax.formats.export import export_results
from corrclip_jax.formats.images import Options
from corrclip_jax.formats.table import FORMATS

CLASSES = ["background", "cat", "dog"]


@pytest.fixture
def results(tmp_path):
    labels = np.zeros((6, 8), int)
    labels[1:4, 1:5] = 1
    labels[2, 2] = 2
    maps = {"a/x.png": labels, "b/x.png": labels[::-1], "b/x.bmp": labels.T}
    save_results(tmp_path / "out", tmp_path / "photos", maps, CLASSES)
    return tmp_path / "out"


def export(folder, *arguments):
    return corrclip("export-labels", folder, *arguments)


def coco(folder):
    return json.loads((folder / "coco" / "annotations" / "instances_default.json").read_text("utf-8"))


def times(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_formats_of_photos_of_one_name_in_several_folders(results):
    done = export(results, "-f", "coco", "-f", "yolo", "-f", "labelme", "--tolerance", "0", "--json")
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    assert content["images"] == 3 and content["failed"] == []
    assert {one["file_name"] for one in coco(results)["images"]} == {"a/x.png", "b/x.png", "b/x.bmp"}
    labels = {
        str(path.relative_to(results / "yolo")) for path in (results / "yolo" / "labels").rglob("*.txt")
    }
    assert labels == {"labels/a/x.txt", "labels/b/x-png.txt", "labels/b/x-bmp.txt"}
    pictures = {path.stem for path in (results / "yolo" / "images").rglob("x*")}
    assert pictures == {"x", "x-png", "x-bmp"}
    before = times(results)
    assert export(results, "-f", "coco", "-f", "yolo", "-f", "labelme", "--tolerance", "0").exit_code == 0
    assert times(results) == before
    assert export(results, "-f", "coco", "--tolerance", "0", "--background").exit_code == 0
    assert len(coco(results)["annotations"]) == 9


def test_settings_of_segments(results):
    assert export(results, "-f", "coco", "--segments", "class", "--shapes", "masks").exit_code == 0
    found = coco(results)["annotations"]
    assert [one["category_id"] for one in found] == [2, 3] * 3
    assert isinstance(found[0]["segmentation"]["counts"], str)
    out = results / "elsewhere"
    assert export(results, "-f", "coco", "--min-area", "2", "-o", out).exit_code == 0
    assert [one["category_id"] for one in coco(out)["annotations"]] == [2] * 3
    assert export(results, "-f", "png", "--raw", "-o", out).exit_code == 0
    with Image.open(out / "png" / "a" / "x.png") as image:
        assert image.mode == "L"


def test_damaged_and_other_results_are_named_and_the_others_written(results):
    content = json.loads((results / "1.json").read_text("utf-8"))
    content["segments"][0]["area"] += 1
    (results / "1.json").write_text(json.dumps(content))
    content = json.loads((results / "2.json").read_text("utf-8"))
    (results / "2.json").write_text(json.dumps({**content, "classes": content["classes"][:1]}))
    (results / "3.json").write_text("{")
    Image.new("L", (3, 3)).save(results / "3.png")
    for _ in range(2):  # a second run does not take the incomplete file for done
        done = export(results, "-f", "coco", "-f", "labelme")
        assert done.exit_code == 1
        said = plain(done.stderr)
        assert "1.json is damaged" in said and "Left out of coco" in said and "Left out of labelme" in said
        assert "2.json has other classes than" in said
        assert "3.json is no description of corrclip segment" in said
        assert [one["file_name"] for one in coco(results)["images"]] == ["a/x.png"]


def test_results_without_segments_and_missing_photos(results, tmp_path):
    for path in results.glob("*.json"):
        content = json.loads(path.read_text("utf-8"))
        del content["segments"]
        path.write_text(json.dumps(content))
    (tmp_path / "photos" / "a" / "x.png").unlink()
    done = export(results, "-f", "coco", "--tolerance", "0")
    assert done.exit_code == 0
    assert "1 photo is not where the results say" in plain(done.stderr)
    assert sorted(one["area"] for one in coco(results)["annotations"]) == [1] * 3 + [11] * 3


def test_foreign_files_are_kept(results):
    path = results / "cvat" / "annotations.xml"
    path.parent.mkdir()
    path.write_text("mine")
    done = export(results, "-f", "cvat", "-f", "npz")
    assert done.exit_code == 1 and path.read_text() == "mine"
    assert "not written by this program" in plain(done.stderr)
    assert (results / "npz" / "a" / "x.npz").exists()
    assert export(results, "-f", "cvat", "--overwrite").exit_code == 0
    assert path.read_text("utf-8").startswith("<?xml")


def test_every_format_can_be_asked_for():
    assert [str(one) for one in FormatName] == list(FORMATS)


def test_refusals(results, tmp_path):
    assert_refused(export(tmp_path / "nothing", "-f", "coco"), "is no folder")
    assert_refused(export(tmp_path, "-f", "coco"), "holds no results of corrclip segment")
    wrong = export(results, "-f", "pascal")
    assert wrong.exit_code == 2 and "label-studio" in plain(wrong.stderr)


def test_links_to_photos_that_others_have_replaced_are_named(results, tmp_path):
    assert export(results, "-f", "coco").exit_code == 0
    photo = tmp_path / "photos" / "a" / "x.png"
    link = results / "coco" / "images" / "a" / "x.png"
    old = link.read_bytes()
    again = export(results, "-f", "coco")
    assert "any more" not in plain(again.stderr)
    photo.unlink()
    Image.new("RGB", (4, 3), (9, 9, 9)).save(photo)
    done = export(results, "-f", "coco")
    assert done.exit_code == 0
    assert "1 file is not the photo of that name any more in" in plain(done.stderr)
    assert link.read_bytes() == old
    link.unlink()
    assert export(results, "-f", "coco").exit_code == 0
    assert link.samefile(photo)


def descriptions(folder, photos, names, classes, label=1):
    """Of results of photos that show one class."""
    return save_results(folder, photos, {name: np.full((4, 6), label) for name in names}, classes)


def names_in(folder):
    """Of all files below a folder, without hidden ones."""
    found = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file() or path.is_symlink())
    return {str(path) for path in found if not path.name.startswith(".")}


def write(results, out, formats=tuple(FORMATS), **options):
    return export_results(results, formats, out, Options(), **options)


def test_folders_of_formats_hold_the_images_of_the_last_export_alone(tmp_path):
    """Files of images that have gone, or have another name now, would be counted as well."""
    results = descriptions(tmp_path / "one", tmp_path / "photos", ["x.png", "y.png"], CLASSES)
    assert write(results, tmp_path / "out").failed == []
    more = descriptions(tmp_path / "two", tmp_path / "photos", ["x.png", "x.bmp"], CLASSES)
    done = write(more, tmp_path / "out")
    assert done.failed == []
    assert write(more, tmp_path / "fresh").failed == []
    for name in FORMATS:
        assert names_in(tmp_path / "out" / name) == names_in(tmp_path / "fresh" / name), name
        note = next(note for note in done.notes if note.startswith(str(tmp_path / "out" / name)))
        assert "1 image of an earlier run was not among these and taken out" in note
    assert any("yolo" in note and "4 files removed" in note for note in done.notes)
    before = times(tmp_path / "out")
    assert write(more, tmp_path / "out").notes == []
    assert times(tmp_path / "out") == before


def test_links_make_room_for_another_photo_of_their_name(tmp_path):
    first = descriptions(tmp_path / "one", tmp_path / "a", ["x.png"], CLASSES)
    second = descriptions(tmp_path / "two", tmp_path / "b", ["x.png"], CLASSES)
    Image.new("RGB", (6, 4)).save(tmp_path / "b" / "x.png")
    write(first, tmp_path / "out", ["yolo", "coco"])
    done = write(second, tmp_path / "out", ["yolo", "coco"])
    for name in done.folders.values():
        assert (name / "images" / "x.png").samefile(tmp_path / "b" / "x.png")
    assert not any("any more in" in note for note in done.notes)


@pytest.mark.parametrize("name", FORMATS)
def test_other_classes_for_other_photos_are_refused(tmp_path, name):
    results = descriptions(tmp_path / "one", tmp_path / "photos", ["x.png", "y.png"], CLASSES)
    assert write(results, tmp_path / "out", [name]).failed == []
    before = times(tmp_path / "out")
    turned = CLASSES[::-1]
    others = descriptions(tmp_path / "two", tmp_path / "others", ["z.png"], turned)
    (failed,) = write(others, tmp_path / "out", [name]).failed
    assert "has other classes, for photos that are not among these" in failed
    assert "and 1 more" in failed and "--overwrite" in failed
    assert times(tmp_path / "out") == before
    # The same photos with other classes, and others as well: nothing is lost.
    again = descriptions(tmp_path / "three", tmp_path / "photos", ["x.png", "y.png", "w.png"], turned)
    assert write(again, tmp_path / "out", [name]).failed == []
    assert write(others, tmp_path / "out", [name]).failed == []
    assert write(results, tmp_path / "out", [name], overwrite=True).failed == []
    assert write(results, tmp_path / "fresh", [name]).failed == []
    assert names_in(tmp_path / "out") == names_in(tmp_path / "fresh")


def test_what_users_changed_and_the_only_copy_of_a_photo_are_kept_and_named(tmp_path):
    results = descriptions(tmp_path / "one", tmp_path / "photos", ["x.png", "y.png", "z.png"], CLASSES)
    yolo = tmp_path / "out" / "yolo"
    write(results, tmp_path / "out", ["yolo"])
    (yolo / "labels" / "x.txt").write_text("mine")
    (yolo / "labels" / "user.txt").write_text("mine")
    (tmp_path / "photos" / "y.png").unlink()
    done = write(results[2:], tmp_path / "out", ["yolo"])
    found = {"data.yaml", "labels/z.txt", "images/z.png", "labels/x.txt", "labels/user.txt", "images/y.png"}
    assert names_in(yolo) == found
    assert any("2 images of an earlier run were" in note for note in done.notes)
    assert any("labels/x.txt, images/y.png. Delete what you do not need" in note for note in done.notes)


def test_a_killed_export_leaves_nothing_unknown(tmp_path, monkeypatch):
    first = descriptions(tmp_path / "one", tmp_path / "photos", ["x.png", "y.png"], CLASSES)
    second = descriptions(tmp_path / "two", tmp_path / "photos", ["x.bmp", "x.png"], CLASSES)
    third = descriptions(tmp_path / "three", tmp_path / "photos", ["z.png"], CLASSES)
    write(first, tmp_path / "out", ["yolo"])
    with monkeypatch.context() as patched:
        patched.setattr(yaml, "safe_dump", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write(second, tmp_path / "out", ["yolo"])
    assert len(names_in(tmp_path / "out")) == 9
    write(third, tmp_path / "out", ["yolo"])
    assert names_in(tmp_path / "out" / "yolo") == {"data.yaml", "labels/z.txt", "images/z.png"}


def test_results_in_a_folder_with_the_name_of_a_format_are_kept(tmp_path):
    (tmp_path / "photos").mkdir()
    own = descriptions(tmp_path / "png", tmp_path / "photos", ["x.png"], CLASSES)
    before = names_in(tmp_path / "png")
    write(descriptions(tmp_path / "one", tmp_path / "photos", ["y.png"], CLASSES), tmp_path, ["png"])
    assert own[0].exists() and names_in(tmp_path / "png") >= before
