"""Each resize equals torch's (or OpenCV's rule, computed pixel by pixel)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from corrclip_jax.ops import resize

SIZES = [
    ((7, 5), (7, 5)),
    ((42, 42), (21, 21)),
    ((21, 24), (42, 42)),
    ((300, 451), (336, 505)),
    ((1, 9), (4, 2)),
]


def torch_resize(x, shape, **settings):
    return F.interpolate(torch.from_numpy(x).permute(2, 0, 1)[None], **settings)[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_nearest_equals_torch(source, target):
    x = np.arange(np.prod(source), dtype=np.float32).reshape(source)
    wanted = torch_resize(x[..., None], target, size=target, mode="nearest")[..., 0]
    np.testing.assert_array_equal(resize.nearest(jnp.asarray(x, jnp.int32), *target), wanted)


@pytest.mark.parametrize("size", [1, 3, 14, 21, 24, 375, 500, 683])
def test_nearest_indices_equal_torch_for_every_target(size):
    axis = torch.arange(size, dtype=torch.float32)[None, None]
    for out in range(1, 64):
        wanted = F.interpolate(axis, size=out, mode="nearest")[0, 0].numpy()
        np.testing.assert_array_equal(resize.nearest_indices(size, out), wanted)


@pytest.mark.parametrize(("source", "target"), SIZES)
def test_bilinear_equals_torch(source, target):
    x = np.random.default_rng(0).standard_normal((*source, 3)).astype(np.float32)
    wanted = torch_resize(x, target, size=target, mode="bilinear", align_corners=False)
    # Where torch's build fuses the multiply-add of a position, its last bit shows on long axes.
    np.testing.assert_allclose(resize.bilinear(jnp.asarray(x), *target), wanted, atol=5e-5)


@pytest.mark.parametrize(("size", "out"), [(1500, 1024), (640, 1024), (33, 8), (8, 33), (1, 5)])
def test_antialias_equals_torch(size, out):
    x = np.random.default_rng(0).random((size, size, 1)).astype(np.float32)
    wanted = torch_resize(
        x, (out, out), size=(out, out), mode="bilinear", align_corners=False, antialias=True
    )
    matrix = resize.antialias_matrix(size, out)
    np.testing.assert_allclose(resize.separable(jnp.asarray(x), matrix, matrix), wanted, atol=2e-6)


@pytest.mark.parametrize(("native", "grid"), [(14, (21, 21)), (28, (42, 21)), (16, (3, 24)), (14, (7, 14))])
def test_bicubic_samples_at_the_given_scale_as_torch_does(native, grid):
    x = np.random.default_rng(0).standard_normal((native, native, 2)).astype(np.float32)
    scales = tuple((size + 0.1) / native for size in grid)
    wanted = torch_resize(x, grid, scale_factor=scales, mode="bicubic", align_corners=False)
    matrices = [resize.bicubic_matrix(native, size, scale) for size, scale in zip(grid, scales, strict=True)]
    np.testing.assert_allclose(resize.separable(jnp.asarray(x), *matrices), wanted, atol=1e-5)


def opencv_linear(image, height, width):
    """OpenCV's documented fixed-point rule for one pixel after the other, with Python integers."""

    def taps(size, out, index):
        position = np.float32((index + 0.5) * (size / out) - 0.5)
        low = int(np.floor(position))
        weight = np.float32(position - np.float32(low))
        pixels = (min(max(low, 0), size - 1), min(max(low + 1, 0), size - 1))
        return pixels, (int(np.rint((np.float32(1) - weight) * 2048)), int(np.rint(weight * 2048)))

    out = np.zeros((height, width, 3), np.uint8)
    for y in range(height):
        (y0, y1), (b0, b1) = taps(image.shape[0], height, y)
        for x in range(width):
            (x0, x1), (a0, a1) = taps(image.shape[1], width, x)
            for c in range(3):
                upper = (int(image[y0, x0, c]) * a0 + int(image[y0, x1, c]) * a1) >> 4
                lower = (int(image[y1, x0, c]) * a0 + int(image[y1, x1, c]) * a1) >> 4
                out[y, x, c] = (((upper * b0) >> 16) + ((lower * b1) >> 16) + 2) >> 2
    return out


