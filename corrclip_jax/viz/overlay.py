"""Overlays: an image under the colours of its labels or regions; and label maps as PNG images with a palette."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Integer, UInt8
from PIL import Image

from corrclip_jax.viz.legend import Entry, legend_name, with_legend
from corrclip_jax.viz.palette import class_colours, is_background, palette

LONGEST_OVERLAY = 4096
"""Longest side of an overlay in pixels: larger images are scaled down, very small ones are enlarged."""

_SMALLEST_OVERLAY = 320


def label_image(labels: Integer[np.ndarray, "H W"], class_names: Sequence[str]) -> Image.Image:
    """A label map as an index image: 8 bits with a palette, or 16 bits grey for more than 255 classes.

    Raises:
      ValueError: for a label that is no class, or more than 65,536 classes.
    """
    count = len(class_names)
    if labels.size and not 0 <= labels.min() <= labels.max() < count:
        raise ValueError(f"Labels go from {labels.min()} to {labels.max()}, but there are {count} classes.")
    if count > 65536:
        raise ValueError(f"A PNG holds labels of at most 16 bits: 65,536 classes. Got {count:,}.")
    if count > 255:
        return Image.fromarray(labels.astype(np.uint16))
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette(class_colours(class_names).tobytes())
    return image


def class_shares(labels: Integer[np.ndarray, "H W"], count: int) -> Float[np.ndarray, " K"]:
    """Share of the pixels (0..1) of each of `count` classes, [K]."""
    return np.bincount(labels.ravel(), minlength=count) / max(labels.size, 1)


def overlay(
    photo: UInt8[np.ndarray, "H W 3"],
    labels: Integer[np.ndarray, "h w"],
    class_names: Sequence[str],
    *,
    opacity: float = 0.5,
    legend: bool = True,
    synonyms: Sequence[Sequence[str]] = (),
) -> Image.Image:
    """Tint an image with the colours of its classes, outlined in white. A class called "background" stays clear.

    Args:
      photo: the image.
      labels: class of each pixel.
      class_names: of all classes; they decide the colours.
      opacity: of the colours, 0..1.
      legend: whether to add a legend of the classes that occur, sorted by share: below a wide image, to the
        right of a tall one (see `with_legend`).
      synonyms: all names of every class; the legend takes another one where no font here has the first's letters,
        and the class's number where it has none of them.

    Returns:
      The overlay, scaled down if the image is larger than `LONGEST_OVERLAY`.

    Raises:
      ValueError: if image and labels differ in size, or a label is no class.
    """
    if labels.shape != photo.shape[:2]:
        raise ValueError(f"Photo and labels differ in size: {photo.shape[:2]} and {labels.shape}.")
    if labels.size and not 0 <= labels.min() <= labels.max() < len(class_names):
        raise ValueError(
            f"Labels go from {labels.min()} to {labels.max()}, but there are {len(class_names)} classes."
        )
    shares = class_shares(labels, len(class_names))
    image, labels = _displayable(Image.fromarray(photo), labels)
    tinted = _tint(image, labels, class_names, opacity)
    if not legend:
        return tinted
    colours = [tuple(colour) for colour in class_colours(class_names).tolist()]
    entries = [
        Entry(
            legend_name(int(k), synonyms[k] if synonyms else [class_names[k]]),
            float(shares[k]),
            None if is_background(class_names[k]) else colours[k],
        )
        for k in np.argsort(-shares, kind="stable")
        if shares[k] > 0
    ]
    return with_legend(tinted, entries)


def tinted(
    photo: UInt8[np.ndarray, "H W 3"],
    labels: Integer[np.ndarray, "H W"],
    class_names: Sequence[str],
    *,
    opacity: float = 0.5,
) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels of an `overlay` of the image's own size, without a legend, as for a frame of a video."""
    return np.asarray(_tint(Image.fromarray(photo), labels, class_names, opacity))


def outlined(
    photo: UInt8[np.ndarray, "H W 3"], regions: Integer[np.ndarray, "h w"], *, opacity: float = 0.35
) -> Image.Image:
    """Tint and outline every region in a colour that depends on its id; unsegmented pixels (id 0) stay clear.

    Args:
      photo: the image.
      regions: region map.
      opacity: of the colours, 0..1.

    Returns:
      The image, scaled as in `overlay`.

    Raises:
      ValueError: if image and map differ in size.
    """
    if regions.shape != photo.shape[:2]:
        raise ValueError(f"Photo and regions differ in size: {photo.shape[:2]} and {regions.shape}.")
    image, regions = _displayable(Image.fromarray(photo), regions)
    colours = Image.fromarray(palette(1024)[(regions - 1) % 1024])
    drawn = image.copy()
    within = Image.fromarray(np.where(regions > 0, np.uint8(255), np.uint8(0)))
    drawn.paste(Image.blend(image, colours, opacity), mask=within)
    edges = _outlines(regions, max(1, round(math.sqrt(regions.size) / 400)))
    # A line has the colour of the region below it, and is white on unsegmented pixels.
    lines = np.where((regions > 0)[..., None], np.asarray(colours), np.uint8(255))
    drawn.paste(Image.fromarray(lines), mask=Image.fromarray(np.where(edges, np.uint8(255), np.uint8(0))))
    return drawn


def _displayable(image: Image.Image, labels: np.ndarray) -> tuple[Image.Image, np.ndarray]:
    longest = max(image.size)
    if longest > LONGEST_OVERLAY:
        step = math.ceil(longest / LONGEST_OVERLAY)
        return image.reduce(step), labels[::step, ::step]
    times = math.ceil(_SMALLEST_OVERLAY / longest)
    enlarged = image.resize((image.width * times, image.height * times), Image.Resampling.NEAREST)
    return enlarged, labels.repeat(times, 0).repeat(times, 1)


def _tint(image: Image.Image, labels: np.ndarray, class_names: Sequence[str], opacity: float) -> Image.Image:
    colours = Image.fromarray(class_colours(class_names)[labels])
    tinted = Image.blend(image, colours, opacity)
    clear = np.array([is_background(name) for name in class_names])
    if clear[labels].any():
        tinted.paste(image, mask=Image.fromarray(clear[labels]))
    width = max(1, round(math.sqrt(labels.size) / 800))
    lines = Image.fromarray(np.where(_outlines(labels, width), np.uint8(215), np.uint8(0)))
    tinted.paste((255, 255, 255), (0, 0), lines)
    return tinted


def _outlines(labels: np.ndarray, width: int) -> np.ndarray:
    """Pixels whose label differs from that of the right or lower neighbour, as lines of `width` pixels."""
    edge = np.zeros(labels.shape, bool)
    edge[:, :-1] |= labels[:, 1:] != labels[:, :-1]
    edge[:-1] |= labels[1:] != labels[:-1]
    for view in (edge, edge.T):
        thin = view.copy()
        for step in range(1, width):
            view[:, :-step] |= thin[:, step:]
    return edge
