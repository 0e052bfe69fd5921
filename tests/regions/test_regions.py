"""Regions from mask logits against a plain NumPy version of the method, and the whole step inside jit."""

import dataclasses
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sam2_models import SMALL, random_params

from corrclip_jax.config import Config, RegionConfig
from corrclip_jax.ops import resize
from corrclip_jax.ops.cudnn_attention import EXPORT_CHECKS
from corrclip_jax.regions import masks
from corrclip_jax.regions.masks import mask_facts, point_grid, suppress
from corrclip_jax.regions.sam_points import automatic_regions, regions_from_logits

# Random weights are sure of nothing: thresholds under which several of the nine masks stay.
CONFIG = Config(
    sam2=SMALL,
    regions=RegionConfig(points_per_side=3, points_per_chunk=3, stability_offset=0.05, nms_threshold=1.0),
)


def ellipses(count: int, side: int = 32, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Mask logits [count, side, side] of soft ellipses, and predicted IoUs, some of them equal."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(*[(np.arange(side) + 0.5) / side] * 2)
    cx, cy, sx, sy = (rng.uniform(low, high, (count, 1, 1)) for low, high in [(0, 1)] * 2 + [(0.05, 0.5)] * 2)
    amplitude = rng.uniform(1, 25, (count, 1, 1))
    logits = amplitude * (np.exp(-(((x - cx) / sx) ** 2) - ((y - cy) / sy) ** 2) - 0.5)
    return logits.astype(np.float32), rng.choice(np.linspace(0.2, 1, 9), count).astype(np.float32)


def by_the_book(logits, iou, height, width, config):
    """The method, one mask at a time: kept indices in the order of painting, and the region map."""
    rows = resize.bilinear_matrix(logits.shape[1], height)
    columns = resize.bilinear_matrix(logits.shape[2], width)
    full = np.stack([rows @ mask @ columns.T for mask in logits])
    boxes, areas, candidates = [], [], []
    for i, mask in enumerate(full):
        inner, outer = (mask > config.stability_offset).sum(), (mask > -config.stability_offset).sum()
        stable = outer > 0 and inner / outer >= config.stability_threshold
        y, x = np.nonzero(mask > 0)
        boxes.append([x.min(), y.min(), x.max(), y.max()] if len(x) else [0, 0, 0, 0])
        areas.append(len(x))
        if iou[i] > np.float32(config.iou_threshold) and stable:
            candidates.append(i)
    kept = greedy(np.array(boxes), sorted(candidates, key=lambda i: -iou[i]), config.nms_threshold)
    kept.sort(key=lambda i: areas[i])
    painted = np.zeros((height, width), int)
    for rank, i in enumerate(kept, start=1):
        painted[full[i] > 0] = rank
    return kept, painted


def greedy(boxes: np.ndarray, order: list[int], threshold: float) -> list[int]:
    kept: list[int] = []
    for i in order:
        if not any(overlap(boxes[i], boxes[j]) > np.float32(threshold) for j in kept):
            kept.append(i)
    return kept


def overlap(a: np.ndarray, b: np.ndarray) -> np.float32:
    sides = np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0)
    union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - np.prod(sides)
    return np.float32(np.prod(sides)) / np.float32(union) if union else np.float32(0)


def run(logits, iou, height, width, config):
    function = partial(regions_from_logits, height=height, width=width, config=config)
    return np.asarray(jax.jit(function)(jnp.asarray(logits), jnp.asarray(iou)))


def facts_of(logits, iou, height, width, config):
    function = partial(mask_facts, height=height, width=width, config=config)
    return jax.tree.map(np.asarray, jax.jit(function)(jnp.asarray(logits), jnp.asarray(iou)))


def test_point_grid():
    np.testing.assert_array_equal(
        point_grid(2, 1024), np.array([[256, 256], [768, 256], [256, 768], [768, 768]], np.float32)
    )
    assert point_grid(32, 1024).shape == (1024, 2)


@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (4000, 100), (40, 57), (100, 31)], ids=["1x1", "4000x100", "wide", "tall"]
)
def test_regions_equal_the_method_by_the_book(height, width):
    config = RegionConfig()
    logits, iou = ellipses(40)
    kept, wanted = by_the_book(logits, iou, height, width, config)
    assert height * width == 1 or 5 < len(kept) < 40
    facts = facts_of(logits, iou, height, width, config)
    assert np.flatnonzero(facts.keep).tolist() == sorted(kept)
    np.testing.assert_array_equal(facts.rank[kept], np.arange(1, len(kept) + 1))
    assert not facts.rank[~facts.keep].any()
    got = run(logits, iou, height, width, config)
    assert (got == wanted).mean() > 0.9999


def test_the_number_of_masks_at_once_does_not_change_the_regions(monkeypatch):
    logits, iou = ellipses(23, seed=3)
    wanted = run(logits, iou, 40, 50, RegionConfig())
    assert wanted.max() > 5
    for pixels in (1, 7 * 40 * 50, 10**9):  # one mask at a time, seven, all
        monkeypatch.setattr(masks, "PIXELS_PER_CHUNK", pixels)
        np.testing.assert_array_equal(run(logits, iou, 40, 50, RegionConfig()), wanted)


def test_masks_go_in_even_parts():
    assert masks.masks_at_once(375, 500, 64) == 32  # 44 would leave a part of 20
    assert masks.masks_at_once(375, 500, 61) == 44  # a prime number has no even parts
    assert masks.masks_at_once(9000, 9000, 64) == 1


