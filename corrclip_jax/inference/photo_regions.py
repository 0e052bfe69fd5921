"""`Regions` of one photo: areas, boxes, scores, masks, COCO RLE, a visualisation, files."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int32, Integer, UInt8
from PIL import Image

from corrclip_jax.io.region_maps import to_annotations, write_regions
from corrclip_jax.viz import overlay

_SCORES = ("predicted_iou", "score")


@dataclass(frozen=True, eq=False)
class Regions:
    """The regions of one photo, at the photo's own size [H, W].

    Attributes:
      photo: the pixels.
      map: the id of every pixel's region, 0 for unsegmented pixels.
      details: what the source knows about each region, by name, in the order of `ids`: SAM's "predicted_iou" and
        "stability_score", the "score" and "label_id" of a panoptic network; empty for other sources. They are about
        whole masks, parts of which larger masks may cover in the map.
    """

    photo: UInt8[np.ndarray, "H W 3"]
    map: Int32[np.ndarray, "H W"]
    details: Mapping[str, Float32[np.ndarray, " n"]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def ids(self) -> Integer[np.ndarray, " n"]:
        """The ids in the map, ascending."""
        found = np.unique(self.map)
        return found[found != 0]

    @cached_property
    def areas(self) -> Integer[np.ndarray, " n"]:
        """Pixels of each region."""
        return np.array([np.count_nonzero(self.map == id) for id in self.ids], int)

    @cached_property
    def boxes(self) -> Integer[np.ndarray, "n 4"]:
        """Tight boxes (x0, y0, x1, y1) in pixel indices, both ends included."""
        found = np.zeros((len(self), 4), int)
        for row, id in zip(found, self.ids, strict=True):
            y, x = np.nonzero(self.map == id)
            row[:] = x.min(), y.min(), x.max(), y.max()
        return found

    @cached_property
    def scores(self) -> Float32[np.ndarray, " n"]:
        """The source's score of each region, 0..1: SAM's predicted IoU, a panoptic network's probability.

        NaN for sources without such a score.
        """
        known = [self.details[name] for name in _SCORES if name in self.details]
        return known[0] if known else np.full(len(self), np.nan, np.float32)

    def mask(self, id: int) -> Bool[np.ndarray, "H W"]:
        """The pixels of a region.

        Raises:
          KeyError: for an id that is not in the map.
        """
        if id not in self.ids:
            raise KeyError(f"there is no region {id} among the {len(self)} of this photo.")
        return self.map == id

    def coco_rle(self) -> list[dict[str, Any]]:
        """A list as `facebookresearch/sam2` writes it: segmentation (COCO RLE), area, bbox and scores."""
        return to_annotations(self.map, self._by_id())

    def picture(self, *, opacity: float = 0.35) -> Image.Image:
        """The photo with every region outlined and in its own colour; unsegmented pixels stay uncoloured."""
        return overlay.outlined(self.photo, self.map, opacity=opacity)

    def save(self, path: str | os.PathLike) -> None:
        """Write the map as `io.region_maps.write_regions` does: `.npz`, `.png`, or `.json` with the scores.

        Raises:
          RegionError: for another suffix, or too many regions for a `.png`.
          OutputError: the file cannot be written.
        """
        write_regions(Path(path), self.map, self._by_id())

    def _by_id(self) -> dict[int, dict[str, float]]:
        return {
            int(id): {name: round(float(values[index]), 6) for name, values in self.details.items()}
            for index, id in enumerate(self.ids)
        }
