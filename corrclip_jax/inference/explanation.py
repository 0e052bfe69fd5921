"""Explanation of a segmentation: each region of a photo beside the bank entries that supported it, as a page."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from corrclip_jax.bank.folder import BOXES, BankImage, Description, read_description, read_images
from corrclip_jax.bank.rows import Rows
from corrclip_jax.inference.segmentation import Segmentation
from corrclip_jax.io.photos import PhotoError, read_photo
from corrclip_jax.io.region_maps import bounding_box
from corrclip_jax.viz.data_uri import data_uri
from corrclip_jax.viz.overlay import outlined

_CROP = 240  # longer side of a crop, which the page shows at two thirds of it
_MARGIN = 0.15  # around a region, of its box
_DIMMED = 0.3  # brightness of what is not the region
_CLASSES = 3  # that are listed for a region

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --bar: #3f88e6; --faint: #888; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin: 0 0 .3rem; } p, .faint { color: var(--faint); }
.photos { display: flex; gap: .6rem; align-items: flex-start; }
.photos img { width: 100%; min-width: 0; flex: 1; border-radius: 4px; }
section { display: flex; gap: 1.2rem; border-top: 1px solid var(--line); padding: 1.1rem 0; }
.region { flex: 0 0 13rem; } .region p { margin: .4rem 0; }
.region img, figure img { width: 10rem; height: 10rem; object-fit: contain; background: var(--line); }
.found { display: flex; flex-wrap: wrap; gap: .6rem; }
figure { margin: 0; width: 10rem; } img, .none { border-radius: 4px; }
.none { width: 10rem; height: 10rem; background: var(--line); color: var(--faint); }
.none { display: grid; place-items: center; }
figcaption { color: var(--faint); font-size: .8rem; overflow-wrap: anywhere; }
.said { display: grid; grid-template-columns: auto 1fr auto; gap: 0 .5rem; align-items: center; }
.track { background: var(--line); border-radius: 4px; height: .6rem; }
.bar { background: var(--bar); border-radius: 4px; height: 100%; }
"""


class Neighbour(NamedTuple):
    """A bank entry that supported a region.

    Attributes:
      entry: its id.
      similarity: to the region; larger is nearer.
      image: the path of its image; None where the bank does not know it.
      crop: the entry's box in the image; None where the image is not at hand.
    """

    entry: int
    similarity: float
    image: str | None
    crop: Image.Image | None


class ExplainedRegion(NamedTuple):
    """A region of the photo.

    Attributes:
      id: in the region map.
      share: of the photo's pixels, 0..1.
      label: the class that most of its pixels got.
      own: classes that its own features are nearest to, with the mean logit of its pixels, the nearest first.
      said: classes that the bank's support is nearest to, with the cosine similarity, the nearest first.
      crop: the region, what surrounds it dimmed.
      neighbours: the nearest entries first.
    """

    id: int
    share: float
    label: str
    own: list[tuple[str, float]]
    said: list[tuple[str, float]]
    crop: Image.Image
    neighbours: list[Neighbour]


def explain(segmentation: Segmentation, bank: Path, *, neighbours: int = 8) -> list[ExplainedRegion]:
    """Why the regions of a photo have their labels: the nearest entries of the bank, the largest region first.

    Args:
      segmentation: of a photo, made with the bank.
      bank: the bank's folder.
      neighbours: how many are shown of each region.

    Raises:
      ValueError: for a segmentation without a bank.
      BankError: for a damaged bank.
    """
    support = segmentation.support
    if support is None:
        raise ValueError("the photo was segmented without a bank: give Segmenter(bank=) one.")
    crop = _crops(bank)
    nearest = _nearest_classes(segmentation)
    found = []
    for row, id in enumerate(support.regions):
        mask = segmentation.regions == id
        known = segmentation.labels[mask]
        labels = np.bincount(known[known >= 0], minlength=len(segmentation.classes))
        near = zip(support.neighbours[row, :neighbours], support.similarities[row, :neighbours], strict=True)
        found.append(
            ExplainedRegion(
                int(id),
                float(mask.mean()),
                segmentation.class_names[int(labels.argmax())],
                nearest(support.own[row]),
                nearest(support.logits[row]),
                _region_crop(segmentation.photo, mask),
                [
                    Neighbour(int(entry), float(score), *crop(int(entry)))
                    for entry, score in near
                    if entry >= 0
                ],
            )
        )
    return sorted(found, key=lambda region: -region.share)


