"""Regions for their own sake: what a `Regions` says of a photo, `Segmenter.regions`, `corrclip regions`."""

import json
import re

import jax
import numpy as np
import pytest
from command_line import corrclip
from PIL import Image
from small_models import small_config

from corrclip_jax.cli.commands import regions as command
from corrclip_jax.config import Config, with_fields
from corrclip_jax.hub import model_marks
from corrclip_jax.inference import programs, region_runner
from corrclip_jax.inference.photo_regions import Regions
from corrclip_jax.inference.region_runner import RegionRunner
from corrclip_jax.inference.segmenter import Segmenter
from corrclip_jax.io.coco_rle import decode
from corrclip_jax.io.own_files import JOURNAL
from corrclip_jax.io.photos import PhotoError
from corrclip_jax.io.region_maps import read_regions, region_file, write_regions
from corrclip_jax.params.structure import init_params

SLIC = with_fields(Config(), regions={"source": "slic", "slic": {"segments": 16}})


def picture(seed=0, size=(60, 90)):
    coarse = np.random.default_rng(seed).integers(0, 256, (size[0] // 10, size[1] // 10, 3), dtype=np.uint8)
    return coarse.repeat(10, 0).repeat(10, 1)


def by_hand():
    found = np.zeros((60, 90), np.int32)
    found[10:20, 30:50], found[40:, 80:] = 2, 5
    return Regions(picture(), found, {"predicted_iou": np.array([0.9, 0.5], np.float32)})


def test_what_is_known_of_regions():
    regions = by_hand()
    assert len(regions) == 2
    assert regions.ids.tolist() == [2, 5]
    assert regions.areas.tolist() == [200, 200]
    assert regions.boxes.tolist() == [[30, 10, 49, 19], [80, 40, 89, 59]]
    assert regions.mask(5).sum() == 200
    with pytest.raises(KeyError, match="no region 3 among the 2"):
        regions.mask(3)
    first, second = regions.coco_rle()
    assert np.array_equal(decode(first["segmentation"]), regions.mask(2))
    assert (second["area"], second["bbox"], second["predicted_iou"]) == (200, [80, 40, 9, 19], 0.5)
    json.dumps(regions.coco_rle())


@pytest.mark.parametrize("suffix", [".npz", ".png", ".json"])
def test_a_saved_map_is_read_again(tmp_path, suffix):
    by_hand().save(tmp_path / f"a{suffix}")
    assert np.array_equal(read_regions(tmp_path / f"a{suffix}", 60, 90), by_hand().map)


def test_the_picture_shows_regions_and_leaves_the_rest_clear():
    drawn, scale = np.asarray(by_hand().picture()), 4  # small photos are enlarged
    changed = (drawn != picture().repeat(scale, 0).repeat(scale, 1)).any(-1)
    assert not changed[: 9 * scale].any()
    assert changed[10 * scale : 20 * scale, 30 * scale : 50 * scale].mean() > 0.9


def test_nothing_found():
    nothing = Regions(picture(), np.zeros((60, 90), np.int32))
    assert len(nothing) == 0
    assert nothing.coco_rle() == []
    assert nothing.boxes.shape == (0, 4)
    assert nothing.picture().size == (360, 240)


def test_photos_of_all_sizes_are_what_they_are_alone(shared_programs):
    photos = [picture(0)[:59], picture(1, (90, 60)), picture(2)]
    finder = RegionRunner(SLIC, {})
    together = dict(finder.stream(photos))
    assert finder.programs.count == 2
    for place, photo in enumerate(photos):
        ((_, alone),) = RegionRunner(SLIC, {}).stream([photo])
        assert together[place].photo is photo
        assert (together[place].map == alone.map).mean() > 0.999
        assert 1 < len(alone) <= 16


def test_a_stream_goes_on_after_photos_that_fail(shared_programs, tmp_path):
    Image.fromarray(picture(0)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no")
    found = dict(
        RegionRunner(SLIC, {}).stream([tmp_path / "a.png", tmp_path / "b.png", "gone.png", picture(0)])
    )
    assert sorted(found) == [0, 1, 2, 3]
    assert [type(found[index]) for index in (1, 2)] == [PhotoError, PhotoError]
    assert np.array_equal(found[0].map, found[3].map)


def test_a_batch_that_does_not_fit_the_memory_is_halved(monkeypatch):
    photos = [picture(seed) for seed in range(3)]
    alone = dict(RegionRunner(SLIC, {}).stream(photos))
    real = region_runner.score_regions

    def limited(config, params, images, sizes):
        if len(images) > 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return real(config, params, images, sizes)

    monkeypatch.setattr(programs, "images_per_device", lambda shape, limit: 4)
    monkeypatch.setattr(region_runner, "score_regions", limited)
    found = dict(RegionRunner(SLIC, {}).stream(photos))
    for index, photo in enumerate(photos):
        assert found[index].photo is photo
        assert np.array_equal(found[index].map, alone[index].map)


def test_photos_of_ever_new_sizes_one_by_one_share_programs(shared_programs):
    runner = RegionRunner(SLIC, {})
    photos = [
        picture(seed, size) for seed, size in enumerate([(60, 90), (80, 70), (50, 120), (110, 60), (90, 60)])
    ]
    one_by_one = [dict(runner.stream([photo]))[0] for photo in photos]
    assert runner.programs.count == 2
    fresh = dict(RegionRunner(SLIC, {}).stream(photos[-1:]))[0]
    assert np.array_equal(one_by_one[-1].map, fresh.map)
    assert np.isnan(fresh.scores).all()
    assert len(fresh.scores) == len(fresh)


def test_a_segmenter_gives_regions_with_scores():
    # Random weights are sure of nothing.
    settings = {"iou_threshold": -99.0, "stability_threshold": 0.0, "nms_threshold": 1.0}
    config = with_fields(small_config(), regions=settings)
    segmenter = Segmenter((config, init_params(config)))
    one, other = segmenter.regions([picture(0), picture(1)])
    assert np.array_equal(segmenter.regions(picture(0)).map, one.map)
    assert 0 < len(one) <= 4
    for name in ("predicted_iou", "stability_score"):
        assert one.details[name].shape == (len(one),)
        assert other.coco_rle()[0][name] == pytest.approx(float(other.details[name][0]), abs=1e-5)
    assert np.all((one.details["stability_score"] >= 0) & (one.details["stability_score"] <= 1))
    np.testing.assert_array_equal(one.scores, one.details["predicted_iou"])


def test_a_source_without_its_network():
    with pytest.raises(ValueError, match="no SAM 2 to find regions with"):
        RegionRunner(small_config(), {})


# --- corrclip regions ---


@pytest.fixture
def photos(tmp_path, shared_programs):
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed, name in enumerate(("a.jpg", "b.png")):
        Image.fromarray(picture(seed)).save(folder / name)
    return folder


def run(*arguments):
    return corrclip("regions", *arguments)


@pytest.mark.parametrize(("format", "suffix"), [("npz", ".npz"), ("png", ".png"), ("rle", ".json")])
def test_files_are_made_once_and_bad_photos_named(photos, tmp_path, format, suffix):
    out = tmp_path / "maps"
    (photos / "bad.jpg").write_bytes(b"no photo")
    command = ["--images", photos, "--out", out, "--source", "slic", "--segments", 16, "--format", format]
    result = run(*command)
    assert result.exit_code == 1
    assert "bad.jpg is not an image" in result.stderr
    assert "2 of 3 photos" in result.stderr
    assert sorted(path.name for path in out.iterdir()) == [JOURNAL, f"a{suffix}", f"b{suffix}"]
    assert 3 < read_regions(out / f"a{suffix}", 60, 90).max() <= 16
    write_regions(out / f"a{suffix}", np.full((60, 90), 3))
    (photos / "bad.jpg").unlink()
    again = run(*command, "--sheet")
    assert again.exit_code == 0
    assert "Regions of 0 of 2 photos, 2 found before" in again.stderr
    assert (
        f"Changed since they were written, and kept (--overwrite replaces them): {out / 'a'}{suffix}."
        in again.stderr
    )
    assert (read_regions(out / f"a{suffix}", 60, 90) == 3).all()
    with Image.open(out / "contact-sheet.jpg") as sheet:
        assert sheet.width > 900
    assert run(*command, "--overwrite").exit_code == 0
    assert read_regions(out / f"a{suffix}", 60, 90).max() > 3


def test_regions_are_by_default_those_of_the_model_s_own_source(photos, tmp_path, monkeypatch):
    asked = []

    def work(files, source, *others):
        asked.append(source)
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "_work", work)
    monkeypatch.setattr(model_marks, "model_mark", lambda *model, **options: "")  # downloads none
    for options in (("--model", "v2-b"), (), ("--model", "v2-b", "--regions", "slic")):
        run(photos, "--out", tmp_path / "maps", *options)
    assert asked == ["eomt", "sam2", "slic"]


def test_what_would_do_harm_is_refused(photos, tmp_path):
    command = ["--images", photos, "--source", "slic", "--segments", 16]
    same = run(*command, "--out", photos, "--format", "png")
    assert (same.exit_code, "would replace a photo" in same.stderr) == (2, True)
    Image.fromarray(picture()).save(photos / "a.bmp")
    assert run("--images", photos, "--out", tmp_path, "--source", "none").exit_code == 2
    double = run(*command, "--out", tmp_path / "maps")
    assert double.exit_code == 1
    assert re.search(r"a\.bmp and .*a\.jpg would both have their regions in", double.stderr)
    assert "Regions of 1 of 3 photos" in double.stderr
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == [JOURNAL, "b.npz"]


def test_maps_of_another_source_are_made_again_and_foreign_ones_kept(photos, tmp_path):
    out = tmp_path / "maps"
    out.mkdir()
    write_regions(out / "b.npz", np.full((60, 90), 3))
    foreign = (out / "b.npz").read_bytes()
    command = ["--images", photos, "--out", out, "--source", "slic", "--segments"]
    result = run(*command, 8)
    assert result.exit_code == 1
    assert "b.npz was not written by this program" in result.stderr
    assert "Regions of 1 of 2 photos" in result.stderr
    result = run(*command, 16)
    assert "1 result made before with other segments: made again" in result.stderr
    assert 8 < read_regions(out / "a.npz", 60, 90).max() <= 16
    assert (out / "b.npz").read_bytes() == foreign
    (out / "contact-sheet.jpg").write_bytes(b"mine")
    result = run("--images", photos / "a.jpg", "--out", out, "--source", "slic", "--segments", 16, "--sheet")
    assert (result.exit_code, "contact-sheet.jpg was not written by this program" in result.stderr) == (
        1,
        True,
    )
    assert (out / "contact-sheet.jpg").read_bytes() == b"mine"


def test_maps_of_photos_with_long_names_are_found_again(photos, tmp_path):
    (photos / "a.jpg").rename(photos / f"{'x' * 251}.jpg")
    source = ("--source", "slic", "--segments", 16, "--format", "rle")
    result = run("--images", photos, "--out", tmp_path / "maps", *source)
    assert result.exit_code == 0, result.output
    assert region_file(tmp_path / "maps", photos / f"{'x' * 251}.jpg").is_file()
