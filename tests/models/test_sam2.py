"""SAM 2's image model: shapes of the published sizes, windows, nested order, prompts, precision, wrong input."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from sam2_models import SMALL, random_params

from corrclip_jax.config import SAM2Config
from corrclip_jax.conversion.tables.sam2 import config_from_shapes
from corrclip_jax.models.layers import window_merge, window_partition
from corrclip_jax.models.sam import hiera
from corrclip_jax.models.sam.mask_decoder import by_quarters, from_quarters
from corrclip_jax.models.sam.sam2 import SAM2, ImageFeatures, preprocess
from corrclip_jax.ops import loops
from corrclip_jax.ops.attention import attention

PUBLISHED = {
    "T": SAM2Config(
        width=96, heads=1, stages=(1, 2, 7, 2), global_blocks=(5, 7, 9), window_sizes=(8, 4, 14, 7)
    ),
    "S": SAM2Config(
        width=96, heads=1, stages=(1, 2, 11, 2), global_blocks=(7, 10, 13), window_sizes=(8, 4, 14, 7)
    ),
    "B+": SAM2Config(
        width=112, heads=2, stages=(2, 3, 16, 3), global_blocks=(12, 16, 20), window_sizes=(8, 4, 14, 7),
        background_size=(14, 14),
    ),
    "L": SAM2Config(),
}  # fmt: skip
# Parameters of the trunk, in millions.
TRUNK_MILLIONS = {"T": 27, "S": 34, "B+": 69, "L": 213}


@pytest.fixture(scope="module")
def params():
    return random_params(SMALL)


IMAGES = np.random.default_rng(1).standard_normal((2, 64, 64, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def features(params):
    return encode(SMALL, params, IMAGES)


def encode(config, params, images, dtype=jnp.float32):
    return apply(config, "encode", params, images, dtype=dtype)


@partial(jax.jit, static_argnums=(0, 1), static_argnames="dtype")
def program(config, method, params, *args, dtype):
    return SAM2(config, dtype).apply({"params": params}, *args, method=method)


def apply(config, method, params, *args, dtype=jnp.float32):
    """A method's results in NumPy, whose operations are not compiled."""
    return jax.device_get(program(config, method, params, *args, dtype=dtype))


def first(features: ImageFeatures) -> ImageFeatures:
    return jax.tree.map(lambda x: x[0], features)


def some_points(count: int) -> tuple[np.ndarray, np.ndarray]:
    points = np.random.default_rng(2).random((count, 1, 2)) * SMALL.image_size
    return points.astype(np.float32), np.ones((count, 1), np.int32)


@pytest.mark.parametrize("name", PUBLISHED)
def test_shapes_of_the_published_sizes(name):
    """Parameters, maps, and masks of prompts, one and three each, in one trace."""
    config = PUBLISHED[name]
    image = jax.ShapeDtypeStruct((2, 1024, 1024, 3), jnp.float32)
    points, labels = jax.ShapeDtypeStruct((5, 1, 2), jnp.float32), jax.ShapeDtypeStruct((5, 1), jnp.int32)

    def whole(model, image, *prompts):
        features = model.encode(image)
        return features, {
            count: model.decode(first(features), *prompts, multimask=count > 1) for count in (1, 3)
        }

    run = partial(SAM2(config).init_with_output, method=whole)
    (features, masks), variables = jax.eval_shape(run, jax.random.key(0), image, points, labels)
    trunk = sum(x.size for x in jax.tree.leaves(variables["params"]["image_encoder"]["trunk"]))
    assert abs(trunk / 1e6 - TRUNK_MILLIONS[name]) < 1
    assert features.embed.shape == (2, 64, 64, 256)
    assert features.high0.shape == (2, 256, 256, 32)
    assert features.high1.shape == (2, 128, 128, 64)
    for count, (logits, iou) in masks.items():
        assert logits.shape == (5, count, 256, 256)
        assert iou.shape == (5, count)


