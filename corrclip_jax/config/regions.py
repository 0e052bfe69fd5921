"""Where regions come from: settings of SAM's automatic masks, panoptic networks and superpixels."""

from dataclasses import dataclass
from typing import TypeAlias

from corrclip_jax.config.families import families

# A family of networks that find regions, or one of those that need no weights.
RegionSource: TypeAlias = str
_WITHOUT_WEIGHTS = ("slic", "none")


def region_sources() -> tuple[RegionSource, ...]:
    """The names that `RegionConfig.source` may have."""
    return *families("regions"), *_WITHOUT_WEIGHTS


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
                f"SLIC needs {wanted}. Got {self.segments}, {self.iterations}, {self.compactness}."
            )


@dataclass(frozen=True)
class PanopticConfig:
    """How the queries of EoMT and Mask2Former become regions (METHOD.md, section 2).

    A query counts whose best class is not "nothing" and has a probability above `threshold` (None: as published,
    0.8 for EoMT and 0.5 for Mask2Former). It is dropped unless the pixels that it wins are more than
    `overlap_threshold` of those where its own mask is `mask_threshold` or more. `fuse` are classes, by number, of
    which all regions become one ("stuff", COCO's 80 to 132); the published programs fuse none by default.
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
        if self.source not in region_sources():
            known = ", ".join(region_sources())
            raise ValueError(f"regions.source must be one of {known}. Got {self.source!r}.")


SAM_AUTOMATIC = RegionConfig(
    source="sam1", points_per_side=32, iou_threshold=0.88, stability_threshold=0.95, multimask=True
)
