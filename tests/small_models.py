"""The small models of `corrclip_jax.testing`, under the names that the tests use."""

import jax
import numpy as np

from corrclip_jax.config import Config, DINOv2Config, DINOv3Config, PEConfig, RadioConfig, with_fields
from corrclip_jax.method.bank import Bank
from corrclip_jax.testing import SMALL_EOMT as EOMT
from corrclip_jax.testing import SMALL_MASK2FORMER as MASK2FORMER
from corrclip_jax.testing import SMALL_SAM1 as SAM1
from corrclip_jax.testing import (
    region_program,
    small_config,
    small_model,
    small_params,
    small_text,
    write_vocabulary,
)
from corrclip_jax.testing import segment_program as jitted

__all__ = [
    "BACKBONES",
    "EOMT",
    "MASK2FORMER",
    "SAM1",
    "jitted",
    "region_program",
    "small_bank",
    "small_config",
    "small_model",
    "small_params",
    "small_text",
    "small_v2",
    "write_vocabulary",
]


_SIZE: dict[str, int] = {"width": 32, "layers": 1, "heads": 2}
BACKBONES = {
    "radio": RadioConfig(image_size=64, patch_size=16, prefix_tokens=2, **_SIZE),
    "dinov2": DINOv2Config(image_size=56, patch_size=14, **_SIZE),
    "dinov3": DINOv3Config(**_SIZE),
    "pe": PEConfig(image_size=56, patch_size=14, **_SIZE),
}


def small_v2(config: Config) -> Config:
    """A small model's configuration with a small RADIO and the method of CorrCLIPv2; three neighbours a region."""
    return with_fields(
        config,
        dino=None,
        radio=BACKBONES["radio"],
        similarity="radio",
        method={"similarity_of": "image", "neighbours": 3},
        parts={"merging": False},
    )


def small_bank(config: Config, entries: int = 40, others: int = 0) -> Bank:
    """Random entries for a model of `small_v2`; with values `others` wide of a second CLIP, "aux"."""
    rng = np.random.default_rng(7)
    values = {"main": config.clip.embed_dim} | ({"aux": others} if others else {})
    drawn = {name: rng.standard_normal((entries, width)) for name, width in values.items()}
    drawn = {name: x / np.linalg.norm(x, axis=1, keepdims=True) for name, x in drawn.items()}
    keys = rng.standard_normal((entries, config.radio.width))
    return jax.device_put(jax.tree.map(lambda x: x.astype(np.float16), Bank(keys, drawn)))