def original_shapes(config: SAM2Config) -> dict[str, tuple[int, ...]]:
    """Those shapes of a published `.pt` that show its size."""
    trunk, decoder = "image_encoder.trunk", "sam_mask_decoder.transformer.layers"
    shapes = {
        f"{trunk}.pos_embed": (1, config.width, *config.background_size),
        "image_encoder.neck.convs.0.conv.weight": (config.embed_dim, 8 * config.width, 1, 1),
        "sam_prompt_encoder.mask_downscaling.3.weight": (config.mask_channels, 4, 2, 2),
        f"{decoder}.0.mlp.layers.0.weight": (config.decoder_mlp_width, config.embed_dim),
    }
    widths = [config.width << stage for stage, blocks in enumerate(config.stages) for _ in range(blocks)]
    for i, width in enumerate(widths):
        shapes[f"{trunk}.blocks.{i}.norm1.weight"] = (width,)
        shapes[f"{trunk}.blocks.{i}.attn.proj.weight"] = (width, width)
    return shapes | {f"{decoder}.{i}.norm1.weight": (config.embed_dim,) for i in range(config.decoder_layers)}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_are_known_by_their_shapes(name):
    assert config_from_shapes(original_shapes(PUBLISHED[name]), "original", {}) == PUBLISHED[name]


def test_unknown_sizes_are_refused():
    with pytest.raises(ValueError, match=r"width 8 and blocks \(1, 1, 2, 1\).*Published are T: width 96"):
        config_from_shapes(original_shapes(SMALL), "original", {})


def test_a_config_json_that_asks_for_more_is_refused():
    backbone = {
        "num_attention_heads_per_stage": [1, 3, 4, 8],
        "window_size_per_stage": [8, 4, 6, 3],
        "global_attention_blocks": [3],
        "query_stride": [4, 4],
    }
    published = {"vision_config": {"backbone_config": backbone}}
    with pytest.raises(ValueError, match=r"query_stride \[4, 4\] \(here \[2, 2\]\), num_attention_heads"):
        config_from_shapes(original_shapes(SMALL), "original", published)


