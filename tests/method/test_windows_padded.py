"""Padded windows: every number, pixel and matrix is that of the photo alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from corrclip_jax.config import MethodConfig, with_fields
from corrclip_jax.method import windows, windows_padded

METHOD = MethodConfig()
SMALL = MethodConfig(resize_short=150, window=112, stride=48, resize_long=900)
# Halves that double precision rounds down (found by comparing), and what surrounds them.
ODD_SIZES = [(645, 480), (480, 645), (644, 480), (1285, 1120), (1290, 960), (2048, 336), (2047, 336), (1, 1)]


cut_image, cut_regions = (
    jax.jit(function, static_argnums=1) for function in (windows.cut_image, windows.cut_regions)
)


def wanted_plan(height, width, method):
    plan = windows.plan_windows(height, width, method)
    return [
        (axis.resized, axis.window, len(axis.starts), axis.before, axis.starts[-1])
        for axis in (plan.y, plan.x)
    ]


@pytest.mark.parametrize("method", [METHOD, with_fields(METHOD, resize_short=448), SMALL])
def test_plans_equal_those_of_each_photo_alone(method):
    rng = np.random.default_rng(0)
    sizes = np.concatenate([rng.integers(1, 2200, (1500, 2)), ODD_SIZES])

    @jax.jit
    def plan(sizes):
        plan = windows_padded.plan_padded(sizes, (2200, 2200), method)
        axes = [
            [axis.resized, axis.window, axis.windows, axis.before, axis.start(axis.windows - 1, method)]
            for axis in (plan.y, plan.x)
        ]
        return jnp.array(axes).transpose(2, 0, 1), plan.fits

    ours, found_fits = plan(sizes)
    np.testing.assert_array_equal(ours, [wanted_plan(*size, method) for size in sizes.tolist()])
    fits = [windows_padded.fits_padded(*size, (2200, 2200), method) for size in sizes.tolist()]
    np.testing.assert_array_equal(found_fits, fits)
    assert 0 < np.mean(fits) < 1


def test_double_precision_is_followed_where_it_misses_a_half():
    assert windows.plan_windows(645, 480, METHOD).y.resized == 451  # 451.5 exactly
    assert [645, 480] not in windows_padded._rounded_otherwise(640, 640, METHOD)[:, 1::-1].tolist()
    assert [645, 480] in windows_padded._rounded_otherwise(700, 700, METHOD)[:, 1::-1].tolist()


@pytest.mark.parametrize(
    ("method", "side", "size"),
    [
        (SMALL, (90, 120), (61, 117)),
        (SMALL, (90, 120), (90, 30)),
        (SMALL, (300, 300), (300, 299)),
        (SMALL, (300, 300), (7, 11)),
        (METHOD, (20, 200), (17, 190)),  # windows of 224 x 336, padded by 33 and 40 pixels
        (with_fields(METHOD, window=300, resize_short=300), (80, 100), (80, 60)),  # padded on both axes
    ],
)
def test_windows_and_stitching_equal_those_of_the_photo_alone(method, side, size):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (2, *side, 3), dtype=np.uint8)
    regions = rng.integers(0, 9, (2, *side)).astype(np.int32)
    sizes = np.array([size, side])
    patch = 16

    @jax.jit
    def cut(sizes):
        plan = windows_padded.plan_padded(sizes, side, method)
        one = jax.tree.map(lambda x: x[0], plan)
        grid = tuple(padded // patch for padded in windows_padded.window_shape(side, method))
        cut = windows_padded.map_windows(
            lambda p, r, *_: jnp.concatenate([p, r[..., None].astype(p.dtype)], -1), *data, plan, method, 2
        )
        return cut, windows_padded.stitch_matrices(one, side, grid, method)

    data = jnp.asarray(image), jnp.asarray(regions)
    found, (rows, columns) = jax.tree.map(np.asarray, cut(sizes))
    height, width = size
    for index, (h, w) in enumerate(sizes):
        plan = windows.plan_windows(int(h), int(w), method)
        pixels = cut_image(image[index, :h, :w], plan)
        ids = cut_regions(regions[index, :h, :w], plan)
        np.testing.assert_array_equal(found[index, : len(pixels), ..., :3], pixels)
        np.testing.assert_array_equal(found[index, : len(pixels), ..., 3], np.asarray(ids, np.float32))

    plan = windows.plan_windows(height, width, method)
    gh, gw = plan.y.padded // patch, plan.x.padded // patch
    ny, nx = len(plan.y.starts), len(plan.x.starts)
    wanted_rows = windows.stitch_matrix(plan.y, gh).reshape(height, ny, gh).repeat(nx, axis=1)
    wanted_columns = np.tile(windows.stitch_matrix(plan.x, gw).reshape(width, nx, gw), (1, ny, 1))
    np.testing.assert_allclose(rows[:height, : ny * nx], wanted_rows, atol=1e-6)
    np.testing.assert_allclose(columns[:width, : ny * nx], wanted_columns, atol=1e-6)
    assert not rows[:, ny * nx :].any()


FEW = [(90, 120), (0, 0), (90, 90), (0, 0), (0, 0), (0, 0)]


@pytest.mark.parametrize(
    ("sizes", "chunk", "calls_wanted"),
    [
        (FEW, 1, [1] * 10),
        (FEW, 8, [4] * 3),
        (FEW, 24, [3] * 4),
        (FEW, 64, [3] * 4),
        ([(90, 120)] * 6, 16, [16, 16, 2, 2]),
    ],
)
def test_no_more_windows_are_computed_than_fill_the_last_chunk(sizes, chunk, calls_wanted):
    method = with_fields(SMALL, max_windows=6)
    calls = []

    def count(pixels, *_):
        jax.debug.callback(lambda: calls.append(len(pixels)))
        return pixels[:, :, 0, 0]

    images = np.random.default_rng(0).integers(0, 256, (6, 90, 120, 3), dtype=np.uint8)

    @jax.jit
    def run(images, regions, sizes):
        plan = windows_padded.plan_padded(sizes, (90, 120), method)
        return windows_padded.map_windows(count, images, regions, plan, method, chunk), plan.windows

    out, found = map(np.asarray, run(images, images[..., 0].astype(np.int32), np.array(sizes)))
    jax.effects_barrier()
    assert calls == calls_wanted
    needed = {(90, 120): 6, (90, 90): 4, (0, 0): 0}
    assert found.tolist() == [needed[size] for size in sizes]
    assert sum(calls_wanted) - sum(needed[size] for size in sizes) < min(calls_wanted)
    for index, (height, width) in enumerate(sizes):
        if height:
            alone = cut_image(images[index, :height, :width], windows.plan_windows(height, width, method))
            np.testing.assert_array_equal(out[index, : len(alone)], alone[:, :, 0, 0])
