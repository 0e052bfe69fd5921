"""The recipes of the embedded weights, with minute models: they learn, and a run that was broken off goes on."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from recipe_path import recipe
from sam2_models import random_params

from corrclip_jax.config import CLIPConfig, CLIPTextConfig, CLIPVisionConfig, DINOConfig, SAM2Config
from corrclip_jax.datasets.scenes.words import BACKGROUNDS, SHAPES
from corrclip_jax.method.correlation import normalise
from corrclip_jax.method.windows import CLIP_MEAN, CLIP_STD
from corrclip_jax.models.clip.model import CLIP
from corrclip_jax.models.dino import DINO
from corrclip_jax.params.structure import expected_network

STEPS = 12


@pytest.fixture(scope="module")
def clip_config():
    vision = CLIPVisionConfig(image_size=56, patch_size=4, width=64, layers=6, head_width=8)
    text = CLIPTextConfig(
        vocab_size=recipe("tiny").VOCABULARY_SIZE, context_length=32, width=32, heads=2, layers=1
    )
    return CLIPConfig(embed_dim=16, vision=vision, text=text)


SMALL_DINO = DINOConfig(image_size=56, patch_size=4, width=32, layers=2, heads=2)
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
    decoder_layers=1,
)


@pytest.fixture(scope="module")
def teacher_run(pool, tmp_path_factory):
    """A teacher of a few steps, and how its loss fell."""
    folder = tmp_path_factory.mktemp("teacher")
    teacher, loop = recipe("teacher"), recipe("loop")
    optimiser = loop.adamw(3e-3, STEPS, 0.1)
    state = teacher.initial_state(optimiser, 0)
    batch = teacher.BatchMaker(pool, 8, 1, 0)(0)
    loop.train(folder, state, teacher.make_update(optimiser), lambda step: batch, STEPS, processes=0)
    return folder


# Optimisers take longer to compile than what they are for, as they treat every array apart: so the teacher learns
# by AdamW, DINO by Muon and the others by plain descent.


@pytest.fixture(scope="module")
def clip_parts(pool, clip_config, teacher_run):
    """State and update of CLIP, and how its batches are made."""
    train_clip = recipe("train_clip")
    optimiser = optax.sgd(3e-3)
    images = recipe("pool").load_halved(pool, "crops").images
    state = jax.jit(lambda: train_clip.initial_state(clip_config, optimiser, 0, images))()
    teaching = train_clip.Teaching.of(teacher_run, images)
    update = jax.jit(train_clip.make_update(clip_config, teaching, optimiser))
    return (
        state,
        update,
        lambda crop_steps: recipe("clip_batches").BatchMaker(pool, clip_config, 6, 3, crop_steps, 0),
    )


@pytest.fixture(scope="module")
def dino_parts(pool):
    train_dino = recipe("train_dino")
    optimiser = recipe("loop").muon(3e-3, STEPS, 0.1)
    state = jax.jit(lambda: train_dino.initial_state(SMALL_DINO, optimiser, 0))()
    update = jax.jit(train_dino.make_update(SMALL_DINO, optimiser, STEPS))
    return state, update, train_dino.BatchMaker(pool, 4, 2, 0)


def sam2_parts(pool, monkeypatch):
    """Of SAM 2, with weights that NumPy draws: JAX's draws would compile for longer than all else."""
    train_sam2 = recipe("train_sam2")
    optimiser = optax.sgd(1e-2)
    drawn = {"params": random_params(SMALL_SAM2)}
    monkeypatch.setattr(train_sam2.SAM2, "init", lambda model, *arguments: drawn)
    state = jax.jit(lambda: train_sam2.initial_state(SMALL_SAM2, optimiser, 0))()
    update = jax.jit(train_sam2.make_update(SMALL_SAM2, optimiser))
    return state, update, train_sam2.BatchMaker(pool, SMALL_SAM2, 2, 4, 0)


def losses_on_one_batch(state, update, maker):
    batch, losses = maker(0), []
    for _ in range(STEPS):
        state, metrics = update(state, batch)
        losses.append(float(metrics["loss"]))
    assert np.isfinite(losses).all()
    return losses


@pytest.mark.slow
def test_clip_learns(clip_parts):
    state, update, maker = clip_parts
    losses = losses_on_one_batch(state, update, maker(1))
    assert min(losses[-3:]) < 0.9 * losses[0]


def test_clip_learns_of_windows_what_it_learns_of_crops(clip_parts):
    """The two kinds of batches differ in their shapes alone."""
    state, update, maker = clip_parts
    after, metrics = jax.eval_shape(update, state, maker(0)(0))
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
    assert metrics.keys() == jax.eval_shape(update, state, maker(1)(0))[1].keys()


