"""The whole configuration: networks, regions, method; frozen and hashable."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from corrclip_jax.config.method import MethodConfig, PartsConfig
from corrclip_jax.config.networks import (
    CLIPConfig,
    DINOConfig,
    EoMTConfig,
    Mask2FormerConfig,
    SAM1Config,
    SAM2Config,
)
from corrclip_jax.config.regions import RegionConfig, RegionSource

Dtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Config:
    """Everything `make_segment` needs to know; the weights it goes with are a separate tree.

    `dtype` is the towers' compute type. `vocabulary` is the path of the CLIP vocabulary that belongs to the
    weights (None where text is never embedded). `sam2`, `sam1`, `eomt` and `mask2former` are networks that find
    regions, None where the model has no such one; `regions.source` says which is used.
    """

    name: str = "custom"
    clip: CLIPConfig = field(default_factory=CLIPConfig)
    dino: DINOConfig = field(default_factory=DINOConfig)
    sam2: SAM2Config | None = field(default_factory=SAM2Config)
    sam1: SAM1Config | None = None
    eomt: EoMTConfig | None = None
    mask2former: Mask2FormerConfig | None = None
    regions: RegionConfig = field(default_factory=RegionConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    parts: PartsConfig = field(default_factory=PartsConfig)
    dtype: Dtype = "float32"
    vocabulary: str | None = None

    def __post_init__(self):
        if self.dtype not in get_args(Dtype):
            raise ValueError(f"dtype must be one of {', '.join(get_args(Dtype))}. Got {self.dtype!r}.")


def source_tower(config: Config) -> tuple[RegionSource, Any]:
    """The configured source of regions and its network's configuration; for sources that have a network.

    Raises:
      ValueError: where the configuration does not have it.
    """
    name = config.regions.source
    tower = getattr(config, name)
    if tower is None:
        raise ValueError(f"config.{name} is None: give region maps, or set it.")
    return name, tower
