"""Settings of the sources of regions: SAM's automatic masks, panoptic networks, superpixels."""

import re
from dataclasses import dataclass
from typing import TypeAlias

from corrclip_jax.config.families import families
from corrclip_jax.config.ranges import (
    COUNT,
    COUNT_OR_NONE,
    COUNT_OR_ZERO,
    FINITE,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    Range,
    check_ranges,
)

# A family of networks that find regions, or one of those that need no weights.
RegionSource: TypeAlias = str
_WITHOUT_WEIGHTS = ("slic", "none")
_WITH_POINTS = ("sam1", "sam2")

_PANOPTIC_RANGES = {
    "threshold": Range(least=0.0, most=1.0, optional=True),
    "mask_threshold": SHARE,
    "overlap_threshold": SHARE,
}
# The IoU that SAM predicts is not bound to 0 .. 1.
_RANGES = {
    "points_per_side": COUNT,
    "iou_threshold": FINITE,
    "stability_threshold": SHARE,
    "stability_offset": NOT_NEGATIVE,
    "mask_threshold": FINITE,
    "nms_threshold": SHARE,
    "points_per_chunk": COUNT_OR_NONE,
    "crop_layers": COUNT_OR_ZERO,
    "crop_overlap": SHARE,
    "crop_points_downscale": COUNT,
    "min_area": COUNT_OR_ZERO,
}


def region_sources() -> tuple[RegionSource, ...]:
    """The names that `RegionConfig.source` may have."""
    return *families("regions"), *_WITHOUT_WEIGHTS


def source_family(name: str) -> RegionSource:
    """The source that a name belongs to: itself, or the family of one published size.

    >>> source_family("sam2"), source_family("sam2.1-t"), source_family("eomt-s"), source_family("slic")
    ('sam2', 'sam2', 'eomt', 'slic')
    """
    return next((family for family in families("regions") if re.match(rf"{family}[.-]", name)), name)


def takes_points(source: RegionSource) -> bool:
    """Whether a source of regions is asked at a grid of points (`points_per_side`).

    >>> takes_points("sam1"), takes_points("sam2.1-t"), takes_points("eomt"), takes_points("none")
    (True, True, False, False)
    """
    return source_family(source) in _WITH_POINTS


@dataclass(frozen=True)
class SLICConfig:
    """Superpixels (`skimage.segmentation.slic`'s names in brackets).

    Attributes:
      segments: the most superpixels of an image (`n_segments`).
      compactness: the weight of position, in units of a cell's side, against CIELAB colour (`compactness`).
      iterations: of k-means (`max_num_iter`).
      side: of the cells that superpixels grow from, in pixels, at least; by default the smallest of which
        `segments` suffice for the image. Parts of a picture that begin at multiples of it have the superpixels of
        the whole, but for those near their borders.
    """

    segments: int = 128
    compactness: float = 10.0
    iterations: int = 10
    side: int | None = None

    def __post_init__(self) -> None:
        if (
            not COUNT.holds(self.segments)
            or not COUNT_OR_ZERO.holds(self.iterations)
            or not POSITIVE.holds(self.compactness)
            or not COUNT_OR_NONE.holds(self.side)
        ):
            wanted = "segments of 1 or more, iterations of 0 or more, a compactness above 0 and a side of 1 or more"
            raise ValueError(
                f"SLIC needs {wanted}. Got {self.segments}, {self.iterations}, {self.compactness} and {self.side}."
            )


@dataclass(frozen=True)
class PanopticConfig:
    """How the queries of EoMT and Mask2Former become regions (METHOD.md, section 2).

    The names in brackets are those of transformers' `post_process_panoptic_segmentation`.

    Attributes:
      threshold: a query is a candidate if its best class is not "nothing" and has a probability above it
        (`threshold`). None: the published value, 0.8 for EoMT and 0.5 for Mask2Former.
      mask_threshold: a query's own mask is where its probability is at least this (`mask_threshold`).
      overlap_threshold: a query is dropped unless the pixels that it wins are more than this share of its own mask
        (`overlap_mask_area_threshold`).
      fuse: classes, by number, of which all regions become one: "stuff", COCO's 80 to 132 (`label_ids_to_fuse`,
        `stuff_classes`). By default none, as in transformers.
    """

    threshold: float | None = None
    mask_threshold: float = 0.5
    overlap_threshold: float = 0.8
    fuse: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        check_ranges("regions.panoptic", self, _PANOPTIC_RANGES)
        if not all(map(COUNT_OR_ZERO.holds, self.fuse)):
            raise ValueError(
                f"regions.panoptic.fuse must hold numbers of classes, 0 and above. Got {self.fuse}."
            )


@dataclass(frozen=True)
class RegionConfig:
    """The source of regions and the settings of SAM's automatic mask generator (METHOD.md, section 2).

    The names in brackets are those of `SamAutomaticMaskGenerator` (`facebookresearch/segment-anything`) and
    `SAM2AutomaticMaskGenerator` (`facebookresearch/sam2`). `SAM_AUTOMATIC` has the former's defaults.

    Attributes:
      source: the network or algorithm that finds regions.
      points_per_side: n * n point prompts; 8 is CorrCLIP's fast setting, 32 its full one (`points_per_side`).
      iou_threshold: masks are kept whose predicted IoU exceeds it (`pred_iou_thresh`).
      stability_threshold: masks are kept whose stability is at least this (`stability_score_thresh`).
      stability_offset: stability is area(logit > offset) / area(logit > -offset) (`stability_score_offset`).
      mask_threshold: a mask is where its logit exceeds it (`mask_threshold`).
      nms_threshold: a mask is dropped if the IoU of its box with a better one's exceeds it (`box_nms_thresh`).
      points_per_chunk: points that are decoded together (`points_per_batch`). None: as many as the device's memory
        allows. On CPU points are decoded one by one, which is faster there.
      multimask: whether every point gives three masks instead of one (`multimask_output`).
      crop_layers: masks are also computed of 2 ** i by 2 ** i crops, for i from 1 to this (`crop_n_layers`).
      crop_overlap: overlap of the crops as a share of the image's shorter side, halved from layer to layer
        (`crop_overlap_ratio`).
      crop_points_downscale: crops of layer i have n / this ** i points along a side
        (`crop_n_points_downscale_factor`).
      min_area: holes of fewer pixels are filled, islands of fewer dropped (`min_mask_region_area`).
      slic: settings of superpixels.
      panoptic: settings of EoMT and Mask2Former.
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

    def __post_init__(self) -> None:
        if self.source not in region_sources():
            known = ", ".join(region_sources())
            raise ValueError(f"regions.source must be one of {known}. Got {self.source!r}.")
        check_ranges("regions", self, _RANGES)


SAM_AUTOMATIC = RegionConfig(
    source="sam1", points_per_side=32, iou_threshold=0.88, stability_threshold=0.95, multimask=True
)
