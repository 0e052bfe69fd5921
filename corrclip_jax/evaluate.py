"""How well a model labels a data set: one loop over batches of pictures, whatever is compared.

A data set is class names and numbered examples. Shapes: B pictures of one size [H, W], K classes.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import jax
import numpy as np
from jaxtyping import Int, Integer, UInt8

from corrclip_jax import metrics
from corrclip_jax.config import Config, PartsConfig, with_fields
from corrclip_jax.datasets import scenes as generated
from corrclip_jax.datasets.words import CLASSES, UNSEEN_CLASSES
from corrclip_jax.segment import make_segment
from corrclip_jax.sources import SOURCES, find_regions
from corrclip_jax.text import embed_text

Regions = Literal["sam2", "truth", "none"]
NOT_SCORED = -1


class Example(NamedTuple):
    """A picture, the class of every pixel (`NOT_SCORED`, or any other number that is no class: left out), and its
    true regions where the data set knows them."""

    image: UInt8[np.ndarray, "H W 3"]
    labels: Integer[np.ndarray, "H W"]
    regions: Integer[np.ndarray, "H W"] | None = None


@dataclass(frozen=True)
class Dataset:
    """Classes, each with its synonyms, and `count` examples, of which `example(index)` gives one."""

    name: str
    classes: tuple[tuple[str, ...], ...]
    count: int
    example: Callable[[int], Example]


class Evaluation(NamedTuple):
    """Pixels by class (see `metrics`) for every variant of the method, and the time.

    `seconds` is the whole run's, pictures included; the `compiling` seconds are not in it.
    """

    matrices: dict[PartsConfig, Int[np.ndarray, "K K+1"]]
    pictures: int
    seconds: float
    compiling: float


def scenes(split: str = "val", count: int | None = None) -> Dataset:
    """The generated scenes: split "val" (200), or "unseen" (100), whose things are colours and shapes in pairs that
    training never shows. `count` takes the first so many.

    Raises:
      ValueError: for another split, or a count that the split does not have.
    """
    splits = {
        "val": (CLASSES, generated.VAL_SCENES, generated.val_scene),
        "unseen": (UNSEEN_CLASSES, generated.UNSEEN_SCENES, generated.unseen_scene),
    }
    if split not in splits:
        raise ValueError(f"the scenes have the splits {', '.join(splits)}. Got {split!r}.")
    classes, most, draw = splits[split]
    if count is not None and not 1 <= count <= most:
        raise ValueError(f"the split {split!r} of the scenes has 1 to {most} pictures to take. Got {count}.")

    def example(index: int) -> Example:
        scene = draw(index)
        return Example(scene.image, scene.labels if split == "val" else scene.unseen_labels, scene.instances)

    return Dataset(f"scenes, {split}", classes, count or most, example)


DATASETS: dict[str, Callable[[str, int | None], Dataset]] = {"scenes": scenes}


def open_dataset(name: str, split: str = "val", count: int | None = None) -> Dataset:
    """A data set by name: the first `count` examples of a split, all by default.

    Raises:
      ValueError: for a name, a split or a count that there is not.
    """
    if name not in DATASETS:
        raise ValueError(f"the data sets are: {', '.join(DATASETS)}. Got {name!r}.")
    return DATASETS[name](split, count)


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
    regions: Regions = "sam2",
    batch_size: int | None = None,
    report: Callable[[int], object] = lambda done: None,
) -> Evaluation:
    """Label every picture of a data set with every variant of the method and count the pixels.

    Args:
      config: the model and the method.
      params: the tree of `load`.
      dataset: what to label.
      variants: which parts are on, by default the configuration's own. All read the same regions, found once.
      regions: "sam2" finds them, "truth" takes the data set's, "none" does without.
      batch_size: pictures of one size that go through the model together; None means 1 on a CPU, else 16. It bounds
        memory and sets the speed, and changes no result beyond the last bits of a logit.
      report: hears how many pictures more are done.

    Raises:
      ValueError: for settings that the model or the data set cannot serve; where pictures have more regions than
        `config.method.max_regions`.
    """
    size = (1 if jax.default_backend() == "cpu" else 16) if batch_size is None else batch_size
    _check(config, params, dataset, regions, size)
    text = embed_text(config, params, dataset.classes)
    find, cap = _region_finder(config, regions)
    config = with_fields(config, method={"max_regions": cap})
    steps = {
        parts: _Program(_counting(with_fields(config, parts=parts)))
        for parts in dict.fromkeys([config.parts] if variants is None else variants)
    }
    counts = {parts: metrics.no_counts(len(dataset.classes)) for parts in steps}
    params = jax.device_put(params)

    start = time.perf_counter()
    for batch in batches(dataset, size):
        maps = batch.regions if find is None else find(params, batch.images)
        for parts, step in steps.items():
            counts[parts] = step(params, text, counts[parts], batch.images, batch.labels, maps)
        jax.block_until_ready(list(counts.values()))
        report(batch.real)
    seconds = time.perf_counter() - start
    compiling = sum(program.seconds for program in (find, *steps.values()) if program)
    matrices = {parts: metrics.to_matrix(count) for parts, count in counts.items()}
    if any(matrix[:, -1].any() for matrix in matrices.values()):
        raise ValueError(
            f"some pictures have more than config.method.max_regions = {config.method.max_regions} regions. "
            "Raise it."
        )
    return Evaluation(matrices, dataset.count, seconds - compiling, compiling)


class Batch(NamedTuple):
    """Pictures of one size; after the first `real` ones copies fill the batch, with labels `NOT_SCORED`."""

    images: UInt8[np.ndarray, "B H W 3"]
    labels: Int[np.ndarray, "B H W"]
    regions: Int[np.ndarray, "B H W"] | None
    real: int


def batches(dataset: Dataset, size: int) -> Iterator[Batch]:
    """All examples in batches of one picture size each, in the order in which batches are full."""
    waiting: dict[tuple[int, ...], list[Example]] = {}
    for index in range(dataset.count):
        example = dataset.example(index)
        group = waiting.setdefault(example.labels.shape, [])
        group.append(example)
        if len(group) == size:
            yield _stack(waiting.pop(example.labels.shape), size)
    for group in waiting.values():
        yield _stack(group, size)


def _stack(group: list[Example], size: int) -> Batch:
    filler = group[-1]._replace(labels=np.full(group[-1].labels.shape, NOT_SCORED))
    filled = group + [filler] * (size - len(group))
    images, labels = (np.stack(arrays) for arrays in zip(*((e.image, e.labels) for e in filled), strict=True))
    maps = [example.regions for example in filled if example.regions is not None]
    regions = np.stack(maps).astype(np.int32) if maps else None
    return Batch(images, labels.astype(np.int32), regions, len(group))


class _Program:
    """A pure function, compiled for each shape of its last arguments; `seconds` is what that has taken."""

    def __init__(self, function: Callable):
        self._function = jax.jit(function)
        self._compiled: dict[tuple[int, ...], Callable] = {}
        self.seconds = 0.0

    def __call__(self, *args: Any) -> Any:
        shape = args[-1].shape
        if shape not in self._compiled:
            start = time.perf_counter()
            self._compiled[shape] = self._function.lower(*args).compile()
            self.seconds += time.perf_counter() - start
        return self._compiled[shape](*args)


def _counting(config: Config) -> Callable:
    segment = make_segment(config)

    def step(params, text, counts, images, truth, regions):
        return metrics.add_counts(counts, segment(params, images, text, regions=regions).labels, truth)

    return step


def _region_finder(config: Config, regions: Regions) -> tuple[_Program | None, int]:
    """The program that finds region maps, None where they are given, and the most regions that a map can hold."""
    if regions == "truth":
        return None, config.method.max_regions
    config = with_fields(config, regions={"source": regions})

    def find(params, images):
        with jax.default_matmul_precision("highest"):
            return find_regions(config, params, images)[0]

    return _Program(find), SOURCES[regions].cap(config) - 1


def _check(config: Config, params: dict[str, Any], dataset: Dataset, regions: Regions, size: int) -> None:
    if regions not in get_args(Regions):
        raise ValueError(f"regions must be one of {', '.join(get_args(Regions))}. Got {regions!r}.")
    if size < 1:
        raise ValueError(f"batch_size must be 1 or more. Got {size}.")
    if regions == "sam2" and (config.sam2 is None or "sam2" not in params):
        raise ValueError(
            f"the model {config.name!r} has no SAM 2 to find regions with. Take one that has, or regions 'truth' "
            "or 'none'."
        )
    if regions == "truth" and dataset.example(0).regions is None:
        raise ValueError(f"the data set {dataset.name!r} holds no true regions. Take 'sam2' or 'none'.")
