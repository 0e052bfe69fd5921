"""How well a model labels a data set, in one go; `run` is for what takes long and may be broken off."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from corrclip_jax.config import Config, PartsConfig
from corrclip_jax.datasets.dataset import Dataset
from corrclip_jax.evaluation.loading import Unreadable
from corrclip_jax.evaluation.scorer import Scorer


class Evaluation(NamedTuple):
    """Pixels by class (see `metrics`) for every variant of the method, and the time.

    `seconds` is the whole run's, pictures included; the `compiling` seconds are not in it.
    """

    matrices: dict[PartsConfig, Int[np.ndarray, "K K1"]]
    pictures: int
    seconds: float
    compiling: float


def ablation() -> tuple[dict[str, PartsConfig], dict[str, PartsConfig]]:
    """The method's parts one upon the other, from plain CLIP to the whole, and the whole without each of them."""
    names = [field.name for field in dataclasses.fields(PartsConfig)]
    upon = {"plain CLIP": PartsConfig(**dict.fromkeys(names, False))}
    for last, name in enumerate(names):
        upon[f"+ {name}"] = PartsConfig(**{each: place <= last for place, each in enumerate(names)})
    return upon, {f"without {name}": PartsConfig(**{name: False}) for name in names}


def evaluate(
    config: Config,
    params: dict[str, Any],
    dataset: Dataset,
    variants: Sequence[PartsConfig] | None = None,
    *,
    regions: str = "sam2",
    batch_size: int | None = None,
    report: Callable[[int], object] = lambda done: None,
) -> Evaluation:
    """Label every picture of a data set with every variant of the method and count the pixels.

    The arguments are those of `Scorer`; `report` hears how many pictures more are done.

    Raises:
      ValueError: for settings that the model or the data set cannot serve, and for a picture that cannot be used.
    """
    scorer = Scorer(config, params, dataset, variants, regions=regions, batch_size=batch_size)
    classes = len(dataset.classes)
    total = np.zeros((len(scorer.variants), classes, classes + 1), np.int64)
    start = time.perf_counter()
    for message in scorer.unreadable.values():
        raise ValueError(message)
    for outcome in scorer(scorer.batches(range(dataset.count))):
        if isinstance(outcome, Unreadable):
            raise ValueError(outcome.message)
        total += outcome.matrices
        report(len(outcome.indices))
    seconds = time.perf_counter() - start - scorer.programs.compile_seconds
    matrices = dict(zip(scorer.variants, total, strict=True))
    return Evaluation(matrices, dataset.count, seconds, scorer.programs.compile_seconds)
