"""Scores on data sets: which images are counted, in which batches, and that every pixel is counted once."""

import dataclasses
import itertools
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import small_config, write_vocabulary

from corrclip_jax.config import PartsConfig, with_fields
from corrclip_jax.datasets.dataset import NOT_SCORED, Dataset, Example
from corrclip_jax.datasets.scenes.dataset import scenes
from corrclip_jax.datasets.scenes.generate import unseen_scene, val_scene
from corrclip_jax.datasets.scenes.words import CLASSES, UNSEEN_CLASSES
from corrclip_jax.evaluation import scorer as module
from corrclip_jax.evaluation.ablation import ablation
from corrclip_jax.evaluation.evaluate import evaluate
from corrclip_jax.evaluation.loading import Unreadable, padded_examples, read_example
from corrclip_jax.inference.not_finite import NotFiniteError
from corrclip_jax.io.photos import PhotoError
from corrclip_jax.params.structure import init_params

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

    def make_segment(config, mesh=None):
        channel = 0 if config.parts.correction else 1
        return lambda params, images, text, sizes, regions, bank=None: SimpleNamespace(
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
        (("test",), "the scenes have the splits val, unseen. Got 'test'"),
        (("val", 201), "count must be 1 to 200, the images of scenes, val. Got 201"),
        (("unseen", 0), "count must be 1 to 100, the images of scenes, unseen. Got 0"),
    ],
)
def test_what_there_is_not_is_told(arguments, message):
    with pytest.raises(ValueError, match=message):
        scenes(*arguments)


@pytest.mark.parametrize("size", [1, 2, 3, 10])
def test_batches_hold_every_picture_once_whoever_does_them(small, size):
    scorer = module.Scorer(*small, TOY, regions="truth", batch_size=size)
    whole = scorer.batches(range(TOY.count))
    assert sorted(index for batch in whole for index in batch.indices) == list(range(TOY.count))
    shares = [scorer.batches(range(TOY.count), process, 2) for process in range(2)]
    assert sorted(map(repr, whole)) == sorted(map(repr, [*shares[0], *shares[1]]))
    left = scorer.batches([0, 5])
    assert sorted(index for batch in left for index in batch.indices) == [0, 5]
    for batch in whole:
        loaded = padded_examples(batch, [read_example(TOY, index) for index in batch.indices])
        assert loaded.regions is not None
        assert loaded.images.shape[:3] == loaded.labels.shape == loaded.regions.shape
        assert len(loaded.images) == min(size, len(loaded.images))
        for row, index in enumerate(batch.indices):
            image, labels, _ = toy_example(index)
            height, width = loaded.sizes[row]
            np.testing.assert_array_equal(loaded.images[row, :height, :width], image)
            np.testing.assert_array_equal(loaded.labels[row, :height, :width], labels)
            assert (loaded.labels[row, height:] == NOT_SCORED).all()
            assert (loaded.labels[row, :, width:] == NOT_SCORED).all()
        assert (loaded.labels[len(batch.indices) :] == NOT_SCORED).all()
        assert (loaded.sizes[len(batch.indices) :] == 0).all()


def test_unreadable_examples_are_named_before_their_batch_and_the_others_counted(small, towerless):
    def example(index: int) -> Example:
        if index == 3:
            raise PhotoError("3.jpg is damaged")
        return toy_example(index)._replace(regions=np.full(toy_example(index).labels.shape, 1))

    size = lambda index: toy_example(index).labels.shape  # noqa: E731
    scorer = module.Scorer(
        *small, dataclasses.replace(TOY, example=example, size=size), regions="truth", batch_size=2
    )
    first, unreadable, second = scorer(scorer.batches([0, 3, 5]))
    assert unreadable == Unreadable(3, "3.jpg is damaged")
    assert (first.indices, second.indices) == ((0,), (5,))
    assert read_example(TOY, 1, max_regions=2) == Unreadable(
        1, "1 has 3 regions, more than config.method.max_regions = 2. Raise it, or merge small regions."
    )


# --- the loop ---


@pytest.mark.parametrize("size", [1, 2, 5])
def test_every_scored_pixel_is_counted_once_whatever_the_batch_size(small, towerless, size):
    done: list[int] = []
    found = evaluate(
        TOY, model=small, regions="none", batch_size=size, progress=lambda run: done.append(run.done)
    )
    np.testing.assert_array_equal(found.matrices[PartsConfig()], matrix_by_hand(0))
    assert found.report["pictures"] == done[-1] == TOY.count
    assert found.report["compiling_seconds"] > 0
    assert found.report["seconds"] > 0


def test_variants_are_counted_apart(small, towerless):
    variants = [PartsConfig(), PartsConfig(correction=False), PartsConfig()]
    scorer = module.Scorer(*small, TOY, variants, regions="truth")
    assert list(scorer.variants) == variants[:2]
    total = sum(counts.matrices for counts in scorer(scorer.batches(range(TOY.count))))
    np.testing.assert_array_equal(total, [matrix_by_hand(0), matrix_by_hand(1)])


def test_damaged_weights_have_no_score_whichever_variant_meets_them(small):
    """The first variant needs no DINO."""
    first = PartsConfig(value=False, merging=False, semantic=False)
    config, params = small
    params = {**params, "dino": jax.tree.map(lambda x: x * np.nan, params["dino"])}
    scorer = module.Scorer(config, params, TOY, [first, PartsConfig()], regions="truth", batch_size=1)
    with pytest.raises(NotFiniteError, match=r"^0 has no labels, its features are not finite"):
        list(scorer(scorer.batches([0])))


