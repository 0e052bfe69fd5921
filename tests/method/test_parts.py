"""The parts of the method that the configuration switches: each alone, and all of them off, which is plain CLIP."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as F
from parity.pairs import CLIPSize, DINOSize, Pair, assert_close, make_pair
from parity.region_maps import KINDS, photo_like
from reference.towers import clip_tokens
from reference.window import clip_blocks, semantic_map

from corrclip_jax.config import Config, PartsConfig, with_fields
from corrclip_jax.method.branches import WindowStages, clip_features, window_step
from corrclip_jax.method.correlation import normalise, scope_mask
from corrclip_jax.method.segment import make_segment
from corrclip_jax.ops import resize

SIDE, CAP = 112, 32
ALL_OFF = {field.name: False for field in dataclasses.fields(PartsConfig)}
PIXELS = photo_like(SIDE, SIDE, seed=3)
REGIONS = KINDS["holes"](SIDE, SIDE)


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> Pair:
    return make_pair(CLIPSize(layers=5), DINOSize(layers=2), tmp_path_factory.mktemp("pair"))


window_program = jax.jit(window_step, static_argnums=(0, 4))


def stages(pair: Pair, config: Config) -> WindowStages:
    found = window_program(config, pair.params, jnp.asarray(PIXELS[None]), as_ids(REGIONS), CAP)
    return jax.tree.map(lambda x: np.asarray(x)[0], found)


def as_ids(regions: np.ndarray) -> jax.Array:
    return jnp.asarray(regions[None], jnp.int32)


@pytest.fixture(scope="module")
def whole(pair) -> WindowStages:
    return stages(pair, pair.config)


def without(pair: Pair, *parts: str) -> WindowStages:
    return stages(pair, with_fields(pair.config, parts=dict.fromkeys(parts, False)))


def assert_same(got, wanted) -> None:
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def differs(got: np.ndarray, whole: np.ndarray) -> bool:
    return bool(np.abs(got - whole).max() > 1e-2 * np.abs(whole).max())


def test_without_merging_regions_stay_as_they_came(pair, whole):
    got = without(pair, "merging")
    cells = np.asarray(resize.nearest(jnp.asarray(REGIONS), *got.regions.shape))
    np.testing.assert_array_equal(got.regions, np.unique(cells, return_inverse=True)[1].reshape(cells.shape))
    assert len(np.unique(whole.regions)) < len(np.unique(got.regions))
    assert_same(got.similarity_features, whole.similarity_features)
    # All else is as in a method to which no two regions are alike.
    unlike = stages(pair, with_fields(pair.config, method={"merge_distance": -1.0}))
    assert_same(got.attention, unlike.attention)
    assert_same(got.features, unlike.features)
    assert differs(got.features, whole.features)


def test_without_scope_every_cell_sees_every_cell(pair, whole):
    got = without(pair, "scope")
    features = got.similarity_features.reshape(-1, got.similarity_features.shape[-1])
    weights = np.exp(pair.config.method.similarity_scale * features @ features.T)
    assert_close("attention", got.attention, weights / weights.sum(1, keepdims=True))
    assert (whole.attention == 0).any()
    assert_same(got.similarity_features, whole.similarity_features)
    np.testing.assert_array_equal(got.regions, whole.regions)
    # The branches read this attention as they would any other.
    pixels, dino, regions, attention = (
        jnp.asarray(x[None]) for x in (PIXELS, whole.similarity_features, whole.regions, got.attention)
    )
    read = jax.jit(clip_features, static_argnums=(0, 6))
    wanted = read(pair.config, pair.params["clip"], pixels, dino, regions, attention, CAP)[0]
    assert_same(got.features, np.asarray(wanted))
    assert differs(got.features, whole.features)


@torch.no_grad()
def test_without_value_the_last_block_keeps_its_own_attention_within_the_scope(pair, whole):
    got = without(pair, "value")
    assert got.attention is None
    assert_same(got.similarity_features, whole.similarity_features)
    np.testing.assert_array_equal(got.regions, whole.regions)

    regions = torch.from_numpy(got.regions.astype(np.int64))
    outputs, token_regions, ids = clip_blocks(pair.clip, torch.from_numpy(PIXELS).permute(2, 0, 1), regions)
    th, tw = token_regions.shape
    on_patches = normalise(resize.bilinear(jnp.asarray(got.similarity_features), th, tw)).reshape(th * tw, -1)
    scope = scope_mask(on_patches, jnp.asarray(token_regions.flatten().numpy()))
    allowed = torch.from_numpy(np.pad(np.asarray(scope), ((1, 0), (1, 0)), constant_values=True))
    # Of five blocks the last but one is read, and the one middle block that the spatial branch averages.
    main, spatial = (
        own_attention(pair, x[: len(allowed)], allowed, got.regions.shape) for x in (outputs[3], outputs[2])
    )
    semantic = semantic_map(outputs[-1][1 + th * tw :], ids, token_regions, *got.regions.shape)
    norm = pair.clip.vision_model.post_layernorm
    mixed = norm(main) + norm(spatial) + 0.5 * norm(semantic.flatten(0, 1))
    assert_close("features", got.features, pair.clip.visual_projection(mixed))
    assert differs(got.features, whole.features)


def own_attention(pair: Pair, tokens: torch.Tensor, allowed: torch.Tensor | None, grid) -> torch.Tensor:
    """What transformers' last block attends to, its output projection included, on the grid: [cells, width]."""
    last = pair.clip.vision_model.encoder.layers[-1]
    mask = None
    if allowed is not None:
        mask = torch.zeros(allowed.shape).masked_fill(~allowed, -torch.inf)[None, None]
    read = last.self_attn(last.layer_norm1(tokens[None]), attention_mask=mask)[0][0, 1:]
    side = round(len(read) ** 0.5)
    out = F.interpolate(read.T.reshape(1, -1, side, side), size=tuple(grid), mode="bilinear")
    return out[0].flatten(1).T


