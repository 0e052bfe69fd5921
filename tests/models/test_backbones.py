"""Backbones for similarities: images of several sizes in one padded batch get the features that they get alone."""

from functools import partial

import jax
import numpy as np
import pytest
from small_models import small_config

from corrclip_jax.config import DINOConfig, DINOv2Config, DINOv3Config, PEConfig, RadioConfig, with_fields
from corrclip_jax.method.similarity import dense_features, feature_grid, padded_grid
from corrclip_jax.params.structure import init_params

SMALL = {"width": 16, "layers": 2, "heads": 2}
BACKBONES = {
    "dino": DINOConfig(image_size=32, patch_size=8, **SMALL),
    "radio": RadioConfig(image_size=64, patch_size=16, prefix_tokens=3, **SMALL),
    "dinov2": DINOv2Config(image_size=56, patch_size=14, registers=0, swiglu=True, **SMALL),
    "dinov3": DINOv3Config(patch_size=16, registers=2, **SMALL),
    "pe": PEConfig(image_size=56, patch_size=14, **SMALL),
}
SIZES = [(33, 60), (32, 32), (61, 9)]


@pytest.mark.parametrize("name", BACKBONES)
def test_features_in_a_padded_batch_equal_those_alone(name):
    config = with_fields(small_config(sam2=False), dino=None, similarity=name)
    config = with_fields(config, **{name: BACKBONES[name]})
    params = init_params(config)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    find = jax.jit(partial(dense_features, config), static_argnames="at_once")
    together = find(params, images, np.array(SIZES), at_once=2)
    assert together.shape[1:3] == padded_grid(config, (64, 64))
    for index, (height, width) in enumerate(SIZES):
        alone = find(params, images[index : index + 1, :height, :width])[0]
        rows, columns = feature_grid(config, (height, width))
        assert alone.shape[:2] == (rows, columns)
        error = np.abs(together[index, :rows, :columns] - alone).max() / np.abs(alone).max()
        assert error < 1e-5