def test_the_configurations_own_parts_are_the_default(small, towerless):
    config, params = small
    config = with_fields(config, parts={"correction": False})
    np.testing.assert_array_equal(
        evaluate(TOY, model=(config, params), regions="none").matrices[config.parts], matrix_by_hand(1)
    )


@pytest.mark.slow
def test_the_method_gives_the_same_scores_whatever_the_batch_size(small):
    one_size = dataclasses.replace(TOY, count=3, example=lambda index: toy_example(3 * index))
    one, two = (
        evaluate(one_size, model=small, regions="truth", batch_size=size).matrices[PartsConfig()]
        for size in (1, 2)
    )
    assert one[:, :-1].sum() == 3 * 24 * 28
    assert np.abs(one - two).sum() <= 0.002 * one.sum()  # logits may tie within their last bits


def test_a_batch_that_does_not_fit_the_memory_is_halved_and_counts_the_same(small, towerless, monkeypatch):
    """No batch is counted twice, and none goes to another batch of counts than it was planned for."""
    real, tried = module.make_segment, []

    def make_segment(config, mesh=None):
        def limited(params, images, text, sizes, regions):
            tried.append(len(images))
            if len(images) > 1:
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
            return real(config)(params, images, text, sizes, regions)

        return limited

    scorers = [module.Scorer(*small, TOY, regions="truth", batch_size=4)]
    whole = [list(scorers[0](scorers[0].batches(range(TOY.count)), keep_labels=True))]
    monkeypatch.setattr(module, "make_segment", make_segment)
    scorers.append(module.Scorer(*small, TOY, regions="truth", batch_size=4))
    whole.append(list(scorers[1](scorers[1].batches(range(TOY.count)), keep_labels=True)))
    assert set(tried) == {1, 2, 4}
    assert tried.count(4) <= 4, "a size that did not fit is not tried for every batch"
    for one, other in zip(*whole, strict=True):
        assert one.indices == other.indices
        for name in ("matrices", "areas", "boundary"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        for labels, others in zip(one.labels, other.labels, strict=True):
            np.testing.assert_array_equal(labels, others)


def test_an_image_that_does_not_fit_the_memory_alone_is_named_and_the_others_counted(
    small, towerless, monkeypatch
):
    real = module.padded_examples

    def padded(batch, examples):
        if batch.bucket.shape[1] > 28:
            raise MemoryError
        return real(batch, examples)

    monkeypatch.setattr(module, "padded_examples", padded)
    found = evaluate(TOY, model=small, regions="none", batch_size=2)
    wide = [index for index in range(TOY.count) if index % 3 == 1]
    assert list(found.unreadable) == wide
    assert found.unreadable[1].startswith("1 (32x24 pixels) is too large for the memory, even alone")
    assert found.report["pictures"] == TOY.count - len(wide)


def test_a_device_that_fails_otherwise_is_an_error(small, monkeypatch):
    def make_segment(config, mesh=None):
        def broken(*arguments, **options):
            raise jax.errors.JaxRuntimeError("INTERNAL: the device is lost")

        return broken

    monkeypatch.setattr(module, "make_segment", make_segment)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        evaluate(TOY, model=small, regions="none")


@pytest.mark.parametrize("error", [MemoryError(), PermissionError(13, "Permission denied"), RecursionError()])
def test_whatever_keeps_an_image_from_being_read_is_named(error):
    def example(index: int) -> Example:
        raise error

    found = read_example(dataclasses.replace(TOY, example=example), 2)
    assert isinstance(found, Unreadable)
    assert re.match(r"2 (needs more memory than there is|cannot be read): .+\.", found.message)


def test_settings_that_cannot_be_served_are_refused(small):
    for data, options, message in [
        (TOY, {"regions": "sam2"}, "the model 'small' has no SAM 2 to find regions with"),
        (TOY, {"regions": "none", "batch_size": 0}, "batch_size must be 1 or more. Got 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            evaluate(data, model=small, **options)


def test_more_regions_than_the_cap_are_an_error_and_no_low_score(small):
    config, params = small
    config = with_fields(config, method={"max_regions": 1})
    found = evaluate(dataclasses.replace(TOY, count=1), model=(config, params), regions="truth")
    assert "more than config.method.max_regions = 1. Raise it" in found.unreadable[0]
    assert found.matrices[config.parts].sum() == 0
    assert np.isnan(found.mean_iou)


def test_the_ablation_goes_from_plain_clip_to_the_whole():
    upon, without = ablation()
    assert list(upon) == [
        "plain CLIP", "+ scope", "+ value", "+ merging", "+ spatial", "+ semantic", "+ correction",
    ]  # fmt: skip
    on = [sum(dataclasses.asdict(parts).values()) for parts in upon.values()]
    assert on == [1, 2, 3, 4, 5, 6, 7]  # support is on, which asks no bank where there is none
    for before, after in itertools.pairwise(upon.values()):
        assert all(
            now >= then
            for then, now in zip(dataclasses.astuple(before), dataclasses.astuple(after), strict=True)
        )
    assert all(sum(dataclasses.asdict(parts).values()) == 6 for parts in without.values())
    assert not without["without merging"].merging
    assert without["without correction"] == upon["+ semantic"]


def test_the_ablation_of_a_model_leaves_off_what_it_does_without_and_takes_support_from_a_bank():
    parts = PartsConfig(merging=False)
    upon, without = ablation(parts, bank=True)
    assert list(upon)[-2:] == ["+ correction", "+ support"]
    assert upon["+ support"] == parts
    assert without["without support"] == upon["+ correction"]
    assert not any(variant.merging for variant in [*upon.values(), *without.values()])