@pytest.mark.parametrize(("height", "width", "window"), [(8, 8, 4), (7, 10, 4), (3, 5, 8), (9, 6, 3)])
def test_windows_are_cut_and_merged(height, width, window):
    x = np.random.default_rng(0).standard_normal((2, height, width, 3)).astype(np.float32)
    windows = np.asarray(window_partition(jnp.asarray(x), window))
    rows, columns = -(-height // window), -(-width // window)
    assert windows.shape == (2 * rows * columns, window, window, 3)
    np.testing.assert_array_equal(window_merge(jnp.asarray(windows), height, width), x)
    np.testing.assert_array_equal(
        windows[0, : min(height, window), : min(width, window)], x[0, :window, :window]
    )
    assert np.abs(windows).sum() == pytest.approx(np.abs(x).sum(), rel=1e-6)  # padding is 0


@pytest.mark.parametrize("masked", [False, True])
def test_attention_over_a_whole_map_goes_in_blocks_of_rows(masked):
    tokens = 2100  # more than one block, and no multiple of it
    q, k, v = (
        jnp.asarray(np.random.default_rng(i).standard_normal((1, tokens, 2, 4)), jnp.float32)
        for i in range(3)
    )
    mask = np.random.default_rng(3).random((1, tokens, tokens)) < 0.5 if masked else None
    logits = np.einsum("bthd,bshd->bhts", q, k) / 2
    weights = np.exp(logits) if mask is None else np.exp(logits) * mask[:, None]
    wanted = np.einsum("bhts,bshd->bthd", weights / weights.sum(-1, keepdims=True), v)
    np.testing.assert_allclose(jax.jit(attention)(q, k, v, mask), wanted, atol=2e-6)


def test_the_order_by_quarters_is_undone():
    x = jnp.arange(3 * 12 * 12, dtype=jnp.float32).reshape(3, 12, 12)
    quarters = by_quarters(jnp.moveaxis(x, 0, -1), 3)
    np.testing.assert_array_equal(from_quarters(quarters, 3), x)
    np.testing.assert_array_equal(quarters[0, 0, 0, :3], x[0, 0, ::4])
    np.testing.assert_array_equal(quarters[0, 1, 0, :3], x[0, 0, 1::4])
    np.testing.assert_array_equal(quarters[0, 0, 1, :3], x[0, 0, 2::4])


def test_images_of_a_batch_do_not_see_each_other(params, features):
    """In the other place, beside another image: single ones are the torch model's in `tests/parity`."""
    turned = encode(SMALL, params, np.stack([np.zeros_like(IMAGES[0]), IMAGES[0]]))
    for got, wanted in zip(turned, features, strict=True):
        np.testing.assert_allclose(got[1], wanted[0], atol=1e-5 * np.abs(wanted).max())


def test_prompts_do_not_see_each_other(params, features):
    points, labels = some_points(3)
    together, turned = (
        apply(SMALL, "decode", params, first(features), points[rows], labels[rows])
        for rows in ([0, 1], [2, 0])
    )
    for got, wanted in zip(turned, together, strict=True):
        np.testing.assert_allclose(got[1], wanted[0], atol=1e-5 * np.abs(wanted).max())


def test_a_prepared_image_gives_the_same_masks(params, features):
    points, labels = some_points(2)
    context = apply(SMALL, "prepare", params, first(features))
    for got, wanted in zip(
        apply(SMALL, "decode", params, context, points, labels),
        apply(SMALL, "decode", params, first(features), points, labels),
        strict=True,
    ):
        np.testing.assert_allclose(got, wanted, atol=1e-5 * np.abs(wanted).max())


def test_a_box_is_its_two_corners_as_points(params, features):
    boxes = np.float32([[4, 7, 30, 50], [0, 0, 63, 20]])
    none = np.zeros((2, 0, 2), np.float32), np.zeros((2, 0), np.int32)
    as_box = apply(SMALL, "decode", params, first(features), *none, boxes)
    corners = boxes.reshape(2, 2, 2), np.tile(np.int32([2, 3]), (2, 1))
    as_points = apply(SMALL, "decode", params, first(features), *corners)
    np.testing.assert_allclose(as_box[0], as_points[0], atol=1e-5 * np.abs(as_points[0]).max())


def test_every_mask_prompt_is_its_own(params, features):
    points, labels = some_points(3)
    masks = np.random.default_rng(5).standard_normal((3, 16, 16)).astype(np.float32)
    both, turned = (
        apply(SMALL, "decode", params, first(features), points[rows], labels[rows], None, masks[rows])[0]
        for rows in ([0, 1], [1, 2])
    )
    np.testing.assert_allclose(turned[0], both[1], atol=1e-5 * np.abs(both).max())
    assert np.abs(both[1] - both[0]).max() > 1e-2 * np.abs(both).max()


def test_bfloat16_stays_near_float32(params, features):
    half = encode(SMALL, params, IMAGES, jnp.bfloat16)
    for got, wanted in zip(half, features, strict=True):
        assert got.dtype == jnp.bfloat16
        assert np.abs(got.astype(np.float32) - wanted).max() < 0.06 * np.abs(wanted).max()
    points, labels = some_points(2)
    logits, iou = apply(SMALL, "decode", params, first(half), points, labels, dtype=jnp.bfloat16)
    wanted = apply(SMALL, "decode", params, first(features), points, labels)
    assert logits.dtype == iou.dtype == np.float32
    assert np.abs(logits - wanted[0]).mean() < 0.06 * np.abs(wanted[0]).max()


def test_bfloat16_projects_finer_maps_once_as_neck_and_decoder_do(params):
    neck, decoder = params["image_encoder"]["neck"], params["sam_mask_decoder"]
    projections = SAM2(SMALL).apply({"params": params}, method="_fine_projections")
    assert len(projections) == 2
    for level, project in enumerate(projections):
        first, second = neck[f"convs_{3 - level}"], decoder[f"conv_s{level}"]
        shape = (3, 4, 4, first["kernel"].shape[2])
        x = np.random.default_rng(level).standard_normal(shape).astype(np.float32)
        middle = x @ np.asarray(first["kernel"][0, 0]) + np.asarray(first["bias"])
        expected = middle @ np.asarray(second["kernel"][0, 0]) + np.asarray(second["bias"])
        np.testing.assert_allclose(project(jnp.asarray(x)), expected, atol=1e-5 * np.abs(expected).max())


def test_tpus_embed_patches_by_products_as_the_convolution():
    rng = np.random.default_rng(2)
    images = rng.standard_normal((2, 32, 32, 3)).astype(np.float32)
    params = {
        "kernel": rng.standard_normal((7, 7, 3, 8)).astype(np.float32) / 12,
        "bias": rng.standard_normal(8).astype(np.float32),
    }
    convolution = hiera.Conv(8, (7, 7), (4, 4), padding=3)
    expected = np.asarray(convolution.apply({"params": params}, images))
    products = np.asarray(jax.jit(hiera._embed_by_products)(params, images), np.float32)
    np.testing.assert_allclose(products, expected, atol=0.05)


def on_tpus(*args, default, tpu=None, **others):
    """`jax.lax.platform_dependent`, as if programs were lowered for TPUs."""
    return (tpu or default)(*args)


def test_tpus_take_the_finest_maps_in_parts_with_the_same_results(params, monkeypatch):
    """One chunk of windows after the other: both images' first block and, where it pools, the next one."""
    trunk = params["image_encoder"]["trunk"]
    plans = list(hiera.block_plans(SMALL))

    def maps(dtype):
        return jax.jit(lambda images: hiera.Hiera(SMALL, dtype).apply({"params": trunk}, images))(IMAGES)

    whole, exact = maps(jnp.bfloat16), maps(jnp.float32)
    chunks = []

    def map_chunks(function, batch, size):
        chunks.append(-(-len(batch[0]) // size))
        return loops.map_chunks(function, batch, size)

    monkeypatch.setattr(hiera, "map_chunks", map_chunks)
    monkeypatch.setattr(hiera, "_CELLS_ON_TPUS", 5 * plans[0].window ** 2)
    monkeypatch.setattr(
        jax.lax, "platform_dependent", lambda *args, default, tpu=None, **_: (tpu or default)(*args)
    )
    parts = maps(jnp.bfloat16)
    assert chunks and chunks[0] > 1
    for in_parts, together, one in zip(parts, whole, exact, strict=True):
        one = np.asarray(one)
        errors = [np.abs(np.asarray(x, np.float32) - one).max() for x in (in_parts, together)]
        assert errors[0] <= max(2 * errors[1], 0.02 * np.abs(one).max())


def test_images_of_another_size_are_refused(params):
    with pytest.raises(ValueError, match=r"\(batch, 64, 64, 3\). Got \(1, 32, 32, 3\)"):
        SAM2(SMALL).apply({"params": params}, jnp.zeros((1, 32, 32, 3)), method="encode")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": (1, 2, 3)}, "four entries each"),
        ({"window_sizes": (8, 5, 14, 7)}, r"must be even there. Got \(8, 5, 14, 7\)"),
        ({"image_size": 1000}, "multiple of 32 and of four times.*32. Got 1000"),
    ],
)
def test_impossible_configurations_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SAM2Config(), **change)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (400, 10), (90, 133), (64, 64)])
def test_preprocessing_is_torchs_antialiased_resize(height, width):
    images = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), dtype=np.uint8)
    pixels = torch.tensor(images).permute(0, 3, 1, 2) / 255
    resized = torch.nn.functional.interpolate(pixels, (64, 64), mode="bilinear", antialias=True)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    wanted = (resized.permute(0, 2, 3, 1) - mean) / std
    np.testing.assert_allclose(preprocess(jnp.asarray(images), 64), wanted, atol=5e-6)
