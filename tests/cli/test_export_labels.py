"""`corrclip export-labels`: what it refuses, keeps, names as failed, and how sub-folders stay apart."""

import json

import numpy as np
import pytest
from annotation_results import save_results
from command_line import assert_refused, corrclip, plain
from PIL import Image

from corrclip_jax.cli.shared.format_options import FormatName
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
