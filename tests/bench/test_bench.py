"""`corrclip bench`: what stands in its report, and how it refuses. Nothing here looks at how long anything took."""

import json
from functools import partial

import jax
import numpy as np
import pytest
from command_line import assert_refused, corrclip
from small_models import small_config, small_model, small_params, small_v2

from corrclip_jax.bench import measure as measuring
from corrclip_jax.bench.clock import matmul_rate
from corrclip_jax.bench.stages import draw_bank, draw_photos, draw_text, split_stages
from corrclip_jax.cli.commands import bench
from corrclip_jax.config import with_fields
from corrclip_jax.method.branches import window_step
from corrclip_jax.method.correlation import normalise
from corrclip_jax.method.segment import make_segment
from corrclip_jax.params.structure import check_params, init_params
from corrclip_jax.regions.sources import find_regions


@pytest.fixture(scope="module")
def params():
    return init_params(small_config())


def run(*arguments):
    return corrclip("bench", *arguments)


def test_a_file_of_ones_own_is_not_replaced_by_a_report(tmp_path):
    (tmp_path / "bench.json").write_text("mine")
    assert_refused(
        run("--random", "--out", tmp_path / "bench.json"), r"bench\.json was not written by this program"
    )
    assert (tmp_path / "bench.json").read_text() == "mine"


@pytest.mark.slow
def test_the_stages_in_turn_are_the_window_step(params):
    slic = {"source": "slic", "slic": {"segments": 16}}  # which compiles sooner than a network
    config = with_fields(small_config(), method={"windows_per_chunk": 4}, regions=slic)
    images, text = draw_photos(2, 60, 90), draw_text(5, 16)
    stages = {stage.name: stage for stage in split_stages(config, params, images, text)}
    assert list(stages) == ["regions", "DINO", "correlation", "CLIP", "labels"]
    outputs = {name: jax.jit(stage.function)(*stage.arguments) for name, stage in stages.items()}
    found, cap = jax.jit(partial(find_regions, config))(params, images)
    np.testing.assert_array_equal(outputs["regions"], found)
    pixels, ids = stages["DINO"].arguments[1], stages["correlation"].arguments[1]
    whole = jax.jit(partial(window_step, config, cap=int(cap) + 1))(params, pixels, ids)
    np.testing.assert_allclose(outputs["CLIP"], normalise(whole.features), atol=1e-5)
    assert outputs["labels"].labels.shape == (2, 60, 90)


@pytest.mark.slow
def test_the_stages_of_a_bank_lead_to_the_labels_of_the_whole_program():
    config = small_v2(with_fields(small_config(), sam2=None, regions={"source": "none"}))
    params, images, text = small_params(config), draw_photos(2, 60, 90), draw_text(5, 16)
    bank = draw_bank(300, config)
    stages = {stage.name: stage for stage in split_stages(config, params, images, text, bank)}
    assert list(stages) == [
        "RADIO",
        "correlation",
        "CLIP",
        "features of regions",
        "search",
        "support",
        "labels",
    ]
    assert stages["search"].times == stages["support"].times == 1
    whole = jax.jit(make_segment(config))(params, images, text, bank=bank)
    ids, _ = jax.jit(stages["search"].function)(*stages["search"].arguments)
    np.testing.assert_array_equal(ids[:2], whole.neighbours[:, 0])
    support = jax.jit(stages["support"].function)(*stages["support"].arguments)
    np.testing.assert_allclose(support.logits[:2], whole.support[:, 0], atol=1e-5)
    np.testing.assert_allclose(stages["labels"].arguments[3].logits, whole.support, atol=1e-5)


@pytest.mark.parametrize(("chunk", "times"), [(1, 6), (4, 1.5), (64, 1)])
def test_window_stages_stand_for_all_windows_of_the_batch(params, chunk, times):
    # A photo of 60 x 90 is 112 x 168 resized: two windows.
    config = with_fields(small_config(), method={"windows_per_chunk": chunk}, regions={"source": "none"})
    stages = split_stages(config, params, draw_photos(3, 60, 90), draw_text(5, 16))
    assert [stage.times for stage in stages] == [times, times, times, 1]


@pytest.mark.slow
def test_the_command_prints_a_table_and_writes_a_report_that_is_complete(tmp_path):
    out = tmp_path / "reports" / "small.json"
    settings = ("--size", "90x60", "--batch", 2, "--classes", 5, "--chunk", 2, "--repeat", 1)
    result = run("-m", small_model(tmp_path), "--regions", "none", *settings, "--json", out)
    assert result.exit_code == 0, result.output
    for words in ("DINO", "correlation", "CLIP", "labels", "whole program", "images a second"):
        assert words in result.stdout
    report = json.loads(out.read_text())
    assert (report["settings"]["height"], report["settings"]["width"]) == (60, 90)
    assert report["settings"]["windows_per_chunk"] == 2
    assert [row["name"] for row in report["stages"]] == ["DINO", "correlation", "CLIP", "labels"]
    assert sum(row["share"] for row in report["stages"]) == pytest.approx(1)
    for row in (*report["stages"], report["program"]):
        assert row["seconds"] > 0
        assert row["compile_seconds"] > 0
        assert row["flops"] > 0
        assert row["rate_share"] == pytest.approx(
            row["flops"] / row["seconds"] / report["matmul_flops_per_second"]
        )
        assert row["bytes"]["temporaries"] > 0
    # The program runs the stages, and besides them only the resize of the photos.
    of_stages = sum(row["flops"] for row in report["stages"])
    assert of_stages <= report["program"]["flops"] < 1.1 * of_stages
    assert report["huge_pages"] in ("always", "madvise", "never", None)
    assert report["program"]["images_per_second"] == pytest.approx(2 / report["program"]["seconds"])
    assert report["device"]["platform"] == jax.default_backend()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_rate_of_products(dtype):
    assert 1e6 < matmul_rate(dtype, side=64, repeat=1) < 1e17


def test_random_weights_need_no_download(tmp_path, monkeypatch):
    model = small_model(tmp_path)
    for name in ("clip", "dino", "sam2"):
        (model / name).rename(model / f"no-{name}")
    seen = []

    def stop(config, params, **settings):
        seen.append((config, params))
        raise ValueError("far enough")

    monkeypatch.setattr(measuring, "measure", stop)
    assert run("-m", model, "--random", "--points", 3).exit_code == 2
    ((config, params),) = seen
    assert config.regions.points_per_side == 3
    check_params(config, params)
    assert run("-m", "vit-x", "--random").exit_code == 2
    assert bench.model_config("vit-l").clip.vision.layers == 24


@pytest.mark.parametrize("size", ["500", "0x5", "axb", "500x375x3", "-1x5"])
def test_a_size_is_width_x_height(size):
    result = run("--size", size)
    assert result.exit_code == 2
    assert "--size must be width x height in pixels, as in 500x375" in result.stderr


def test_more_threads_than_cores_are_refused():
    result = run("--threads", 100000)
    assert result.exit_code == 2
    assert "this process may use" in result.stderr
