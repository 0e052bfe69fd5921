"""From mask logits to regions, against the authors' program."""

import jax
import numpy as np
import pytest
from tests_shared import GOLDENS

from corrclip_jax.config import RegionConfig
from corrclip_jax.regions.masks import mask_facts
from corrclip_jax.regions.sam_points import regions_from_logits


@pytest.fixture(params=sorted(GOLDENS.glob("amg_*.npz")), ids=lambda file: file.stem)
def golden(request):
    return np.load(request.param)


def mask_logits(golden) -> np.ndarray:
    centres = ((np.arange(256) + 0.5) / 256).astype(np.float32)
    x, y = np.meshgrid(centres, centres)
    cx, cy, sx, sy, amp = (golden[name][:, None, None] for name in ("cx", "cy", "sx", "sy", "amp"))
    return (amp * (np.exp(-(((x - cx) / sx) ** 2) - ((y - cy) / sy) ** 2) - np.float32(0.5))).astype(
        np.float32
    )


def test_regions_and_kept_areas(golden):
    height, width = golden["regions"].shape
    config = RegionConfig(
        points_per_side=int(golden["points_per_side"]),
        iou_threshold=float(golden["pred_iou_thresh"]),
        stability_threshold=float(golden["stability_score_thresh"]),
    )

    @jax.jit
    def find(logits, iou):
        options = logits, iou, height, width, config
        return mask_facts(*options), regions_from_logits(*options)

    facts, got = jax.tree.map(np.asarray, find(mask_logits(golden), golden["iou"]))
    assert (got == golden["regions"]).mean() > 0.9999
    areas = np.sort(facts.areas[facts.keep])
    assert areas.shape == golden["areas"].shape
    assert (np.abs(areas - np.sort(golden["areas"])) <= 2).all()
