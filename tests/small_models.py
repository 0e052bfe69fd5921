"""The small models of `corrclip_jax.testing`, under the names that the tests use."""

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
    "EOMT",
    "MASK2FORMER",
    "SAM1",
    "jitted",
    "region_program",
    "small_config",
    "small_model",
    "small_params",
    "small_text",
    "write_vocabulary",
]
