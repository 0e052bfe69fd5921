"""Parameters held in the compute type: every network gives what it gives with float32 ones, to the bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import BACKBONES, EOMT, MASK2FORMER, SAM1, region_program, small_config, write_vocabulary

from corrclip_jax import embed_text
from corrclip_jax.config import with_fields
from corrclip_jax.method.similarity import dense_features
from corrclip_jax.models.clip.model import CLIP
from corrclip_jax.models.layers import in_compute_type
from corrclip_jax.params.structure import init_params

BFLOAT16 = jnp.dtype("bfloat16")


def pictures(*shape):
    return jnp.asarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def both(config):
    """Float32 parameters, and those that a segmenter holds."""
    params = jax.tree.map(jnp.asarray, init_params(config))
    return params, in_compute_type(params, config.dtype)


def test_kernels_take_half_the_memory_and_all_else_stays():
    params, held = both(with_fields(small_config(), dtype="bfloat16"))
    block = held["clip"]["visual"]["transformer"]["resblocks_0"]
    assert block["attn"]["query"]["kernel"].dtype == BFLOAT16
    assert block["attn"]["query"]["bias"].dtype == block["ln_1"]["scale"].dtype == jnp.float32
    assert jax.tree.map(jnp.shape, held) == jax.tree.map(jnp.shape, params)
    assert {x.dtype for x in jax.tree.leaves(in_compute_type(params, "float32"))} == {jnp.dtype("float32")}


@pytest.mark.parametrize("name", ["dino", *BACKBONES])
def test_backbones_give_the_same_features(name):
    config = small_config(sam2=False)
    if name != "dino":
        config = with_fields(config, dino=None, similarity=name, **{name: BACKBONES[name]})
    config = with_fields(config, dtype="bfloat16")
    given, held = (dense_features(config, params, pictures(2, 32, 32, 3)) for params in both(config))
    np.testing.assert_array_equal(given, held)


def test_clip_gives_the_same_embeddings(tmp_path):
    config = with_fields(small_config(write_vocabulary(tmp_path), sam2=False), dtype="bfloat16")
    clip, images = CLIP(config.clip, BFLOAT16), pictures(1, 32, 32, 3).astype(jnp.float32) / 255
    see = lambda params: clip.apply(  # noqa: E731
        {"params": params["clip"]}, images, method=lambda clip, images: clip.visual(images)
    )
    read = lambda params: embed_text(config, params, ["cat", "sky"]).features  # noqa: E731
    given, held = both(config)
    np.testing.assert_array_equal(see(given), see(held))
    np.testing.assert_array_equal(read(given), read(held))


@pytest.mark.parametrize(
    ("name", "network"), [("sam2", None), ("sam1", SAM1), ("eomt", EOMT), ("mask2former", MASK2FORMER)]
)
def test_sources_find_the_same_regions(name, network):
    config = small_config(sam2=network is None)
    networks = {} if network is None else {name: network}
    every = {"iou_threshold": -99.0, "stability_threshold": 0.0, "nms_threshold": 1.0}
    every["panoptic"] = {"threshold": 0.0, "overlap_threshold": 0.0}
    config = with_fields(config, dtype="bfloat16", regions={"source": name, **every}, **networks)
    find = region_program(config)
    given, held = (np.asarray(find(params, pictures(1, 60, 90, 3), None)) for params in both(config))
    np.testing.assert_array_equal(given, held)
    assert len(np.unique(given)) > 1
