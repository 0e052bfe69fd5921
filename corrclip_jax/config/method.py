"""The numbers of the method and the parts of it that can be switched off."""

from dataclasses import dataclass

_SIMILARITY_OF = ("window", "image")


@dataclass(frozen=True)
class MethodConfig:
    """The numbers of the method, with the published defaults.

    Lengths are pixels. `spatial_layers` None means the published choice for the depth (5, 12, 28 blocks for
    12, 24, 32; otherwise depth - 4). `max_regions` caps the distinct regions of one image, the rest excepted.
    `max_windows` caps the windows of one photo where photos of different sizes share a canvas (None: as many as any
    photo can have). `windows_per_chunk` and `rows_per_chunk` bound memory (None: what the device's allows, see
    `chunks`). None of these three changes results.

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


@dataclass(frozen=True)
class PartsConfig:
    """The parts of the method that the papers' ablations switch; all off is plain CLIP.

    `scope` off: every cell sees every cell. `value` off: the last block's own attention, within the scope, in
    place of DINO's similarities. `merging` off: regions stay as they came. `spatial`, `semantic` off: the branch is
    left out. `correction` off: no vote of the regions on the final map. `support` off: a bank is not asked.
    """

    scope: bool = True
    value: bool = True
    merging: bool = True
    spatial: bool = True
    semantic: bool = True
    correction: bool = True
    support: bool = True