def disc(radius: float, x: float = 0.5, side: int = 32) -> np.ndarray:
    u, v = np.meshgrid(*[(np.arange(side) + 0.5) / side] * 2)
    return np.float32(50) * np.float32(radius**2 - (u - x) ** 2 - (v - 0.5) ** 2) / np.float32(radius**2)


def test_no_mask_kept_leaves_nothing():
    logits, _ = ellipses(9)
    assert not run(
        logits, np.full(9, 0.4, np.float32), 30, 20, RegionConfig()
    ).any()  # 0.4 does not exceed 0.4


def test_one_mask_kept():
    logits, _ = ellipses(9)
    iou = np.zeros(9, np.float32)
    iou[4] = 0.9
    got = run(logits, iou, 64, 64, RegionConfig())
    assert set(np.unique(got)) == {0, 1}
    assert got.sum() == facts_of(logits, iou, 64, 64, RegionConfig()).areas[4]


def test_all_masks_kept_and_the_largest_painted_last():
    logits = np.stack([disc(0.45), disc(0.1), disc(0.3), disc(0.2)])
    iou = np.array([0.9, 0.6, 0.7, 0.8], np.float32)
    assert facts_of(logits, iou, 64, 64, RegionConfig()).rank.tolist() == [4, 1, 3, 2]
    got = run(logits, iou, 64, 64, RegionConfig())
    assert set(np.unique(got)) == {0, 4}  # the largest covers the others


def test_equal_areas_are_painted_by_predicted_iou():
    logits = np.stack([disc(0.15, 0.25), disc(0.15, 0.75)])
    for iou, wanted in (([0.6, 0.9], [2, 1]), ([0.9, 0.6], [1, 2]), ([0.7, 0.7], [1, 2])):
        assert facts_of(logits, np.array(iou, np.float32), 64, 64, RegionConfig()).rank.tolist() == wanted


def test_duplicates_go_to_the_higher_predicted_iou():
    logits = np.stack([disc(0.30), disc(0.31), disc(0.30)])
    facts = facts_of(logits, np.array([0.7, 0.9, 0.8], np.float32), 64, 64, RegionConfig())
    assert facts.keep.tolist() == [False, True, False]


def test_empty_and_unstable_masks_are_dropped():
    wavering = np.where(disc(0.3) > 0, 0.5, -0.5).astype(np.float32)
    logits = np.stack(
        [np.full((32, 32), -9, np.float32), np.full((32, 32), -0.5, np.float32), wavering, disc(0.3)]
    )
    facts = facts_of(logits, np.full(4, 0.9, np.float32), 64, 64, RegionConfig())
    assert facts.keep.tolist() == [False, False, False, True]
    assert facts.boxes[:2].tolist() == [[0, 0, 0, 0]] * 2
    assert facts.areas[:2].tolist() == [0, 0]
    assert facts.stability[:3].tolist() == [0, 0, 0]
    assert np.isfinite(facts.stability).all()


def test_boxes_hold_both_ends():
    logits = np.full((1, 8, 8), -5, np.float32)
    logits[0, 2:4, 3:7] = 5
    facts = facts_of(logits, np.ones(1, np.float32), 8, 8, RegionConfig())
    assert facts.boxes.tolist() == [[3, 2, 6, 3]]
    assert facts.areas.tolist() == [8]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [3, 12])
def test_suppression_is_greedy(seed, size):
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.integers(0, size, (60, 2, 2)), axis=1)  # many without area, many alike
    boxes, candidates = corners.reshape(60, 4), rng.random(60) < 0.8
    got = jax.jit(partial(suppress, threshold=0.3))(jnp.asarray(boxes), jnp.asarray(candidates))
    assert np.flatnonzero(got).tolist() == greedy(boxes, np.flatnonzero(candidates).tolist(), 0.3)


def test_a_box_dropped_by_a_dropped_box_stays():
    # Each overlaps the next by 5/15; the second is dropped and so cannot drop the third.
    boxes = np.int32([[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10]])
    got = jax.jit(partial(suppress, threshold=0.3))(boxes, np.ones(3, bool))
    assert got.tolist() == [True, False, True]


@pytest.fixture(scope="module")
def params():
    return random_params(SMALL)


@pytest.fixture
def images():
    return jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 48, 33, 3), dtype=np.uint8))


def test_automatic_regions_of_a_batch_equal_single_photos(params, images):
    run = jax.jit(partial(automatic_regions, CONFIG))
    got = np.asarray(run(params, images))
    assert got.shape == (2, 48, 33)
    assert got.dtype == np.int32
    assert len(np.unique(got)) > 3
    for i in range(2):
        assert (np.asarray(run(params, images[i : i + 1]))[0] == got[i]).mean() > 0.999


def test_automatic_regions_lower_for_every_platform_without_callbacks(params, images):
    """In bfloat16; `test_sources` has float32."""
    config = dataclasses.replace(CONFIG, dtype="bfloat16")
    exported = jax.export.export(
        jax.jit(partial(automatic_regions, config)),
        platforms=("cpu", "cuda", "tpu"),
        disabled_checks=EXPORT_CHECKS,
    )(params, images)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert not re.search(r"custom_call @\w*callback", exported.mlir_module())


def test_without_a_sam2_there_are_no_automatic_regions(params, images):
    with pytest.raises(ValueError, match=r"config.sam2 is None: give region maps"):
        automatic_regions(dataclasses.replace(CONFIG, sam2=None), params, images)
