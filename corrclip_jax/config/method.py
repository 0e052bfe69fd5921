"""The numbers of the method and the parts of it that can be switched off."""

from dataclasses import dataclass, fields

from corrclip_jax.config.ranges import (
    COUNT,
    COUNT_OR_NONE,
    COUNT_OR_ZERO,
    FINITE,
    POSITIVE,
    SHARE,
    check_ranges,
)

_SIMILARITY_OF = ("window", "image")
# The range of `spatial_layers` follows from the depth of CLIP, see `method.branches`.
_RANGES = {
    "resize_short": COUNT,
    "resize_long": COUNT,
    "window": COUNT,
    "stride": COUNT,
    "window_multiple": COUNT,
    "merge_distance": FINITE,
    "similarity_scale": FINITE,
    "similarity_side": COUNT_OR_NONE,
    "spatial_weight": FINITE,
    "semantic_weight": FINITE,
    "neighbours": COUNT,
    "support_weight": SHARE,
    "logit_scale": POSITIVE,
    "background_threshold": SHARE,
    "max_regions": COUNT_OR_ZERO,
    "max_windows": COUNT_OR_NONE,
    "windows_per_chunk": COUNT_OR_NONE,
    "rows_per_chunk": COUNT_OR_NONE,
}


PROBABILITY_POINTS = 96
"""Points along the longer side of a photo at which `Segmenter` keeps probabilities by default."""


@dataclass(frozen=True)
class MethodConfig:
    """The numbers of the method, with the published defaults.

    Lengths are pixels. `spatial_layers` None means the published choice for the depth (5, 12, 28 blocks for
    12, 24, 32; otherwise depth - 4). `max_regions` caps the distinct regions of one image besides its unsegmented
    pixels. `max_windows` caps the windows of one photo in a padded batch (None: as many as any photo can have).
    `windows_per_chunk` and `rows_per_chunk` bound memory (None: as many as the device's memory allows, see
    `runtime.memory`). None of these three changes results.

    `similarity_of` says what the backbone of the similarities sees: each window (CorrCLIP), or the whole image once
    (CorrCLIPv2), whose longer side is first shrunk to at most `similarity_side` (None: no limit, as published; a
    12-megapixel photo is 47,000 patches of 16). `neighbours` of each region are looked up in a bank, whose logits
    have the weight `support_weight`, and a pixel's own the rest.
    """

    resize_short: int = 336
    resize_long: int = 2048
    window: int = 336
    stride: int = 112
    window_multiple: int = 56
    merge_distance: float = 0.2
    similarity_scale: float = 4.0
    similarity_of: str = "window"
    similarity_side: int | None = None
    spatial_layers: int | None = None
    spatial_weight: float = 1.0
    semantic_weight: float = 0.5
    neighbours: int = 20
    support_weight: float = 0.5
    logit_scale: float = 40.0
    background_threshold: float = 0.0
    max_regions: int = 1024
    max_windows: int | None = None
    windows_per_chunk: int | None = None
    rows_per_chunk: int | None = None

    def __post_init__(self) -> None:
        if self.similarity_of not in _SIMILARITY_OF:
            raise ValueError(
                f"method.similarity_of must be {' or '.join(_SIMILARITY_OF)}. Got {self.similarity_of!r}."
            )
        check_ranges("method", self, _RANGES)
        if self.stride > self.window:
            raise ValueError(
                f"method.stride must be at most method.window, {self.window}: no window would see the pixels "
                f"between. Got {self.stride}."
            )


@dataclass(frozen=True)
class PartsConfig:
    """The parts of the method that the papers' ablations switch; all off is plain CLIP.

    `scope` off: every cell sees every cell. `value` off: the last block's own attention, within the scope, in
    place of DINO's similarities. `merging` off: regions stay as they came. `spatial`, `semantic` off: the branch is
    left out. `correction` off: no vote of the regions on the final map. `support` off: the bank is ignored.
    """

    scope: bool = True
    value: bool = True
    merging: bool = True
    spatial: bool = True
    semantic: bool = True
    correction: bool = True
    support: bool = True

    def __post_init__(self) -> None:
        for field in fields(self):
            if not isinstance(value := getattr(self, field.name), bool):
                raise ValueError(f"parts.{field.name} must be True or False. Got {value!r}.")
