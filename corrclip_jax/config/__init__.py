"""Configuration: every number of the method as a field of a frozen dataclass.

Imports nothing of the package. Begin with `base.py`; `networks.py` describes the networks, `regions.py` the sources
of regions, `method.py` the method.
"""

from corrclip_jax.config.base import Config, Dtype, source_tower
from corrclip_jax.config.fields import from_dict, to_dict, with_fields
from corrclip_jax.config.method import MethodConfig, PartsConfig
from corrclip_jax.config.networks import (
    CLIPConfig,
    CLIPTextConfig,
    CLIPVisionConfig,
    DINOConfig,
    EoMTConfig,
    Mask2FormerConfig,
    SAM1Config,
    SAM2Config,
)
from corrclip_jax.config.regions import SAM_AUTOMATIC, PanopticConfig, RegionConfig, RegionSource, SLICConfig

__all__ = [
    "SAM_AUTOMATIC",
    "CLIPConfig",
    "CLIPTextConfig",
    "CLIPVisionConfig",
    "Config",
    "DINOConfig",
    "Dtype",
    "EoMTConfig",
    "Mask2FormerConfig",
    "MethodConfig",
    "PanopticConfig",
    "PartsConfig",
    "RegionConfig",
    "RegionSource",
    "SAM1Config",
    "SAM2Config",
    "SLICConfig",
    "from_dict",
    "source_tower",
    "to_dict",
    "with_fields",
]
