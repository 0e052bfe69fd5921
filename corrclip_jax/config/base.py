"""The whole configuration: networks, regions, method; frozen and hashable."""

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from corrclip_jax.config.families import FAMILIES, families
from corrclip_jax.config.fields import with_fields
from corrclip_jax.config.method import MethodConfig, PartsConfig
from corrclip_jax.config.networks import (
    CLIPConfig,
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
)
from corrclip_jax.config.regions import RegionConfig

Dtype = Literal["float32", "bfloat16"]
DtypeChoice = Literal["float32", "bfloat16", "auto"]


@dataclass(frozen=True)
class Config:
    """Everything `make_segment` needs to know; the weights it goes with are a separate tree.

    A network is a field under its family's name (see `FAMILIES`), None where the model has no such network.
    A subclass adds a field for a family of its own.

    Attributes:
      name: the model's name.
      clip: CLIP's two towers.
      similarity: the family whose patch features are the similarities; `dino` by default.
      dino, radio, dinov2, dinov3, pe: backbones for similarities.
      sam2, sam1, eomt, mask2former: networks that find regions; `regions.source` says which is used.
      regions: where regions come from.
      method: the numbers of the method.
      parts: the parts of the method that are switched on.
      dtype: the networks' compute type; parameters, softmax and norms stay float32. "bfloat16" is the fast
        choice on TPUs, on GPUs with tensor cores, and on CPUs with AMX from JAX 0.12 on (JAX 0.10 does not use
        AMX).
      vocabulary: path of the CLIP vocabulary that belongs to the weights; None where text is never embedded.
    """

    name: str = "custom"
    clip: CLIPConfig = field(default_factory=CLIPConfig)
    dino: DINOConfig | None = field(default_factory=DINOConfig)
    radio: RadioConfig | None = None
    dinov2: DINOv2Config | None = None
    dinov3: DINOv3Config | None = None
    pe: PEConfig | None = None
    sam2: SAM2Config | None = field(default_factory=SAM2Config)
    sam1: SAM1Config | None = None
    eomt: EoMTConfig | None = None
    mask2former: Mask2FormerConfig | None = None
    similarity: str = "dino"
    regions: RegionConfig = field(default_factory=RegionConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    parts: PartsConfig = field(default_factory=PartsConfig)
    dtype: Dtype = "float32"
    vocabulary: str | None = None

    def __post_init__(self) -> None:
        if self.dtype not in get_args(Dtype):
            raise ValueError(f"dtype must be one of {', '.join(get_args(Dtype))}. Got {self.dtype!r}.")
        if self.similarity not in (known := families("similarity")):
            raise ValueError(f"similarity must be one of {', '.join(known)}. Got {self.similarity!r}.")


def networks_of(config: Config) -> dict[str, NetworkConfig]:
    """The networks that a model has: their configurations by family, in the table's order."""
    networks = {name: getattr(config, name, None) for name in FAMILIES}
    return {name: network for name, network in networks.items() if network is not None}


def select_regions(config: Config, network: str | None) -> Config:
    """The configuration with one network of regions only, which becomes the source; with None, without any.

    The one rule for which networks a program needs: CLIP, the backbone of the similarities, and the network of the
    region source.

    Raises:
      ValueError: for a network that the model does not have.
    """
    present = [name for name in families("regions") if getattr(config, name, None) is not None]
    if network is not None and network not in present:
        title = FAMILIES[network].title if network in FAMILIES else repr(network)
        has = " and ".join(present) or "none"
        raise ValueError(
            f"the model {config.name!r} has no {title} to find regions with (it has: {has}). Choose one that it "
            "has, give region maps, or do without regions (regions='none')."
        )
    without: dict[str, Any] = {name: None for name in present if name != network}
    if network is not None:
        without["regions"] = {"source": network}
    return with_fields(config, **without)


def source_network(config: Config) -> tuple[str, Any]:
    """The configured source of regions and its network's configuration; for sources that have a network.

    Raises:
      ValueError: where the configuration does not have it.
    """
    return _network(config, config.regions.source, "give region maps, or set it")


def similarity_network(config: Config) -> tuple[str, Any]:
    """The backbone of the similarities: its family and its configuration.

    Raises:
      ValueError: where the configuration does not have it.
    """
    return _network(config, config.similarity, "set it, or name another family in config.similarity")


def _network(config: Config, name: str, advice: str) -> tuple[str, Any]:
    network = getattr(config, name, None)
    if network is None:
        raise ValueError(f"config.{name} is None: {advice}.")
    return name, network
