"""Backbones for similarities against the authors' program: features of whole photos, by four families."""

import jax
import numpy as np
import pytest
from golden_models_v2 import backbone
from tests_shared import GOLDENS_V2

from corrclip_jax.method.similarity import dense_features, feature_grid, padded_grid

FAMILIES = ("radio", "dinov2", "dinov3", "pe")
PHOTOS = sorted(path.stem for path in GOLDENS_V2.glob("vfm_*.npz"))
TOLERANCE = 2e-5  # of the largest magnitude


def error(ours, wanted):
    return np.abs(ours - wanted).max() / np.abs(wanted).max()


@pytest.fixture(scope="module", params=FAMILIES)
def features(request):
    """Features by one program of a family: of one photo alone, another for each, and of all as a padded batch."""
    config, params = backbone(request.param)
    photos, wanted = {}, {}
    for name in PHOTOS:
        with np.load(GOLDENS_V2 / f"{name}.npz") as golden:
            photos[name], wanted[name] = golden["image"], golden[request.param]
    sizes = np.array([photo.shape[:2] for photo in photos.values()], np.int32)
    batch = np.zeros((len(photos), *sizes.max(axis=0), 3), np.uint8)
    for canvas, photo in zip(batch, photos.values(), strict=True):
        canvas[: photo.shape[0], : photo.shape[1]] = photo

    chosen = PHOTOS[FAMILIES.index(request.param) % len(PHOTOS)]

    @jax.jit
    def compute(params, photo, batch, sizes):
        alone = dense_features(config, params, photo[None])[0]
        return alone, dense_features(config, params, batch, sizes, at_once=2)

    alone, together = jax.tree.map(np.asarray, compute(params, photos[chosen], batch, sizes))
    for name, photo in photos.items():
        assert feature_grid(config, photo.shape[:2]) == wanted[name].shape[1:]
    assert together.shape[1:3] == padded_grid(config, batch.shape[1:3])
    return wanted, (chosen, alone), dict(zip(PHOTOS, together, strict=True))


def test_features_of_a_photo(features):
    wanted, (photo, alone), _ = features
    assert error(alone.transpose(2, 0, 1), wanted[photo]) < TOLERANCE


def test_features_of_photos_of_different_sizes_in_one_batch(features):
    wanted, _, together = features
    for photo, golden in wanted.items():
        ours = together[photo][: golden.shape[1], : golden.shape[2]]
        assert error(ours.transpose(2, 0, 1), golden) < TOLERANCE
