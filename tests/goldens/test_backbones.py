"""Backbones for similarities against the authors' program: features of whole photos, by four families."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_models_v2 import backbone
from tests_shared import GOLDENS_V2

from corrclip_jax.method.similarity import dense_features, feature_grid, padded_grid

FAMILIES = ("radio", "dinov2", "dinov3", "pe")
PHOTOS = sorted(path.stem for path in GOLDENS_V2.glob("vfm_*.npz"))
TOLERANCE = 2e-5  # of the largest magnitude


def error(ours, wanted):
    return np.abs(np.asarray(ours) - wanted).max() / np.abs(wanted).max()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("photo", PHOTOS)
def test_features_of_a_photo(family, photo):
    config, params = backbone(family)
    with np.load(GOLDENS_V2 / f"{photo}.npz") as golden:
        image, wanted = golden["image"], golden[family]
    assert feature_grid(config, image.shape[:2]) == wanted.shape[1:]
    ours = jax.jit(partial(dense_features, config))(params, jnp.asarray(image)[None])[0]
    assert error(ours.transpose(2, 0, 1), wanted) < TOLERANCE


@pytest.mark.parametrize("family", FAMILIES)
def test_features_of_photos_of_different_sizes_in_one_batch(family):
    config, params = backbone(family)
    photos, wanted = [], []
    for name in PHOTOS:
        with np.load(GOLDENS_V2 / f"{name}.npz") as golden:
            photos.append(golden["image"])
            wanted.append(golden[family])
    sizes = np.array([photo.shape[:2] for photo in photos], np.int32)
    shape = sizes.max(axis=0)
    batch = np.zeros((len(photos), *shape, 3), np.uint8)
    for canvas, photo in zip(batch, photos, strict=True):
        canvas[: photo.shape[0], : photo.shape[1]] = photo
    ours = jax.jit(partial(dense_features, config, at_once=2))(params, batch, sizes)
    assert ours.shape[1:3] == padded_grid(config, tuple(shape.tolist()))
    for one, golden in zip(ours, wanted, strict=True):
        assert error(one[: golden.shape[1], : golden.shape[2]].transpose(2, 0, 1), golden) < TOLERANCE
