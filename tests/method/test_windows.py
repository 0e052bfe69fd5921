"""Window plans follow the published arithmetic; stitching equals doing it window by window."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from corrclip_jax.config import MethodConfig
from corrclip_jax.method import windows

METHOD = MethodConfig()


@pytest.mark.parametrize(
    ("photo", "resized", "starts", "padded"),
    [
        ((336, 336), (336, 336), ((0,), (0,)), (336, 336)),
        ((300, 451), (336, 505), ((0,), (0, 112, 169)), (336, 336)),
        ((451, 300), (505, 336), ((0, 112, 169), (0,)), (336, 336)),
        ((100, 1150), (178, 2048), ((0,), (*range(0, 1680, 112), 1680, 1712)), (224, 336)),
        ((4000, 100), (2048, 51), ((*range(0, 1680, 112), 1680, 1712), (0,)), (336, 56)),
        ((1, 1), (336, 336), ((0,), (0,)), (336, 336)),
        ((10000, 1), (2048, 1), ((*range(0, 1680, 112), 1680, 1712), (0,)), (336, 56)),
    ],
)
def test_plan(photo, resized, starts, padded):
    plan = windows.plan_windows(*photo, METHOD)
    assert (plan.y.resized, plan.x.resized) == resized
    assert (plan.y.starts, plan.x.starts) == starts
    assert (plan.y.padded, plan.x.padded) == padded


@pytest.mark.parametrize("length", range(300, 700, 37))
def test_windows_cover_every_pixel(length):
    plan = windows.plan_windows(length, 336, METHOD)
    covered = {y for start in plan.y.starts for y in range(start, start + plan.y.window)}
    assert covered == set(range(plan.y.resized))


def test_padding_is_zero_pixels_and_a_region_of_its_own():
    plan = windows.plan_windows(50, 500, METHOD)  # 205 x 2048, padded to 224
    photo = np.full((50, 500, 3), 200, np.uint8)
    pixels = windows.cut_image(jnp.asarray(photo), plan)
    regions = windows.cut_regions(jnp.ones((50, 500), jnp.int32), plan)
    assert plan.y.before == 9
    assert plan.y.after == 10
    inside = np.zeros(plan.y.padded, bool)
    inside[9:-10] = True
    assert (np.asarray(pixels)[:, ~inside] == 0).all()
    np.testing.assert_allclose(
        pixels[:, 20, 20], np.tile((200 - windows.CLIP_MEAN) / windows.CLIP_STD, (17, 1))
    )
    assert (np.asarray(regions)[:, ~inside] == windows.PADDING_REGION).all()
    assert (np.asarray(regions)[:, inside] == 1).all()


@pytest.mark.parametrize("photo", [(300, 451), (60, 600), (90, 40)])
def test_stitching_equals_window_by_window(photo):
    plan = windows.plan_windows(*photo, MethodConfig(resize_short=200, window=112, stride=48))
    gh, gw = plan.y.padded // 16, plan.x.padded // 16
    count = len(plan.y.starts), len(plan.x.starts)
    grids = np.random.default_rng(0).standard_normal((*count, gh, gw)).astype(np.float32)

    total = torch.zeros(plan.y.resized, plan.x.resized)
    times = torch.zeros(plan.y.resized, plan.x.resized)
    for i, top in enumerate(plan.y.starts):
        for j, left in enumerate(plan.x.starts):
            up = F.interpolate(
                torch.from_numpy(grids[i, j])[None, None], (plan.y.padded, plan.x.padded), mode="bilinear"
            )[0, 0]
            rows = slice(plan.y.before, plan.y.before + plan.y.window)
            columns = slice(plan.x.before, plan.x.before + plan.x.window)
            place = (slice(top, top + plan.y.window), slice(left, left + plan.x.window))
            total[place] += up[rows, columns]
            times[place] += 1
    wanted = F.interpolate((total / times)[None, None], photo, mode="bilinear")[0, 0]

    side_by_side = grids.transpose(0, 2, 1, 3).reshape(count[0] * gh, count[1] * gw)
    ours = windows.stitch_matrix(plan.y, gh) @ side_by_side @ windows.stitch_matrix(plan.x, gw).T
    np.testing.assert_allclose(ours, wanted.numpy(), atol=2e-6)
