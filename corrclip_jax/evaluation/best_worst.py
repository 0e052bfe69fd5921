"""Worst and best labelled images: photo, truth and labels side by side."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from corrclip_jax.datasets.dataset import Dataset
from corrclip_jax.evaluation.batch_counts import BatchCounts
from corrclip_jax.evaluation.scorer import Scorer
from corrclip_jax.viz.contact_sheet import contact_sheet
from corrclip_jax.viz.legend import legend_name
from corrclip_jax.viz.overlay import overlay
from corrclip_jax.viz.palette import class_colours

TITLES = ("photo", "truth", "labels")
_SIDE = 320
_PAPER = (255, 255, 255)


class LabelledImage(NamedTuple):
    """An image of a data set to look at.

    Attributes:
      stem: its name.
      score: its mIoU.
      pictures: photo, truth and labels, all of one size.
      classes: the classes in truth or labels.
    """

    stem: str
    score: float
    pictures: tuple[Image.Image, Image.Image, Image.Image]
    classes: frozenset[int]


def worst_and_best(scores: Float[np.ndarray, " N"], most: int) -> tuple[list[int], list[int]]:
    """The indices of the worst images, worst first, and of the best, best first; none is in both lists.

    >>> worst_and_best(np.array([0.5, np.nan, 0.1, 0.9]), 2)
    ([2, 0], [3])
    """
    known = np.flatnonzero(~np.isnan(scores))
    order = known[np.argsort(scores[known], kind="stable")].tolist()
    worst = order[: min(most, (len(order) + 1) // 2)]
    return worst, [index for index in order[::-1][:most] if index not in worst]


def label_again(scorer: Scorer, indices: Sequence[int]) -> dict[int, Int[np.ndarray, "H W"]]:
    """The labels of some images, by their indices; those that cannot be read are left out."""
    found: dict[int, np.ndarray] = {}
    for outcome in scorer(scorer.batches(indices), keep_labels=True):
        if isinstance(outcome, BatchCounts) and outcome.labels is not None:
            found |= dict(zip(outcome.indices, outcome.labels, strict=True))
    return found


def shown(dataset: Dataset, index: int, score: float, labels: Int[np.ndarray, "H W"]) -> LabelledImage:
    """An image with its truth and its labels, to look at.

    Raises:
      PhotoError, LabelError: if it can no longer be read.
    """
    image, truth, _ = dataset.example(index)
    # Pixels without class get the class background, which overlays leave uncoloured.
    names, nothing = [*dataset.class_names, "background"], len(dataset.classes)
    known = (truth >= 0) & (truth < nothing)
    maps = [np.where(known, truth, nothing), np.where(labels >= 0, labels, nothing)]
    pictures = [_framed(Image.fromarray(image))]
    pictures += [_framed(overlay(image, each, names, opacity=0.65, legend=False)) for each in maps]
    present = np.unique(np.concatenate([each[known] for each in maps])).tolist()
    classes = frozenset(label for label in present if label != nothing)
    return LabelledImage(dataset.stem(index), float(score), (pictures[0], pictures[1], pictures[2]), classes)


def sheet(shown: Sequence[LabelledImage], class_names: Sequence[str]) -> Image.Image:
    """A contact sheet with one row for each image, and the legend of the classes in them."""
    colours = class_colours(class_names).tolist()
    present = sorted({label for one in shown for label in one.classes})
    names = {label: legend_name(label, [class_names[label]]) for label in present}
    key = {names[label]: (colours[label][0], colours[label][1], colours[label][2]) for label in present}
    return contact_sheet([one.pictures for one in shown], TITLES, key)


def _framed(image: Image.Image) -> Image.Image:
    """The image as large as it fits into a 4 : 3 frame, centred."""
    width, height = _SIDE, _SIDE * 3 // 4
    scale = min(width / image.width, height / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    frame = Image.new("RGB", (width, height), _PAPER)
    small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    frame.paste(small, ((width - size[0]) // 2, (height - size[1]) // 2))
    return frame
