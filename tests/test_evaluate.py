"""Scores on data sets: which pictures are counted, and how `corrclip evaluate` tells of it."""

import dataclasses
import itertools
import json
from collections import Counter
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from small_models import small_config, small_model, write_vocabulary
from typer.testing import CliRunner

from corrclip_jax import evaluate as module
from corrclip_jax import metrics
from corrclip_jax.checkpoint import init_params
from corrclip_jax.cli import app
from corrclip_jax.cli import evaluate as command
from corrclip_jax.config import PartsConfig, with_fields
from corrclip_jax.datasets.scenes import unseen_scene, val_scene
from corrclip_jax.datasets.words import CLASSES, UNSEEN_CLASSES
from corrclip_jax.evaluate import (
    NOT_SCORED,
    Dataset,
    Example,
    ablation,
    batches,
    evaluate,
    open_dataset,
    scenes,
)

NAMES = (("cat",), ("dog", "hound"), ("sky",))


def toy_example(index: int) -> Example:
    """Noise; every third picture has another size. The last rows are not scored, by one of three numbers."""
    rng = np.random.default_rng(index)
    height, width = (24, 32) if index % 3 == 1 else (28, 28)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    labels = rng.integers(0, len(NAMES), (height, width), dtype=np.int32)
    labels[-4:] = (255, NOT_SCORED, len(NAMES))[index % 3]
    return Example(image, labels, np.indices((height, width)).sum(0) // 16)


TOY = Dataset("toy", NAMES, 7, toy_example)


@pytest.fixture
def small(tmp_path):
    """A small model without SAM 2."""
    config = small_config(write_vocabulary(tmp_path), sam2=False)
    return config, init_params(config)


@pytest.fixture
def towerless(monkeypatch):
    """The method replaced: a pixel's class is its red modulo the classes, without the map correction its green."""

    def make_segment(config):
        channel = 0 if config.parts.correction else 1
        return lambda params, images, text, regions: SimpleNamespace(
            labels=images[..., channel].astype(jnp.int32) % len(NAMES)
        )

    monkeypatch.setattr(module, "make_segment", make_segment)


def matrix_by_hand(channel: int) -> np.ndarray:
    """The toy data set's matrix, pixel by pixel."""
    matrix = np.zeros((3, 4), int)
    for index in range(TOY.count):
        image, labels, _ = toy_example(index)
        for pixel, true in zip(image.reshape(-1, 3).tolist(), labels.ravel().tolist(), strict=True):
            if 0 <= true < 3:
                matrix[true, pixel[channel] % 3] += 1
    return matrix


# --- data sets ---


def test_scenes_are_the_fixed_splits():
    data = scenes("val", 3)
    assert (data.name, data.classes, data.count) == ("scenes, val", CLASSES, 3)
    np.testing.assert_array_equal(data.example(2).image, val_scene(2).image)
    np.testing.assert_array_equal(data.example(2).labels, val_scene(2).labels)
    unseen = scenes("unseen")
    assert (unseen.classes, unseen.count, scenes().count) == (UNSEEN_CLASSES, 100, 200)
    np.testing.assert_array_equal(unseen.example(1).labels, unseen_scene(1).unseen_labels)
    np.testing.assert_array_equal(unseen.example(1).regions, unseen_scene(1).instances)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("voc21",), "the data sets are: scenes. Got 'voc21'"),
        (("scenes", "test"), "the scenes have the splits val, unseen. Got 'test'"),
        (("scenes", "val", 201), "the split 'val' of the scenes has 1 to 200 pictures to take. Got 201"),
        (("scenes", "unseen", 0), "the split 'unseen' of the scenes has 1 to 100 pictures to take. Got 0"),
    ],
)
def test_what_there_is_not_is_told(arguments, message):
    with pytest.raises(ValueError, match=message):
        open_dataset(*arguments)


@pytest.mark.parametrize("size", [1, 2, 3, 10])
def test_batches_hold_every_picture_once_and_one_size_each(size):
    seen: Counter[bytes] = Counter()
    for batch in batches(TOY, size):
        assert batch.regions is not None
        assert batch.images.shape[:3] == batch.labels.shape == batch.regions.shape
        assert len(batch.images) == size
        assert (batch.labels[batch.real :] == NOT_SCORED).all()
        seen.update(image.tobytes() for image in batch.images[: batch.real])
    assert seen == Counter(toy_example(index).image.tobytes() for index in range(TOY.count))


# --- the loop ---


@pytest.mark.parametrize("size", [1, 2, 5])
def test_every_scored_pixel_is_counted_once_whatever_the_batch_size(small, towerless, size):
    done: list[int] = []
    found = evaluate(*small, TOY, regions="none", batch_size=size, report=done.append)
    np.testing.assert_array_equal(found.matrices[PartsConfig()], matrix_by_hand(0))
    assert found.pictures == sum(done) == TOY.count
    assert found.compiling > 0
    assert found.seconds > 0


def test_variants_are_counted_apart(small, towerless):
    variants = [PartsConfig(), PartsConfig(correction=False), PartsConfig()]
    found = evaluate(*small, TOY, variants, regions="truth")
    assert list(found.matrices) == variants[:2]
    np.testing.assert_array_equal(found.matrices[PartsConfig(correction=False)], matrix_by_hand(1))


