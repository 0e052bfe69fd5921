"""The recipes of the embedded weights, with minute models: they learn, and a run that was broken off goes on."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from recipe_path import recipe

from corrclip_jax.checkpoint import expected_tower
from corrclip_jax.config import CLIPConfig, CLIPTextConfig, CLIPVisionConfig, DINOConfig, SAM2Config
from corrclip_jax.correlation import normalise
from corrclip_jax.datasets.words import BACKGROUNDS, SHAPES
from corrclip_jax.models import DINO

STEPS = 12


@pytest.fixture(scope="module")
def clip_config():
    vision = CLIPVisionConfig(image_size=112, patch_size=8, width=32, layers=5, head_width=16)
    text = CLIPTextConfig(
        vocab_size=recipe("tiny").VOCABULARY_SIZE, context_length=32, width=32, heads=2, layers=1
    )
    return CLIPConfig(embed_dim=16, vision=vision, text=text)


SMALL_DINO = DINOConfig(image_size=112, patch_size=8, width=32, layers=2, heads=2)
SMALL_SAM2 = SAM2Config(
    image_size=64,
    width=8,
    heads=1,
    stages=(1, 1, 1, 1),
    global_blocks=(2,),
    window_sizes=(4, 4, 4, 2),
    background_size=(2, 2),
    embed_dim=16,
    decoder_heads=2,
    decoder_mlp_width=16,
)


def clip_parts(pool, config):
    train_clip, loop = recipe("train_clip"), recipe("loop")
    optimiser = loop.adamw(3e-3, STEPS, 0.1)
    state = train_clip.initial_state(config, optimiser, 0)
    return (
        state,
        train_clip.make_update(config, optimiser),
        recipe("clip_batches").BatchMaker(pool, config, 4, 0),
    )


def dino_parts(pool):
    train_dino, loop = recipe("train_dino"), recipe("loop")
    optimiser = loop.adamw(3e-3, STEPS, 0.1)
    state = train_dino.initial_state(SMALL_DINO, optimiser, 0)
    return state, train_dino.make_update(SMALL_DINO, optimiser, STEPS), train_dino.BatchMaker(pool, 8, 2, 0)


def sam2_parts(pool):
    train_sam2, loop = recipe("train_sam2"), recipe("loop")
    optimiser = loop.adamw(3e-3, STEPS, 0.1)
    state = train_sam2.initial_state(SMALL_SAM2, optimiser, 0)
    return (
        state,
        train_sam2.make_update(SMALL_SAM2, optimiser),
        train_sam2.BatchMaker(pool, SMALL_SAM2, 2, 4, 0),
    )


def losses_on_one_batch(state, update, maker):
    update, batch, losses = jax.jit(update), maker(0), []
    for _ in range(STEPS):
        state, metrics = update(state, batch)
        losses.append(float(metrics["loss"]))
    assert np.isfinite(losses).all()
    return losses


@pytest.mark.slow
def test_clip_learns(pool, clip_config):
    losses = losses_on_one_batch(*clip_parts(pool, clip_config))
    assert min(losses[-3:]) < 0.9 * losses[0]


@pytest.mark.slow
def test_dino_learns(pool):
    losses = losses_on_one_batch(*dino_parts(pool))
    assert min(losses[-3:]) < 0.98 * losses[0]


@pytest.mark.slow
def test_sam2_learns(pool):
    losses = losses_on_one_batch(*sam2_parts(pool))
    assert min(losses[-3:]) < 0.9 * losses[0]


def toy_update(state, batch):
    error = state["weight"] - batch.mean()
    new = {"weight": state["weight"] - 0.1 * error, "velocity": 0.9 * state["velocity"] + error}
    return new, {"loss": error**2}


def toy_batch(step):
    return np.random.default_rng(step).standard_normal((4, 2), dtype=np.float32)


def toy_state():
    return {"weight": jnp.ones(()), "velocity": jnp.zeros(())}


def test_a_broken_off_run_goes_on_as_if_it_had_not_stopped(tmp_path):
    loop = recipe("loop")
    straight = loop.train(tmp_path / "straight", toy_state(), toy_update, toy_batch, 40, processes=0)
    loop.train(tmp_path / "broken", toy_state(), toy_update, toy_batch, 20, processes=0)
    resumed = loop.train(tmp_path / "broken", toy_state(), toy_update, toy_batch, 40, processes=0)
    for one, other in zip(jax.tree.leaves(straight), jax.tree.leaves(resumed), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    log = (tmp_path / "broken" / "log.csv").read_text().splitlines()
    assert log[0] == "step,seconds_a_step,loss"
    assert [line.split(",")[0] for line in log[1:]] == ["20", "40"]


def test_a_finished_run_does_nothing_more(tmp_path):
    loop = recipe("loop")
    first = loop.train(tmp_path, toy_state(), toy_update, toy_batch, 3, processes=0)
    again = loop.train(tmp_path, toy_state(), toy_update, toy_batch, 3, processes=0)
    assert all(map(np.array_equal, jax.tree.leaves(first), jax.tree.leaves(again)))


def test_batches_are_the_same_wherever_they_are_made(pool, clip_config):
    loop = recipe("loop")
    maker = recipe("clip_batches").BatchMaker(pool, clip_config, 2, 0)
    for here, there in zip(loop.batches(maker, 0, 2, 0), loop.batches(maker, 0, 2, 1), strict=True):
        assert all(map(np.array_equal, here, there))


def test_a_batch_of_captions_fits_its_parts(pool, clip_config):
    clip_batches = recipe("clip_batches")
    batch = clip_batches.BatchMaker(pool, clip_config, 6, 0)(0)
    assert batch.images.shape == (6, 112, 112, 3)
    assert batch.parts.any((2, 3)).all()
    assert batch.true.diagonal().all()
    # Windows have the whole picture as their first part; those of mosaics stay in their quarters.
    assert batch.parts[::2, 0].all()
    assert batch.parts[1::2].sum(1).max() == 1
    assert batch.parts[1::2].mean((2, 3)).max() <= 0.25
    tags = np.array(clip_batches.TAGS)
    for part, tagged in enumerate(batch.tags):
        assert set(tags[tagged]) & {*SHAPES, *BACKGROUNDS}, part


def test_the_first_steps_show_single_things(pool, clip_config):
    clip_batches = recipe("clip_batches")
    batch = clip_batches.BatchMaker(pool, clip_config, 6, 0, easy_steps=1)(0)
    shapes, backgrounds = np.split(batch.tags[:, : len(SHAPES) + len(BACKGROUNDS)], [len(SHAPES)], axis=1)
    assert (shapes.sum(1) <= 1).all()
    # A part is a whole crop, or one instance in it: the thing or the background, not both.
    whole = batch.parts.mean((2, 3)).reshape(-1) == 0.25
    assert 0 < whole.sum() < len(whole)
    assert (shapes.any(1) & backgrounds.any(1))[whole].all()
    assert not (shapes.any(1) & backgrounds.any(1))[~whole].any()


def test_a_caption_that_is_true_elsewhere_is_not_held_against_it():
    contrast = recipe("train_clip").contrast
    features = np.array([[1.0, 0], [0, 1], [1, 0]], np.float32)
    own = np.eye(3, dtype=bool)
    twins = own | np.array([[0, 0, 1], [0, 0, 0], [1, 0, 0]], bool)
    assert contrast(features, features, twins, 20.0) < 1e-6
    assert contrast(features, features, own, 20.0) > 0.4


def test_views_of_a_scene_match_where_they_show_the_same_spot():
    views = recipe("dino_views")
    box = (10.0, 20.0, 80.0)
    for flip in (False, True):
        places = views.patch_places(box, flip, 10)
        assert np.array_equal(views.matching(places, box, flip, 10), np.arange(100))
    shifted = views.matching(views.patch_places(box, False, 10), (18.0, 20.0, 80.0), False, 10).reshape(
        10, 10
    )
    assert (shifted[:, 0] == -1).all()
    assert np.array_equal(shifted[:, 1:], np.arange(100).reshape(10, 10)[:, :9])


def test_landed_dino_is_the_package_s_tower_with_centred_features(pool):
    train_dino = recipe("train_dino")
    state, _, _ = dino_parts(pool)
    images = recipe("pool").load(pool, "scenes").images[:, :112, :112]
    params = train_dino.landed(SMALL_DINO, state.teacher, images)
    shapes = jax.tree.map(np.shape, params)
    assert shapes == jax.tree.map(lambda leaf: leaf.shape, expected_tower(SMALL_DINO))
    features = DINO(SMALL_DINO).apply({"params": params}, train_dino.normalise_views(images[:, None]))
    assert np.abs(features.mean((0, 1, 2))).max() < 1e-5
    assert np.isfinite(normalise(features)).all()


def test_the_full_dino_reads_what_the_package_reads(pool):
    train_dino = recipe("train_dino")
    state, _, maker = dino_parts(pool)
    images = train_dino.normalise_views(maker(0).large)
    full = train_dino.FullDINO(SMALL_DINO).apply({"params": state.params}, images)["features"]
    last = state.params["blocks_1"]
    params = {name: tree for name, tree in state.params.items() if "head" not in name and name != "norm"}
    params["blocks_1"] = {
        "norm1": last["norm1"],
        "attn": {name: last["attn"][name] for name in ("query", "key")},
    }
    read = DINO(SMALL_DINO).apply({"params": params}, images)
    np.testing.assert_allclose(full.reshape(read.shape), read, atol=1e-5)


def test_warm_up_ends_and_the_rate_falls_to_nothing():
    rate = recipe("loop").schedule(1e-3, 100)
    assert float(rate(0)) == 0
    assert float(rate(5)) == pytest.approx(1e-3)
    assert float(rate(100)) == pytest.approx(0, abs=1e-9)
    assert isinstance(recipe("loop").adamw(1e-3, 100, 0.1), optax.GradientTransformation)
