"""Results of `corrclip segment` beside other files: own ones are kept or made again, foreign ones never lost."""

import json
import os
import re

import numpy as np
import pytest
from command_line import assert_refused, corrclip, plain
from fake_segmenter import FakeSegmenter
from PIL import Image
from small_models import small_model

from corrclip_jax.cli.runs import segment as module
from corrclip_jax.io.files import OutputError
from corrclip_jax.io.own_files import JOURNAL

SIZE = (60, 90)


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    monkeypatch.setattr(module, "Segmenter", FakeSegmenter)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, value in (("a.png", 50), ("b.jpg", 200)):
        Image.new("RGB", SIZE[::-1], (value, 0, 0)).save(folder / name)
    return folder


def segment(*arguments):
    return corrclip("segment", *arguments, "--model", "tiny", "--regions", "none")


def results(folder):
    """Names of the files in a folder of results, without the hidden journal."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_results_that_are_there_are_kept_and_said(photos, tmp_path, monkeypatch):
    command = (photos, "-c", "cat, grass", "-o", tmp_path / "out")
    assert segment(*command).exit_code == 0
    made = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in results(tmp_path / "out")}
    Image.new("RGB", (90, 60)).save(photos / "c.png")
    result = segment(*command)
    assert result.exit_code == 0, result.output
    assert "1 of 3 photos segmented, 2 done before" in plain(result.stderr)
    assert (
        made.items()
        <= {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in results(tmp_path / "out")}.items()
    )
    monkeypatch.setattr(module, "Segmenter", None)  # never called
    result = segment(*command)
    assert (result.exit_code, result.stdout) == (0, "")
    assert "0 of 3 photos segmented, 3 done before" in plain(result.stderr)


def test_results_that_were_made_in_another_way_are_made_again_and_that_is_said(photos, tmp_path):
    out = tmp_path / "out"

    def run(classes, *options):
        result = segment(photos / "a.png", "-c", classes, "-o", out, *options)
        assert result.exit_code == 0, result.output
        return plain(result.stderr), json.loads((out / "a.json").read_text())

    run("cat, grass")
    said, content = run("cat, sky")
    assert "1 result made before with other classes: made again" in said
    assert [one["names"] for one in content["classes"]] == [["cat"], ["sky"]]
    said, _ = run("cat, sky", "--background-threshold", "1")
    assert "made before with other background threshold: made again" in said
    Image.new("RGB", (33, 60)).save(photos / "a.png")
    said, content = run("cat, sky", "--background-threshold", "1")
    assert "made before with other photo: made again" in said
    assert content["width"] == 33


def test_results_of_other_weights_or_another_vocabulary_are_made_again(photos, tmp_path):
    model = small_model(tmp_path, sam2=False)

    def run():
        command = ("segment", photos / "a.png", "-m", model, "-c", "cat, grass", "-o", tmp_path / "out")
        result = corrclip(*command, "--regions", "none")
        assert result.exit_code == 0, result.output
        return plain(result.stderr)

    run()
    assert "1 done before" in run()
    small_model(tmp_path, sam2=False, seed=1)
    assert "1 result made before with other model: made again" in run()
    assert "1 done before" in run()
    [vocabulary] = (model / "vocabulary").iterdir()
    vocabulary.write_bytes(vocabulary.read_bytes() + b" ")
    assert "1 result made before with other model: made again" in run()
    assert "1 done before" in run()


def test_results_whose_weights_are_not_known_are_made_again(photos, tmp_path):
    command = (photos / "a.png", "-c", "cat, grass", "-o", tmp_path / "out")
    assert segment(*command).exit_code == 0
    journal = tmp_path / "out" / JOURNAL
    lines = re.sub(r'"model": "tiny \w+"', '"model": "tiny"', journal.read_text())  # as earlier checkouts did
    assert '"model": "tiny"' in lines
    journal.write_text(lines)
    assert "1 result made before with other model: made again" in plain(segment(*command).stderr)


@pytest.mark.parametrize("name", ["a.json", "a.png", "a.overlay.jpg"])
def test_a_foreign_file_is_kept_and_named_and_the_other_photos_are_done(photos, tmp_path, name):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("mine")
    command = (photos, "-c", "cat, grass", "-o", out)
    result = segment(*command)
    assert result.exit_code == 1
    assert "1 of 2 photos segmented" in plain(result.stderr)
    assert re.search(rf"Error: .*{name} was not written by this program", plain(result.stderr))
    assert (out / name).read_text() == "mine"
    assert results(out) == sorted([name, "b.json", "b.overlay.jpg", "b.png"])
    assert segment(*command, "--overwrite").exit_code == 0
    assert (out / name).read_bytes() != b"mine"


def test_a_label_map_that_was_corrected_by_hand_is_kept(photos, tmp_path):
    out = tmp_path / "out"
    command = (photos / "a.png", "-o", out)
    assert segment(*command, "-c", "cat, grass").exit_code == 0
    Image.new("L", SIZE[::-1], 1).save(out / "a.png")
    corrected = (out / "a.png").read_bytes()
    result = segment(*command, "-c", "cat, grass")
    assert result.exit_code == 0
    assert re.search(r"Changed since they were written, and kept .*a\.png", plain(result.stderr))
    result = segment(*command, "-c", "cat, sky")
    assert result.exit_code == 1
    assert "a.png was not written by this program, or changed since" in plain(result.stderr)
    assert (out / "a.png").read_bytes() == corrected


def test_the_result_of_another_photo_is_kept(photos, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    Image.new("RGB", (90, 60)).save(other / "a.jpg")
    command = ("-c", "cat, grass", "-o", tmp_path / "out")
    assert segment(photos / "a.png", *command).exit_code == 0
    result = segment(other / "a.jpg", *command)
    assert result.exit_code == 1
    assert re.search(r"a\.png is the result of another photo, .*photos/a\.png", plain(result.stderr))
    assert json.loads((tmp_path / "out" / "a.json").read_text())["photo"] == str(photos / "a.png")


def test_photos_and_results_side_by_side(photos, monkeypatch):
    monkeypatch.chdir(photos)
    (photos / "b.json").write_text('{"of": "labelme"}')
    result = segment("b.jpg", "-c", "cat, grass", "-o", ".")
    assert result.exit_code == 1
    assert results(photos) == ["a.png", "b.jpg", "b.json"]
    (photos / "b.json").unlink()
    assert segment("b.jpg", "-c", "cat, grass", "-o", ".").exit_code == 0
    result = segment("b.jpg", "b.overlay.jpg", "-c", "cat, grass", "-o", ".")
    assert result.exit_code == 0
    assert "0 of 1 photos segmented, 1 done before" in plain(result.stderr)
    assert "1 result of earlier runs" in plain(result.stderr)


def test_the_bands_of_a_survey_are_chosen_and_notes_are_printed_once(tmp_path):
    import tifffile

    (tmp_path / "photos").mkdir()
    for name in ("a.tif", "b.tif"):
        values = np.random.default_rng(0).integers(0, 2048, (60, 90, 5), dtype=np.uint16)
        tifffile.imwrite(tmp_path / "photos" / name, values, photometric="minisblack", planarconfig="contig")
    command = (tmp_path / "photos", "-c", "cat, grass", "-o", tmp_path / "out")
    result = segment(*command)
    assert result.exit_code == 0, result.output
    text = plain(result.stderr)
    assert (
        len(
            re.findall(
                r"Note: 2 photos, .*a\.tif among them: each has 5 bands: the first three are read", text
            )
        )
        == 1
    )
    assert len(re.findall(r"Note: 2 photos, .* each uses 11 of its 16 bits", text)) == 1
    assert "uses 11 of its 16 bits" in json.loads((tmp_path / "out" / "a.json").read_text())["notes"][1]
    result = segment(*command, "--bands", "5,2,1")
    assert "made before with other bands: made again" in plain(result.stderr)
    assert "has 5 bands" not in plain(result.stderr)
    for bands in ("0,1,2", "1,2", "red", "1,2,3,4"):
        assert_refused(segment(*command, "--bands", bands), "--bands must be one number or three")
    result = segment(*command, "--bands", "6,2,1")
    assert result.exit_code == 1
    assert "b.tif has 5 bands. Choose three of them" in plain(result.stderr)


def test_json_lists_what_was_done_and_what_was_not(photos, tmp_path):
    (photos / "page.png").write_bytes(b"<!DOCTYPE html>")
    result = segment(photos, "-c", "cat, grass", "-o", tmp_path / "out", "--json")
    content = json.loads(result.stdout)
    assert [one["photo"] for one in content["photos"]] == [str(photos / "a.png"), str(photos / "b.jpg")]
    assert content["photos"][0]["shares"] == {"cat": 1.0}
    assert (content["done_before"], content["out"]) == (0, str(tmp_path / "out"))
    assert len(content["failed"]) == 1
    content = json.loads(segment(photos, "-c", "cat, grass", "-o", tmp_path / "out", "--json").stdout)
    assert (content["photos"], content["done_before"]) == ([], 2)


def test_names_that_are_no_utf8_and_long_names_are_done_like_others(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    names = [os.fsdecode(b"caf\xe9.png"), f"{'x' * 251}.png", "a b [c].png"]
    for name in names:
        Image.new("RGB", (9, 6)).save(folder / "made.png")
        (folder / "made.png").rename(folder / name)
    command = (folder, "-c", "cat, grass", "-o", tmp_path / "out")
    result = segment(*command)
    assert result.exit_code == 0, result.output
    assert "3 of 3 photos segmented" in plain(result.stderr)
    described = [json.loads(path.read_bytes())["photo"] for path in (tmp_path / "out").glob("[!.]*.json")]
    assert sorted(described) == sorted(str(folder / name) for name in names)
    assert "0 of 3 photos segmented, 3 done before" in plain(segment(*command).stderr)


def test_a_result_that_cannot_be_written_is_named_and_the_others_are_done(photos, tmp_path, monkeypatch):
    real = module.OwnFiles.writing

    def writing(self, names, made, **options):
        if names[0] == "a.png":
            raise OutputError("Cannot write a.png: Permission denied.")
        return real(self, names, made, **options)

    monkeypatch.setattr(module.OwnFiles, "writing", writing)
    result = segment(photos, "-c", "cat, grass", "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "Error: Cannot write a.png: Permission denied.\n" in plain(result.stderr)
    assert results(tmp_path / "out") == ["b.json", "b.overlay.jpg", "b.png"]
