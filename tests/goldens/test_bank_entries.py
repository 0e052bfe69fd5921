"""Keys and values of a bank against the authors' program's, before they are rounded."""

import jax
import numpy as np
import pytest
from golden_models_v2 import backbone, network
from tests_shared import GOLDENS_V2

from corrclip_jax.config import Config
from corrclip_jax.inference.bank_features import _image
from corrclip_jax.method.bank_entries import RegionMasks, region_keys, region_values, values_config

CLIPS = {"clip_main_b16": "clip_b16", "clip_main_l14": "clip_l14", "clip_aux": "clip_aux"}
PHOTOS = sorted(path.stem for path in GOLDENS_V2.glob("bank_*.npz"))
CAP = 8


def golden(photo):
    with np.load(GOLDENS_V2 / f"{photo}.npz") as archive:
        return dict(archive)


def batch(goldens, masks):
    """Golden photos as one padded batch with their regions, as maps or as masks."""
    images = [_image(golden["image"], golden["instance_mask"]) for golden in goldens]
    sizes = np.array([image.map.shape for image in images], np.int32)
    shape = tuple(sizes.max(axis=0))
    pixels = np.zeros((len(images), *shape, 3), np.uint8)
    regions = RegionMasks(
        np.zeros((len(images), *shape), np.int32), np.zeros((len(images), CAP, *shape), bool)
    )
    for row, (image, (height, width)) in enumerate(zip(images, sizes, strict=True)):
        pixels[row, :height, :width], regions.map[row, :height, :width] = image.pixels, image.map
        own = (
            image.map == np.arange(1, len(image.ids) + 1)[:, None, None]
            if image.masks is None
            else image.masks
        )
        regions.masks[row, : len(own), :height, :width] = own
    return pixels, regions if masks else regions._replace(masks=None), sizes


def assert_close(ours, wanted):
    assert np.abs(np.asarray(ours)[: len(wanted)] - wanted).max() <= 2e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("family", ["dinov2", "pe"])  # the features of each are those of test_backbones
def test_keys(family):
    goldens = [golden(photo) for photo in PHOTOS]
    config, params = backbone(family)
    run = jax.jit(lambda params, *args: region_keys(config, params, *args[:2], CAP, args[2]))
    for ours, one in zip(run(params, *batch(goldens, masks=True)), goldens, strict=True):
        assert_close(ours, one[f"vfm_{family}"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("photos", "clips"),
    [
        (["bank_stack", "bank_stack_partial"], ["clip_main_b16", "clip_aux"]),
        (["bank_strip_holes"], ["clip_main_l14"]),
    ],
)
def test_values(photos, clips):
    goldens = [golden(photo) for photo in photos]
    dino, tree = network("dino_bank")
    configs = {name: Config(clip=network(CLIPS[name])[0], dino=dino, sam2=None) for name in clips}
    params = {"dino": tree, **{name: network(CLIPS[name])[1] for name in clips}}
    config = values_config(configs[clips[0]], int(goldens[0]["slide_short"]))
    pixels, regions, sizes = batch(goldens, masks="stack" in photos[0])
    sizes = sizes if len(photos) > 1 else None
    run = jax.jit(lambda params, *args: region_values(config, params, configs, *args[:2], CAP, args[2]))
    found = run(params, pixels, regions, sizes)
    for name in clips:
        for ours, one in zip(found[name], goldens, strict=True):
            assert_close(ours, one[name])
