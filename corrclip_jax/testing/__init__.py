"""Small models for tests: canonical configurations, random weights and one compiled program for each.

For tests of this package and of programs that use it: nothing is downloaded, an image takes a fraction of a second,
and tests that use the same model share its compiled program. Begin with `models.py`.

    config = small_config()
    result = segment_program(config)(small_params(config), images, text)
"""

from corrclip_jax.testing.models import (
    SMALL_EOMT,
    SMALL_MASK2FORMER,
    SMALL_SAM1,
    small_config,
    small_model,
    small_params,
    small_text,
    write_vocabulary,
)
from corrclip_jax.testing.programs import region_program, segment_program

__all__ = [
    "SMALL_EOMT",
    "SMALL_MASK2FORMER",
    "SMALL_SAM1",
    "region_program",
    "segment_program",
    "small_config",
    "small_model",
    "small_params",
    "small_text",
    "write_vocabulary",
]