def test_clip_is_trained_by_muon():
    """It knows every array of the recipe: a step changes each by one of its shape."""
    config, optimiser = recipe("tiny").CONFIG.clip, recipe("loop").muon(3e-3, STEPS, 0.1)
    params = expected_network(config), {"heads": [jax.ShapeDtypeStruct((3, 5), np.float32)]}
    changes, _ = jax.eval_shape(
        lambda trained: optimiser.update(trained, optimiser.init(trained), trained), params
    )
    assert jax.tree.map(jnp.shape, changes) == jax.tree.map(jnp.shape, params)


def test_the_teacher_learns_and_what_it_teaches_is_of_unit_variance(pool, teacher_run):
    train_clip = recipe("train_clip")
    rows = (teacher_run / "log.csv").read_text().splitlines()
    assert float(rows[-1].split(",")[2]) < 2.0  # the logarithm of ten shapes is 2.3
    images = recipe("pool").load_halved(pool, "crops").images
    teaching = train_clip.Teaching.of(teacher_run, images)
    layers = teaching((images - CLIP_MEAN) / CLIP_STD)
    for layer, deviation in zip(layers, teaching.deviation, strict=True):
        assert layer.shape == (len(images), 7, 7, 128)
        alive = deviation > 0.1  # what never fires has no variance
        assert alive.any()
        np.testing.assert_allclose(np.var(layer, axis=(0, 1, 2))[alive], 1, atol=0.03)


def test_clip_begins_as_a_convolutional_network(clip_config):
    vision, start = clip_config.vision, recipe("clip_start")
    images = np.random.default_rng(0).integers(0, 256, (40, 28, 28, 3), np.uint8)
    visual = start.convolutional(vision, images, 0)
    assert jax.tree.map(np.shape, expected_network(clip_config)["visual"] | visual) == jax.tree.map(
        lambda leaf: leaf.shape, expected_network(clip_config)["visual"]
    )
    # What patches show has unit variance but for a factor, and lies beside the positions.
    patches = start.patches_of(images, vision.patch_size) @ visual["conv1"]["kernel"].reshape(48, -1)
    assert not patches[:, : start.POSITIONS].any()
    assert np.var(patches[:, start.POSITIONS :]) == pytest.approx(0.35**2, rel=0.05)
    # Head 0 looks to the right, head 1 down, and so on, from all patches within the grid.
    position = visual["positional_embedding"][1:]
    attention = visual["transformer"]["resblocks_1"]["attn"]
    where = np.arange(14 * 14).reshape(14, 14)[1:-1, 1:-1].ravel()
    for head, (down, right) in enumerate(start.STEPS):
        query, key = (position @ attention[name]["kernel"][:, head] for name in ("query", "key"))
        assert np.array_equal((query @ key.T).argmax(1)[where], where + 14 * down + right)


def test_the_training_tower_is_the_package_s(clip_config, clip_parts):
    train_clip = recipe("train_clip")
    state, _, maker = clip_parts

    @jax.jit
    def both(params, batch):
        images = jnp.asarray((batch.images - CLIP_MEAN) / CLIP_STD, jnp.float32)
        seen = train_clip.look(clip_config, params, images, batch.corners, batch.parts)
        inputs = CLIP(clip_config).apply(
            {"params": params},
            images,
            batch.parts,
            spatial_layers=train_clip.SPATIAL_LAYERS,
            method="last_block_inputs",
        )
        share = batch.parts / batch.parts.sum((2, 3), keepdims=True)
        main, spatial = (
            jnp.einsum("brhw,bhwc->brc", share, values) for values in (inputs.main, inputs.spatial)
        )
        wanted = CLIP(clip_config).apply(
            {"params": params}, main, spatial, inputs.regions, 1.0, 0.5, method="read_out"
        )
        return seen.parts["sum"], normalise(wanted).reshape(-1, clip_config.embed_dim)

    found, wanted = both(state.params, maker(0)(0))
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_texture_fades_to_the_mean_colour_of_an_instance():
    faded = recipe("teacher").faded
    image = np.array([[[10, 20, 30], [30, 20, 10]], [[200, 0, 0], [100, 0, 0]]], np.uint8)
    instances = np.array([[1, 1], [2, 2]])
    assert faded(image, instances, 0.0).tolist() == [[[20, 20, 20]] * 2, [[150, 0, 0]] * 2]
    assert faded(image, instances, 0.5)[0, 0].tolist() == [15, 20, 25]
    assert np.array_equal(faded(image, instances, 1.0), image)


@pytest.mark.slow
def test_dino_learns(dino_parts):
    losses = losses_on_one_batch(*dino_parts)
    assert min(losses[-3:]) < 0.98 * losses[0]


