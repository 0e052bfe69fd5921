"""A whole photograph: resize, windows, stitching, labels."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from near_ties import near_ties
from torch import Tensor
from transformers import CLIPModel, ViTModel

from reference.towers import channels
from reference.window import nearest, window_features

PIXEL_MEAN, PIXEL_STD = (122.771, 116.746, 104.094), (68.501, 66.632, 70.323)
PADDING_ID = 2**40  # a region of its own: beyond every id of a map


@dataclass(frozen=True)
class Settings:
    resize_short: int = 336
    resize_long: int = 2048
    window: int = 336
    stride: int = 112
    window_multiple: int = 56
    logit_scale: float = 40.0
    background_threshold: float = 0.0


def segment(
    clip: CLIPModel,
    dino: ViTModel,
    image: Tensor,
    regions: Tensor,
    queries: Tensor,
    query_to_class: Tensor,
    settings: Settings = Settings(),
    resized: Tensor | None = None,
) -> dict[str, Tensor]:
    """uint8 photo [H0, W0, 3] and region ids [H0, W0] to resized, logits [Q, H0, W0], labels, scores and ties.

    `resized` stands in for the photo resize where it is given. `tied` [H0, W0] are the pixels whose logits hang on
    the rounding of a similarity.
    """
    if resized is None:
        resized = photo_resize(image, *resized_size(*image.shape[:2], settings))
    logits, tied = (
        F.interpolate(x[None], size=image.shape[:2], mode="bilinear")[0]
        for x in stitched_logits(clip, dino, resized, regions, queries, settings)
    )
    labels, scores = label_map(
        logits, query_to_class, regions, settings.logit_scale, settings.background_threshold
    )
    return {"resized": resized, "logits": logits, "labels": labels, "scores": scores, "tied": tied[0] > 0}


def resized_size(height: int, width: int, settings: Settings) -> tuple[int, int]:
    scale = min(
        settings.resize_long / max(height, width),
        settings.resize_short / min(height, width),
    )
    return int(height * scale + 0.5), int(width * scale + 0.5)


def photo_resize(image: Tensor, height: int, width: int) -> Tensor:
    """OpenCV's bilinear resize of uint8 [H, W, 3]: weights of 11 bits, four bits dropped between the passes."""
    top, bottom, upper, lower = _taps(image.shape[0], height)
    first, second, left, right = _taps(image.shape[1], width)
    wide = image.int()
    rows = wide[:, first] * left[:, None] + wide[:, second] * right[:, None]
    upper, lower = upper[:, None, None], lower[:, None, None]
    sums = ((rows[top] >> 4) * upper >> 16) + ((rows[bottom] >> 4) * lower >> 16)
    return ((sums + 2) >> 2).to(torch.uint8)


def _taps(size: int, out: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    where = ((torch.arange(out, dtype=torch.float64) + 0.5) * (size / out) - 0.5).float()
    low = where.floor()
    second = ((where - low) * 2048).round().int()
    first = ((1 - (where - low)) * 2048).round().int()
    low = low.long()
    return low.clamp(0, size - 1), (low + 1).clamp(0, size - 1), first, second


def normalised(resized: Tensor) -> Tensor:
    """uint8 [H, W, 3] to CLIP's pixels [3, H, W]."""
    return (resized.permute(2, 0, 1).float() - channels(PIXEL_MEAN)) / channels(PIXEL_STD)


def window_starts(size: int, window: int, stride: int) -> Iterator[tuple[int, int]]:
    """(start, end) of every window along one axis."""
    for i in range(max(size - window + stride - 1, 0) // stride + 1):
        end = min(i * stride + window, size)
        yield max(end - window, 0), end


def padded_window(pixels: Tensor, regions: Tensor, multiple: int) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """A window grown to multiples of `multiple`, half of the growth before; returns where the window begins."""
    grow_y, grow_x = (-size % multiple for size in regions.shape)
    top, left = grow_y // 2, grow_x // 2
    border = (left, grow_x - left, top, grow_y - top)
    return F.pad(pixels, border), F.pad(regions, border, value=PADDING_ID), (top, left)


def stitched_logits(
    clip: CLIPModel, dino: ViTModel, resized: Tensor, regions: Tensor, queries: Tensor, settings: Settings
) -> tuple[Tensor, Tensor]:
    """Logits [Q, H, W] of the resized photo, the mean over the windows above each pixel; near ties [1, H, W]."""
    height, width = resized.shape[:2]
    pixels = normalised(resized)
    regions = nearest(regions, height, width)
    total, count = torch.zeros(len(queries), height, width), torch.zeros(height, width)
    tied = torch.zeros(1, height, width)
    for y0, y1 in window_starts(height, settings.window, settings.stride):
        for x0, x1 in window_starts(width, settings.window, settings.stride):
            window, window_regions, (top, left) = padded_window(
                pixels[:, y0:y1, x0:x1], regions[y0:y1, x0:x1], settings.window_multiple
            )
            stages = window_features(clip, dino, window, window_regions)
            logits = F.normalize(stages["features"], dim=-1) @ queries.T
            ties = near_ties(stages["similarity"], stages["merged"].flatten()).reshape(logits.shape[:2])
            cells = torch.cat([logits.permute(2, 0, 1), torch.from_numpy(ties).float()[None]])
            pixels_of = F.interpolate(cells[None], size=window.shape[1:], mode="bilinear")[0]
            pixels_of = pixels_of[:, top : top + y1 - y0, left : left + x1 - x0]
            total[:, y0:y1, x0:x1] += pixels_of[:-1]
            tied[:, y0:y1, x0:x1] += pixels_of[-1:]
            count[y0:y1, x0:x1] += 1
    return total / count, tied


def label_map(
    logits: Tensor, query_to_class: Tensor, regions: Tensor, scale: float, threshold: float
) -> tuple[Tensor, Tensor]:
    """Logits [Q, H0, W0] to labels, one a region, and each pixel's own best probability."""
    queries = (scale * logits).softmax(0)
    classes = torch.stack(
        [queries[query_to_class == k].amax(0) for k in range(int(query_to_class.max()) + 1)]
    )
    scores, labels = classes.max(0)
    labels[scores < threshold] = 0
    for i in regions.unique()[1:]:
        inside = regions == i
        labels[inside] = labels[inside].bincount().argmax()
    return labels, scores