@pytest.mark.parametrize(("part", "weight"), [("spatial", "spatial_weight"), ("semantic", "semantic_weight")])
def test_without_a_branch_its_weight_is_nothing(pair, whole, part, weight):
    got = without(pair, part)
    assert_same(got.features, stages(pair, with_fields(pair.config, method={weight: 0.0})).features)
    np.testing.assert_array_equal(got.regions, whole.regions)
    np.testing.assert_array_equal(got.attention, whole.attention)
    assert differs(got.features, whole.features)


# --- all off ---


@pytest.mark.parametrize("dino_patch", [16, 8], ids=["one grid", "a finer grid"])
@torch.no_grad()
def test_with_all_parts_off_it_is_plain_clip(tmp_path, dino_patch):
    pair = make_pair(CLIPSize(layers=5), DINOSize(layers=2, patch_size=dino_patch), tmp_path)
    got = stages(pair, with_fields(pair.config, parts=ALL_OFF))
    tokens, _, _ = clip_tokens(pair.clip, torch.from_numpy(PIXELS).permute(2, 0, 1))
    for layer in pair.clip.vision_model.encoder.layers[:-1]:
        tokens = layer(tokens[None], attention_mask=None)[0]
    read = own_attention(pair, tokens, None, got.regions.shape)
    wanted = pair.clip.visual_projection(pair.clip.vision_model.post_layernorm(read))
    assert_close("features", got.features, wanted)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.clip(120 + 50 * photo_like(120, 90, seed=4), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def queries(whole) -> np.ndarray:
    """Queries that tell cells apart: what some cells have that the mean cell has not."""
    cells = whole.features / np.linalg.norm(whole.features, axis=1, keepdims=True)
    chosen = (cells - cells.mean(0))[::31]
    return chosen / np.linalg.norm(chosen, axis=1, keepdims=True)


def run(pair: Pair, parts: dict[str, bool], photo: np.ndarray, regions: np.ndarray, queries: np.ndarray):
    method = {"resize_short": SIDE, "window": SIDE, "stride": 56, "max_regions": 30}
    segment = jax.jit(make_segment(with_fields(pair.config, parts=parts, method=method)))
    found = segment(pair.params, jnp.asarray(photo[None]), jnp.asarray(queries), regions=as_ids(regions))
    return jax.tree.map(lambda x: np.asarray(x[0]), found)


def test_plain_clip_reads_neither_dino_nor_regions(pair, photo, queries):
    ordinary = run(pair, ALL_OFF, photo, KINDS["none"](120, 90), queries)
    broken = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), pair.params["dino"])
    blind = dataclasses.replace(pair, params=pair.params | {"dino": broken})
    other = run(blind, ALL_OFF, photo, KINDS["full"](120, 90), queries)
    np.testing.assert_array_equal(other.labels, ordinary.labels)
    np.testing.assert_array_equal(other.scores, ordinary.scores)
    assert np.ptp(ordinary.scores) > 1e-4


def test_without_correction_regions_have_no_vote(pair, photo, queries):
    regions = KINDS["holes"](120, 90)
    before, after = (run(pair, {"correction": on}, photo, regions, queries) for on in (False, True))
    np.testing.assert_array_equal(before.scores, after.scores)
    voted = before.labels.copy()
    for region in np.unique(regions)[1:]:
        voted[regions == region] = np.bincount(before.labels[regions == region]).argmax()
    np.testing.assert_array_equal(after.labels, voted)
    assert (before.labels != after.labels).any()


def test_the_reference_is_of_the_whole_method(pair, whole):
    """What the switches are measured against is what the parity tests compare."""
    theirs = reference.window_features(
        pair.clip, pair.dino, torch.from_numpy(PIXELS).permute(2, 0, 1), torch.from_numpy(REGIONS)
    )
    wanted = theirs["features"].flatten(0, 1).numpy()
    assert np.median(np.abs(whole.features - wanted).max(1)) <= 1e-4 * np.abs(wanted).max()