def _nearest_classes(
    segmentation: Segmentation,
) -> Callable[[np.ndarray], list[tuple[str, float]]]:
    """A function from the logits of queries to the best classes, each with the logit of its best query."""
    owner = [number for number, names in enumerate(segmentation.classes) for _ in names]

    def nearest(logits: np.ndarray) -> list[tuple[str, float]]:
        best = np.full(len(segmentation.classes), -np.inf)
        np.maximum.at(best, owner, logits)
        return [(segmentation.class_names[i], float(best[i])) for i in np.argsort(-best)[:_CLASSES]]

    return nearest


def page(name: str, segmentation: Segmentation, regions: Sequence[ExplainedRegion], bank: str) -> str:
    """A self-contained HTML page of an explanation."""
    title = escape(f"Why these labels: {name}")
    photos = [outlined(segmentation.photo, segmentation.regions), segmentation.overlay()]
    shown = "".join(f'<img alt="" src="{_data(image)}">' for image in photos)
    return "\n".join(
        [
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<style>{_STYLE}</style></head><body><h1>{title}</h1>",
            f'<div class="photos">{shown}</div>',
            "<p>Left the regions, right the labels. Below, each region, the largest first: its label, what its own "
            f"pixels say (the mean of their logits), what its neighbours in the bank {escape(bank)} say (the "
            "cosines of the mean of their values and the classes), and the nearest of them, each cut from its "
            "image by its box. A pixel's label comes from a weighted sum of both.</p>",
            *map(_section, regions),
            "</body></html>\n",
        ]
    )


def _section(region: ExplainedRegion) -> str:
    both = "".join(_said(*one) for one in (("Its own pixels", region.own), ("The bank", region.said)))
    figures = "".join(map(_figure, region.neighbours)) or "<p>No entry of the bank was found for it.</p>"
    return (
        f'<section><div class="region"><h2>{escape(region.label)}</h2><img alt="" src="{_data(region.crop)}">'
        f"<p>{100 * region.share:.1f} % of the photo</p>{both}</div>"
        f'<div class="found">{figures}</div></section>'
    )


def _said(who: str, classes: Sequence[tuple[str, float]]) -> str:
    bars = "".join(
        f'<span>{escape(name)}</span><div class="track"><div class="bar" style="width:{100 * max(value, 0):.0f}%">'
        f"</div></div><span>{value:.2f}</span>"
        for name, value in classes
    )
    return f'<p>{who}</p><div class="said">{bars}</div>'


def _figure(neighbour: Neighbour) -> str:
    name = "image not known" if neighbour.image is None else Path(neighbour.image).name
    shown = '<div class="none">not at hand</div>'
    if neighbour.crop is not None:
        shown = f'<img alt="" src="{_data(neighbour.crop)}">'
    return (
        f"<figure>{shown}<figcaption>{neighbour.similarity:.3f} &middot; entry {neighbour.entry}<br>"
        f"{escape(name)}</figcaption></figure>"
    )


def _region_crop(photo: np.ndarray, mask: np.ndarray) -> Image.Image:
    dimmed = np.where(mask[..., None], photo, (photo * _DIMMED).astype(np.uint8))
    return _cut(dimmed, bounding_box(mask))


def _crops(bank: Path) -> Callable[[int], tuple[str | None, Image.Image | None]]:
    """A function from an entry to the path of its image and its crop there."""
    description: Description = read_description(bank)
    images: list[BankImage] = read_images(bank, description)
    firsts = np.array([image.first for image in images])
    boxes = Rows(bank / BOXES, description.entries) if images else None

    @lru_cache(maxsize=16)
    def pixels(path: Path) -> np.ndarray | None:
        try:
            return read_photo(path)
        except PhotoError:
            return None

    def crop(entry: int) -> tuple[str | None, Image.Image | None]:
        if boxes is None:
            return None, None
        image = images[int(np.searchsorted(firsts, entry, side="right")) - 1]
        path = Path(description.roots[image.root]) / image.name
        photo = pixels(path)
        return str(path), None if photo is None else _cut(photo, boxes[entry : entry + 1][0].tolist())

    return crop


def _cut(photo: np.ndarray, box: Sequence[int]) -> Image.Image:
    """The box (x0, y0, x1, y1), ends included, with a margin."""
    height, width = photo.shape[:2]
    x0, y0, x1, y1 = box
    margin = round(_MARGIN * max(x1 - x0, y1 - y0)) + 1
    part = photo[
        max(y0 - margin, 0) : min(y1 + margin + 1, height), max(x0 - margin, 0) : min(x1 + margin + 1, width)
    ]
    image = Image.fromarray(part)
    scale = _CROP / max(image.size)
    return image.resize([max(1, round(side * scale)) for side in image.size], Image.Resampling.LANCZOS)


def _data(image: Image.Image) -> str:
    return data_uri(image.convert("RGB"), quality=85)