@pytest.mark.slow
def test_sam2_learns(pool, monkeypatch):
    losses = losses_on_one_batch(*sam2_parts(pool, monkeypatch))
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
    maker = recipe("clip_batches").BatchMaker(pool, clip_config, 2, 2, 1, 0)
    for here, there in zip(loop.batches(maker, 0, 2, 0), loop.batches(maker, 0, 2, 1), strict=True):
        assert all(map(np.array_equal, here, there))


@pytest.mark.parametrize("crop_steps", [0, 1], ids=["windows", "crops"])
def test_a_batch_of_captions_fits_its_parts(pool, clip_config, crop_steps):
    clip_batches = recipe("clip_batches")
    batch = clip_batches.BatchMaker(pool, clip_config, 40, 6, crop_steps, 0)(0)
    count, parts, side = (40, 1, 28) if crop_steps else (6, 4, 56)
    assert batch.images.shape == (count, side, side, 3)
    assert batch.parts.shape == (count, parts, side // 4, side // 4)
    assert batch.parts.any((2, 3)).all()
    assert batch.true.diagonal().all()
    assert ((batch.corners >= 0) & (batch.corners + side // 4 <= 14)).all()
    whole = batch.parts.all((2, 3))
    assert 0 < whole.sum() < whole.size if crop_steps else whole[:, 0].all()
    tags = np.array(clip_batches.TAGS)
    for part, tagged in enumerate(batch.tags):
        assert set(tags[tagged]) & {*SHAPES, *BACKGROUNDS}, part
    # An instance is the thing or the background, not both.
    shapes, backgrounds = np.split(batch.tags[:, : len(SHAPES) + len(BACKGROUNDS)], [len(SHAPES)], axis=1)
    if crop_steps:
        assert not (shapes.any(1) & backgrounds.any(1))[~whole.reshape(-1)].any()


def test_a_caption_that_is_true_elsewhere_is_not_held_against_it():
    contrast = jax.jit(recipe("train_clip").contrast)
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


def test_landed_dino_is_the_package_s_tower_with_centred_features(pool, dino_parts):
    train_dino = recipe("train_dino")
    state, _, _ = dino_parts
    images = recipe("pool").load_halved(pool, "scenes").images[:, :56, :56]

    @jax.jit
    def land(teacher):
        params = train_dino.landed(SMALL_DINO, teacher, images)
        features = DINO(SMALL_DINO).apply({"params": params}, train_dino.normalise_views(images[:, None]))
        return params, features, normalise(features)

    params, features, unit = land(state.teacher)
    shapes = jax.tree.map(np.shape, params)
    assert shapes == jax.tree.map(lambda leaf: leaf.shape, expected_network(SMALL_DINO))
    assert np.abs(np.asarray(features).mean((0, 1, 2))).max() < 1e-5
    assert np.isfinite(unit).all()


def test_the_full_dino_reads_what_the_package_reads(dino_parts):
    train_dino = recipe("train_dino")
    state, _, maker = dino_parts

    @jax.jit
    def both(params, views):
        images = train_dino.normalise_views(views)
        full = train_dino.FullDINO(SMALL_DINO).apply({"params": params}, images)["features"]
        last = params["blocks_1"]
        kept = {name: tree for name, tree in params.items() if "head" not in name and name != "norm"}
        kept["blocks_1"] = {
            "norm1": last["norm1"],
            "attn": {name: last["attn"][name] for name in ("query", "key")},
        }
        return full, DINO(SMALL_DINO).apply({"params": kept}, images)

    full, read = both(state.params, maker(0).large)
    np.testing.assert_allclose(full.reshape(read.shape), read, atol=1e-5)


def test_warm_up_ends_and_the_rate_falls_to_nothing():
    rate = recipe("loop").schedule(1e-3, 100)
    assert float(rate(0)) == 0
    assert float(rate(5)) == pytest.approx(1e-3)
    assert float(rate(100)) == pytest.approx(0, abs=1e-9)


def test_muon_takes_the_matrices_within_blocks_of_pictures_alone():
    as_matrix = recipe("loop")._as_matrix
    params = expected_network(recipe("tiny").CONFIG.clip)
    chosen = {
        "/".join(str(part.key) for part in path): as_matrix(path, leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
    }
    block = "visual/transformer/resblocks_0"
    assert chosen[f"{block}/mlp/c_fc/kernel"] == ((0,), (1,))
    assert chosen[f"{block}/attn/query/kernel"] == ((0,), (1, 2))
    assert chosen[f"{block}/attn/out/kernel"] == ((0, 1), (2,))
    others = [name for name, matrix in chosen.items() if matrix is None]
    assert {"visual/conv1/kernel", "visual/proj/kernel", f"{block}/ln_1/scale"} <= set(others)
    assert all(name in others for name in chosen if name.startswith("text/"))
