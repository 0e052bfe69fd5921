"""Configuration: every number of the method as a field of a frozen dataclass.

Imports nothing of the package. Begin with `base.py`; `networks.py` describes the networks, `regions.py` the sources
of regions, `method.py` the method.
"""

from corrclip_jax.config.base import (
    Config,
    Dtype,
    DtypeChoice,
    networks_of,
    select_regions,
    similarity_network,
    source_network,
)
from corrclip_jax.config.families import FAMILIES, Family, families, family_of
from corrclip_jax.config.fields import from_dict, to_dict, with_fields
from corrclip_jax.config.method import PROBABILITY_POINTS, MethodConfig, PartsConfig
from corrclip_jax.config.networks import (
    CLIPConfig,
    CLIPTextConfig,
    CLIPVisionConfig,
    DINOConfig,
    DINOv2Config,
    DINOv3Config,
    EoMTConfig,
    Mask2FormerConfig,
    NetworkConfig,
    PEConfig,
    RadioConfig,
    SAM1Config,
    SAM2Config,
    ViTConfig,
)
from corrclip_jax.config.regions import (
    SAM_AUTOMATIC,
    PanopticConfig,
    RegionConfig,
    RegionSource,
    SLICConfig,
    region_sources,
    source_family,
    takes_points,
)

__all__ = [
    "FAMILIES",
    "PROBABILITY_POINTS",
    "SAM_AUTOMATIC",
    "CLIPConfig",
    "CLIPTextConfig",
    "CLIPVisionConfig",
    "Config",
    "DINOConfig",
    "DINOv2Config",
    "DINOv3Config",
    "Dtype",
    "DtypeChoice",
    "EoMTConfig",
    "Family",
    "Mask2FormerConfig",
    "MethodConfig",
    "NetworkConfig",
    "PEConfig",
    "PanopticConfig",
    "PartsConfig",
    "RadioConfig",
    "RegionConfig",
    "RegionSource",
    "SAM1Config",
    "SAM2Config",
    "SLICConfig",
    "ViTConfig",
    "families",
    "family_of",
    "from_dict",
    "networks_of",
    "region_sources",
    "select_regions",
    "similarity_network",
    "source_family",
    "source_network",
    "takes_points",
    "to_dict",
    "with_fields",
]