def test_the_configurations_own_parts_are_the_default(small, towerless):
    config, params = small
    config = with_fields(config, parts={"correction": False})
    np.testing.assert_array_equal(
        evaluate(config, params, TOY, regions="none").matrices[config.parts], matrix_by_hand(1)
    )


def test_the_method_gives_the_same_scores_whatever_the_batch_size(small):
    one_size = dataclasses.replace(TOY, count=3, example=lambda index: toy_example(3 * index))
    one, two = (
        evaluate(*small, one_size, regions="truth", batch_size=size).matrices[PartsConfig()]
        for size in (1, 2)
    )
    assert one[:, :-1].sum() == 3 * 24 * 28
    assert np.abs(one - two).sum() <= 0.002 * one.sum()  # logits may tie within their last bits


def test_settings_that_cannot_be_served_are_refused(small):
    bare = dataclasses.replace(TOY, example=lambda index: toy_example(index)._replace(regions=None))
    for data, options, message in [
        (TOY, {"regions": "sam2"}, "the model 'small' has no SAM 2"),
        (bare, {"regions": "truth"}, "the data set 'toy' holds no true regions"),
        (TOY, {"regions": "none", "batch_size": 0}, "batch_size must be 1 or more. Got 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            evaluate(*small, data, **options)


def test_more_regions_than_the_cap_are_an_error_and_no_low_score(small, monkeypatch):
    config, params = small
    config = with_fields(config, method={"max_regions": 1})
    with pytest.raises(
        ValueError, match=r"some pictures have more than config\.method\.max_regions = 1 regions"
    ):
        evaluate(config, params, dataclasses.replace(TOY, count=1), regions="truth")


def test_the_ablation_goes_from_plain_clip_to_the_whole():
    upon, without = ablation()
    assert list(upon) == [
        "plain CLIP", "+ scope", "+ value", "+ merging", "+ spatial", "+ semantic", "+ correction",
    ]  # fmt: skip
    on = [sum(dataclasses.asdict(parts).values()) for parts in upon.values()]
    assert on == [0, 1, 2, 3, 4, 5, 6]
    for before, after in itertools.pairwise(upon.values()):
        assert all(
            now >= then
            for then, now in zip(dataclasses.astuple(before), dataclasses.astuple(after), strict=True)
        )
    assert all(sum(dataclasses.asdict(parts).values()) == 5 for parts in without.values())
    assert not without["without merging"].merging
    assert without["without correction"] == upon["+ semantic"]


# --- the command ---


@pytest.fixture
def invoke(monkeypatch):
    """Run the command; nothing is kept of what it compiles, and lines are as wide as they like."""
    monkeypatch.setattr(command, "keep_compiled_programs", lambda: None)

    def run(*arguments: object):
        return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["evaluate", *map(str, arguments)])

    return run


def test_evaluate_prints_and_writes_the_scores(invoke, tmp_path):
    model = small_model(tmp_path)
    found = invoke("scenes", "--model", model, "--count", 1, "--out", tmp_path / "scores")
    assert found.exit_code == 0, found.output
    assert "scenes, val: 1 picture, model small, regions sam2" in found.stdout
    for name in ("circle", "road", "mIoU", "pixel accuracy", "a second"):
        assert name in found.stdout
    content = json.loads((tmp_path / "scores" / "scenes-val.json").read_text("utf-8"))
    assert [entry["names"] for entry in content["classes"]] == [list(names) for names in CLASSES]
    matrix = np.array(content["confusion"]["pixels"])
    assert matrix.sum() == 168 * 168
    assert content["mean_iou"] == pytest.approx(metrics.mean_iou(matrix), abs=1e-6)
    assert content["settings"]["points_per_side"] == 2
    assert content["versions"]["jax"]


def test_evaluate_prints_the_ablation(invoke, tmp_path, towerless, monkeypatch):
    monkeypatch.setitem(module.DATASETS, "toy", lambda split, count: TOY)
    model = small_model(tmp_path, sam2=False)
    found = invoke("toy", "-m", model, "--regions", "none", "--ablation", "-o", tmp_path / "scores")
    assert found.exit_code == 0, found.output
    lines = found.stdout.splitlines()
    with_all, with_none = (100 * metrics.mean_iou(matrix_by_hand(channel)) for channel in (0, 1))
    for start, score, change in [
        ("plain CLIP", with_none, ""),
        ("+ semantic", with_none, "+0.0"),
        ("+ correction", with_all, f"{with_all - with_none:+.1f}"),
        ("without correction", with_none, f"{with_none - with_all:+.1f}"),
        ("without scope", with_all, "+0.0"),
    ]:
        line = next(line for line in lines if line.startswith(start))
        assert line.removeprefix(start).split()[:-1] == [f"{score:.1f}", *change.split()], start
    content = json.loads((tmp_path / "scores" / "toy-val-ablation.json").read_text("utf-8"))
    assert len(content["ablation"]) == 13


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("voc21",), "the data sets are: scenes"),
        (("scenes", "--count", 500), "has 1 to 200 pictures to take. Got 500"),
        (("scenes", "--split", "train"), "the scenes have the splits val, unseen"),
        (("scenes", "--model", "vit-x"), "model must be one of tiny, vit-b"),
    ],
)
def test_evaluate_says_what_there_is(invoke, arguments, message):
    found = invoke(*arguments)
    assert found.exit_code == 2
    assert message in found.stderr
