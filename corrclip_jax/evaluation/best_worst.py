"""The pictures that a model labels worst and best: photo, truth and labels side by side."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image

from corrclip_jax.evaluation.scorer import BatchCounts, Scorer
from corrclip_jax.viz.contact_sheet import contact_sheet
from corrclip_jax.viz.overlay import overlay
from corrclip_jax.viz.palette import class_colours

TITLES = ("photo", "truth", "labels")
_SIDE = 320
_PAPER = (255, 255, 255)


class Shown(NamedTuple):
    """A picture: its place and name, its own mIoU, and photo, truth and labels on canvases of one size."""

    place: int
    stem: str
    score: float
    pictures: tuple[Image.Image, Image.Image, Image.Image]
    classes: frozenset[int]


def extremes(scores: Float[np.ndarray, " N"], most: int) -> tuple[list[int], list[int]]:
    """The places of the worst pictures, the worst first, and of the best, the best first; none is in both lists.

    >>> extremes(np.array([0.5, np.nan, 0.1, 0.9]), 2)
    ([2, 0], [3])
    """
    known = np.flatnonzero(~np.isnan(scores))
    order = known[np.argsort(scores[known], kind="stable")].tolist()
    worst = order[: min(most, (len(order) + 1) // 2)]
    return worst, [index for index in order[::-1][:most] if index not in worst]


def show(scorer: Scorer, scores: Float[np.ndarray, " N"], indices: Sequence[int]) -> list[Shown]:
    """Label some pictures again, to look at them, in the given order."""
    data = scorer.dataset
    # What is not scored is left clear, as a class of that name is.
    names = [*(synonyms[0] for synonyms in data.classes), "background"]
    found: dict[int, Shown] = {}
    for outcome in scorer(scorer.batches(indices), keep_labels=True):
        if not isinstance(outcome, BatchCounts) or outcome.labels is None:
            continue
        for index, labels in zip(outcome.indices, outcome.labels, strict=True):
            image, truth, _ = data.example(index)
            known = (truth >= 0) & (truth < len(data.classes))
            maps = [np.where(known, truth, len(data.classes)), labels]
            pictures = [_framed(Image.fromarray(image))]
            pictures += [_framed(overlay(image, each, names, opacity=0.65, legend=False)) for each in maps]
            classes = frozenset(np.unique(np.concatenate([truth[known], labels[known]])).tolist())
            found[index] = Shown(
                index,
                data.stem(index),
                float(scores[index]),
                (pictures[0], pictures[1], pictures[2]),
                classes,
            )
    return [found[index] for index in indices if index in found]


def sheet(shown: Sequence[Shown], class_names: Sequence[str]) -> Image.Image:
    """A contact sheet with a row a picture, and the key of the classes in them."""
    colours = class_colours(class_names).tolist()
    present = sorted({label for one in shown for label in one.classes})
    key = {class_names[label]: (colours[label][0], colours[label][1], colours[label][2]) for label in present}
    return contact_sheet([one.pictures for one in shown], TITLES, key)


def _framed(image: Image.Image) -> Image.Image:
    """The picture as large as it fits into a canvas of 4 : 3, centred."""
    width, height = _SIDE, _SIDE * 3 // 4
    scale = min(width / image.width, height / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    canvas = Image.new("RGB", (width, height), _PAPER)
    small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    canvas.paste(small, ((width - size[0]) // 2, (height - size[1]) // 2))
    return canvas
