"""Frozen, hashable descriptions of the models and of the method: every number of the method is a named field."""

import dataclasses
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args

from corrclip_jax.tower_config import (  # noqa: F401  (the networks' own, for those who look here)
    CLIPConfig,
    CLIPTextConfig,
    CLIPVisionConfig,
    DINOConfig,
    EoMTConfig,
    Mask2FormerConfig,
    SAM1Config,
    SAM2Config,
)

Dtype = Literal["float32", "bfloat16"]
RegionSource = Literal["sam2", "sam1", "eomt", "mask2former", "slic", "none"]


@dataclass(frozen=True)
class SLICConfig:
    """Superpixels: at most `segments`; `compactness` weighs place (a cell's side) against CIELAB colour."""

    segments: int = 128
    compactness: float = 10.0
    iterations: int = 10

    def __post_init__(self):
        if self.segments < 1 or self.iterations < 0 or not self.compactness > 0:
            wanted = "segments of 1 or more, iterations of 0 or more and a compactness above 0"
            raise ValueError(
                f"SLIC wants {wanted}. Got {self.segments}, {self.iterations}, {self.compactness}."
            )


@dataclass(frozen=True)
class PanopticConfig:
    """How the queries of EoMT and Mask2Former become regions (METHOD.md, section 2).

    A query counts whose best class is not "nothing" and has a probability above `threshold` (None: as published,
    0.8 for EoMT and 0.5 for Mask2Former). It is dropped unless the pixels that it wins are more than
    `overlap_threshold` of those where its own mask is `mask_threshold` or more. `fuse` are classes, by number, of
    which all regions become one ("stuff", COCO's 80 to 132); published programs fuse none unless told to.
    """

    threshold: float | None = None
    mask_threshold: float = 0.5
    overlap_threshold: float = 0.8
    fuse: tuple[int, ...] = ()


@dataclass(frozen=True)
class RegionConfig:
    """Where regions come from and SAM's automatic-mask settings (METHOD.md, section 2).

    `points_per_side` n gives n * n point prompts (8 is the fast setting, 32 the full one), decoded
    `points_per_chunk` at a time (None: what the device's memory allows; on CPU one by one, which is faster
    there). `multimask` takes three masks of every point in place of one. `crop_layers` looks again at 2 ** i by 2
    ** i crops for i up to it, which overlap by `crop_overlap` of the shorter side (halved from layer to layer),
    with n / `crop_points_downscale` ** i points a side. `min_area` fills holes and drops islands of fewer pixels.
    `SAM_AUTOMATIC` is as SAM's own program has it.
    """

    source: RegionSource = "sam2"
    points_per_side: int = 8
    iou_threshold: float = 0.4
    stability_threshold: float = 0.4
    stability_offset: float = 1.0
    mask_threshold: float = 0.0
    nms_threshold: float = 0.7
    points_per_chunk: int | None = None
    multimask: bool = False
    crop_layers: int = 0
    crop_overlap: float = 512 / 1500
    crop_points_downscale: int = 1
    min_area: int = 0
    slic: SLICConfig = SLICConfig()
    panoptic: PanopticConfig = PanopticConfig()

    def __post_init__(self):
        if self.source not in get_args(RegionSource):
            known = ", ".join(get_args(RegionSource))
            raise ValueError(f"regions.source must be one of {known}. Got {self.source!r}.")


SAM_AUTOMATIC = RegionConfig(
    source="sam1", points_per_side=32, iou_threshold=0.88, stability_threshold=0.95, multimask=True
)


@dataclass(frozen=True)
class MethodConfig:
    """The numbers of the method, with the published defaults.

    Lengths are pixels. `spatial_layers` None means the published choice for the depth (5, 12, 28 blocks for
    12, 24, 32; otherwise depth - 4). `max_regions` caps the distinct regions of one image, the rest excepted.
    `max_windows` caps the windows of one photo where photos of different sizes share a canvas (None: as many as any
    photo can have). `windows_per_chunk` and `rows_per_chunk` bound memory (None: what the device's allows, see
    `chunks`). None of these three changes results.
    """

    resize_short: int = 336
    resize_long: int = 2048
    window: int = 336
    stride: int = 112
    window_multiple: int = 56
    merge_distance: float = 0.2
    similarity_scale: float = 4.0
    spatial_layers: int | None = None
    spatial_weight: float = 1.0
    semantic_weight: float = 0.5
    logit_scale: float = 40.0
    background_threshold: float = 0.0
    max_regions: int = 1024
    max_windows: int | None = None
    windows_per_chunk: int | None = None
    rows_per_chunk: int | None = None


@dataclass(frozen=True)
class PartsConfig:
    """The parts of the method that the paper's ablation switches; all off is plain CLIP.

    `scope` off: every cell sees every cell. `value` off: the last block's own attention, within the scope, in
    place of DINO's similarities. `merging` off: regions stay as they came. `spatial`, `semantic` off: the branch is
    left out. `correction` off: no vote of the regions on the final map.
    """

    scope: bool = True
    value: bool = True
    merging: bool = True
    spatial: bool = True
    semantic: bool = True
    correction: bool = True


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
    regions: RegionConfig = RegionConfig()
    method: MethodConfig = MethodConfig()
    parts: PartsConfig = PartsConfig()
    dtype: Dtype = "float32"
    vocabulary: str | None = None

    def __post_init__(self):
        if self.dtype not in get_args(Dtype):
            raise ValueError(f"dtype must be one of {', '.join(get_args(Dtype))}. Got {self.dtype!r}.")


def with_fields(config: Any, **changes: Any) -> Any:
    """A copy of a config with fields changed; a dict as value changes fields of the part of that name.

    >>> with_fields(Config(), dtype="bfloat16", regions={"points_per_side": 32}).regions.points_per_side
    32

    Raises:
      ValueError: for a name that is no field; the message lists the fields there are.
    """
    known = {f.name for f in fields(config)}
    if unknown := sorted(set(changes) - known):
        raise ValueError(
            f"{type(config).__name__} has no field {', '.join(unknown)}. It has: {', '.join(sorted(known))}."
        )
    nested = {
        name: with_fields(getattr(config, name), **value)
        if isinstance(value, dict) and dataclasses.is_dataclass(getattr(config, name))
        else value
        for name, value in changes.items()
    }
    return dataclasses.replace(config, **nested)


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


def to_dict(config: Any) -> dict[str, Any]:
    """The config as plain JSON types (tuples become lists)."""
    return dataclasses.asdict(config, dict_factory=lambda items: {k: _plain(v) for k, v in items})


def from_dict(cls: Any, data: dict[str, Any]) -> Any:
    """The inverse of `to_dict`: `from_dict(Config, json)`. Fields left out keep their defaults.

    Raises:
      ValueError: for a key that is no field of `cls`.
    """
    types = {f.name: f.type for f in fields(cls)}
    if unknown := sorted(set(data) - set(types)):
        raise ValueError(f"{cls.__name__} has no field {', '.join(unknown)}. It has: {', '.join(types)}.")
    return cls(**{name: _parsed(types[name], value) for name, value in data.items()})


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _parsed(annotation: Any, value: Any) -> Any:
    parts = [t for t in (get_args(annotation) or (annotation,)) if dataclasses.is_dataclass(t)]
    if parts and isinstance(value, dict):
        return from_dict(parts[0], value)
    return tuple(value) if isinstance(value, list) else value
