"""Network families: the one table of CLIP, similarity backbones and networks that find regions.

Everything that lists families follows from `FAMILIES`: the parts of a configuration and of a parameter tree,
what `load` reads, the conversion tables, the options of `corrclip convert`. CONTRIBUTING.md lists the files that a
new family touches. Light: what a row names is imported when it is needed.
"""

from importlib import import_module
from types import ModuleType
from typing import Any, Literal, NamedTuple

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

Role = Literal["clip", "similarity", "regions"]


class Family(NamedTuple):
    """A family of networks.

    Attributes:
      name: the key in `Config`, in parameter trees, in `corrclip.json` and in the registry.
      title: the name for people.
      role: what the method uses it for.
      config: the type of its configuration, a frozen dataclass.
      module: "module:class" of its Flax module, which is made as `class(config, dtype)` and called with images
        [B, S, S, 3] of `config.image_size` (a CLIP with its images and with tokens).
      conversion: the module of its conversion table, with `SIGNATURES`, `table` and `config_from_shapes`.
      hub_types: the values of `model_type` in config.json of the transformers library.
      layouts: the published layouts that are read, for help texts.
    """

    name: str
    title: str
    role: Role
    config: type[NetworkConfig]
    module: str
    conversion: str
    hub_types: frozenset[str]
    layouts: str

    def network(self) -> Any:
        """The Flax module's class."""
        module, _, name = self.module.partition(":")
        return getattr(import_module(module), name)

    def conversion_table(self) -> ModuleType:
        """The module of the conversion table."""
        return import_module(self.conversion)


_TABLES = "corrclip_jax.conversion.tables"
_MODELS = "corrclip_jax.models"

# Of several networks that find regions, a model uses the first by default.
_ROWS = (
    Family(
        "clip", "CLIP", "clip", CLIPConfig, f"{_MODELS}.clip.model:CLIP", f"{_TABLES}.clip",
        frozenset({"clip"}), "open_clip or transformers",
    ),
    Family(
        "dino", "DINO", "similarity", DINOConfig, f"{_MODELS}.dino:DINO", f"{_TABLES}.dino",
        frozenset({"vit"}), "original or transformers",
    ),
    Family(
        "dinov2", "DINOv2", "similarity", DINOv2Config, f"{_MODELS}.dinov2:DINOv2", f"{_TABLES}.dinov2",
        frozenset({"dinov2", "dinov2_with_registers"}), "original or transformers",
    ),
    Family(
        "dinov3", "DINOv3", "similarity", DINOv3Config, f"{_MODELS}.dinov3:DINOv3", f"{_TABLES}.dinov3",
        frozenset({"dinov3_vit"}), "original or transformers",
    ),
    Family(
        "radio", "RADIO", "similarity", RadioConfig, f"{_MODELS}.radio:Radio", f"{_TABLES}.radio",
        frozenset({"radio"}), "original or transformers",
    ),
    Family(
        "pe", "PE-Spatial", "similarity", PEConfig, f"{_MODELS}.pe:PE", f"{_TABLES}.pe", frozenset(), "original",
    ),
    Family(
        "sam2", "SAM 2", "regions", SAM2Config, f"{_MODELS}.sam.sam2:SAM2", f"{_TABLES}.sam2",
        frozenset({"sam2", "sam2_video"}), "original or transformers",
    ),
    Family(
        "sam1", "SAM", "regions", SAM1Config, f"{_MODELS}.sam.sam1:SAM1", f"{_TABLES}.sam1",
        frozenset({"sam"}), "original or transformers",
    ),
    Family(
        "eomt", "EoMT", "regions", EoMTConfig, f"{_MODELS}.eomt:EoMT", f"{_TABLES}.eomt",
        frozenset({"eomt", "eomt_dinov3"}), "original or transformers",
    ),
    Family(
        "mask2former", "Mask2Former", "regions", Mask2FormerConfig,
        f"{_MODELS}.mask2former.model:Mask2Former", f"{_TABLES}.mask2former",
        frozenset({"mask2former"}), "transformers, with a Swin encoder",
    ),
)  # fmt: skip

FAMILIES: dict[str, Family] = {family.name: family for family in _ROWS}


def families(role: Role) -> tuple[str, ...]:
    """Names of the families that have a role, in the order of the table."""
    return tuple(name for name, family in FAMILIES.items() if family.role == role)


def family_of(config: NetworkConfig) -> Family:
    """The family that a network's configuration belongs to.

    Raises:
      TypeError: for what is no configuration of a network in the table.
    """
    for family in FAMILIES.values():
        if type(config) is family.config:
            return family
    known = ", ".join(family.config.__name__ for family in FAMILIES.values())
    raise TypeError(f"a network's configuration must be one of {known}. Got {type(config).__name__}.")
