"""SAM 2 Hiera-T at full size against the published program's outputs."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_models import seeded
from tests_shared import GOLDENS

from corrclip_jax.conversion.families import convert_state_dict
from corrclip_jax.conversion.tables.sam2 import config_from_shapes
from corrclip_jax.models.sam.sam2 import SAM2, preprocess

MAPS = 1e-5  # of the largest magnitude
# With these weights the decoder magnifies rounding: the golden logits themselves are 2e-4 from float64's.
MASKS = 1e-3

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDENS / "sam2_t.npz")


@pytest.fixture(scope="module")
def model():
    shapes = json.loads((GOLDENS / "sam2_t_keys.json").read_text())
    config = config_from_shapes({name: tuple(shape) for name, shape in shapes.items()}, "original", {})
    params = convert_state_dict("sam2", seeded().state_dict(shapes, "corrclip/sam2"), config)
    return SAM2(config), jax.tree.map(jnp.asarray, params)


@pytest.fixture(scope="module")
def features(golden, model):
    module, params = model
    images = preprocess(jnp.asarray(golden["image"])[None], module.config.image_size)
    return jax.jit(partial(module.apply, method="encode"))({"params": params}, images)


def assert_close(name, got, wanted, tolerance):
    error = np.abs(np.asarray(got) - wanted).max() / np.abs(wanted).max()
    assert error < tolerance, f"{name} differs by {error:.1e} of its largest magnitude"


def test_encoder_maps(golden, features):
    def stored(x, step):
        return np.asarray(x)[0].transpose(2, 0, 1)[::4, ::step, ::step]

    assert_close("embed", stored(features.embed, 4), golden["embed"], MAPS)
    assert_close("high0", stored(features.high0, 16), golden["hr0"], MAPS)
    assert_close("high1", stored(features.high1, 8), golden["hr1"], MAPS)


@pytest.fixture(scope="module")
def masks(golden, model, features):
    """Mask logits and predicted IoUs of one mask and of three, by one program: they share the decoder.

    Of 64 points at once it would take a GiB.
    """
    module, params = model
    height, width = golden["image"].shape[:2]
    points = golden["points"] / (width, height) * module.config.image_size
    chunks = jnp.asarray(points.reshape(8, -1, 1, 2), jnp.float32)

    @jax.jit
    def decode(params, features, chunks):
        def decode_some(points):
            inputs = features, points, jnp.ones(points.shape[:2], jnp.int32)
            run = partial(module.apply, {"params": params}, *inputs, method="decode")
            return {"": run(multimask=False), "3": run(multimask=True)}

        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), jax.lax.map(decode_some, chunks))

    return decode(params, jax.tree.map(lambda x: x[0], features), chunks)


@pytest.mark.parametrize("suffix", ["", "3"], ids=["one-mask", "three-masks"])
def test_masks_of_a_grid_of_points(golden, masks, suffix):
    logits, iou = (np.asarray(x) for x in masks[suffix])
    assert_close("logits", logits[:, :, ::8, ::8], golden["low" + suffix], MASKS)
    assert np.abs(iou - golden["iou" + suffix]).max() < 1e-3