@pytest.mark.parametrize(("source", "target"), [((9, 13), (23, 17)), ((23, 17), (9, 13)), ((1, 1), (3, 4))])
def test_photo_resize_is_fixed_point_arithmetic(source, target):
    image = np.random.default_rng(0).integers(0, 256, (*source, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize.photo(jnp.asarray(image), *target), opencv_linear(image, *target))


def test_photo_resize_is_within_one_grey_level_of_float_bilinear():
    image = np.random.default_rng(1).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    exact = np.asarray(resize.bilinear(jnp.asarray(image, jnp.float32), 77, 41))
    assert np.abs(np.asarray(resize.photo(jnp.asarray(image), 77, 41)) - exact).max() <= 1.0


def test_photo_resize_to_its_own_size_changes_nothing():
    image = np.random.default_rng(2).integers(0, 256, (8, 5, 3), dtype=np.uint8)
    np.testing.assert_array_equal(resize.photo(jnp.asarray(image), 8, 5), image)


def test_traced_sizes_give_the_same_numbers_to_the_last_bit():
    rng = np.random.default_rng(0)
    common = [
        (size, out) for size in (333, 375, 480, 500, 640, 4096, 5000) for out in (1, 336, 448, 1024, 2048)
    ]
    pairs = common + list(zip(rng.integers(1, 9000, 300), rng.integers(1, 2049, 300), strict=True))

    @jax.jit
    def traced(size, out):
        index = jnp.arange(2048)
        return (
            resize.nearest_at(index, size, out),
            *resize.linear_taps(index, size, out),
            *resize.photo_taps(index, size, out),
        )

    for size, out in pairs:
        size, out, index = int(size), int(out), np.arange(int(out))
        plain = (
            resize.nearest_indices(size, out),
            *resize.linear_taps(index, size, out),
            *resize.photo_taps(index, size, out),
        )
        for ours, wanted in zip(traced(size, out), plain, strict=True):
            np.testing.assert_array_equal(np.asarray(ours)[:out], wanted)


@pytest.mark.parametrize("size", [333, 640, 4096, 4097, 5677, 8999])
@pytest.mark.parametrize("out", [336, 1009, 2048])
def test_photo_taps_equal_double_precision_rounded_to_float32(size, out):
    position = ((np.arange(out) + 0.5) * (size / out) - 0.5).astype(np.float32)
    low = np.floor(position).astype(int)
    weight = position - low.astype(np.float32)
    pixels = np.random.default_rng(0).integers(0, 256, size)
    values = [pixels[np.clip(low + k, 0, size - 1)] for k in (0, 1)]
    left, right = (np.rint(w * np.float32(2048)).astype(int) for w in (np.float32(1) - weight, weight))
    first, second, *weights = resize.photo_taps(np.arange(out), size, out)
    np.testing.assert_array_equal(
        pixels[first] * weights[0] + pixels[second] * weights[1], values[0] * left + values[1] * right
    )


@pytest.mark.parametrize(("size", "out"), [(1500, 1024), (333, 64), (33, 8), (5, 64)])
def test_traced_antialias_equals_the_static_one(size, out):
    traced = jax.jit(lambda size: resize.antialias_columns(2000, size, out))(size)
    np.testing.assert_allclose(traced[:, :size], resize.antialias_matrix(size, out), atol=1e-7)
    assert not np.asarray(traced[:, size:]).any()


def test_rows_of_an_antialiased_resize_beyond_its_end_are_finite():
    rows = resize.bicubic_antialias_rows(40, 37, jnp.int32(3))
    np.testing.assert_allclose(rows[:3], resize.bicubic_antialias_rows(3, 37, 3), atol=1e-6)
    np.testing.assert_array_equal(rows[3:], np.broadcast_to(rows[2], (37, 37)))
