"""Labels of a data set's pictures, counted on the device: one batch after the other, reading ahead meanwhile.

Shapes: B pictures of one size [H, W], K classes.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Int, UInt32

from corrclip_jax import metrics
from corrclip_jax.config import Config, PartsConfig, RegionSource, with_fields
from corrclip_jax.datasets.dataset import Dataset
from corrclip_jax.datasets.reading import Batch, Broken, batches, read_ahead
from corrclip_jax.region_files import count_regions
from corrclip_jax.segment import make_segment
from corrclip_jax.sources import SOURCES, can_find, find_regions
from corrclip_jax.text import embed_text

GIVEN = "given"
"""In place of a source of regions: the data set's own maps."""


class Scored(NamedTuple):
    """What a batch gave.

    `matrices` (see `metrics`) are one for each variant of the method. Of the first variant are `areas`, those of
    every picture; `boundary`, the boundaries' areas summed over the batch; and `labels`, where they were asked for.
    """

    indices: tuple[int, ...]
    matrices: UInt32[np.ndarray, "V K K1"]
    areas: UInt32[np.ndarray, "B 3 K"]
    boundary: UInt32[np.ndarray, "3 K"]
    labels: Int[np.ndarray, "B H W"] | None


class Scorer:
    """Labels pictures of a data set with variants of the method and counts their pixels.

    A batch is spread over all devices of this process; every device works on its own pictures. `compiling` is the
    seconds that compilation has taken so far.
    """

    def __init__(
        self,
        config: Config,
        params: dict[str, Any],
        dataset: Dataset,
        variants: Sequence[PartsConfig] | None = None,
        *,
        regions: str = "sam2",
        batch_size: int | None = None,
    ):
        """Embed the class names and place the parameters.

        Args:
          config: the model and the method.
          params: the tree of `load`.
          dataset: what to label.
          variants: which parts are on, by default the configuration's own. All read the same regions, found once.
          regions: the source that finds them (`SOURCES`), or `GIVEN`, the data set's own.
          batch_size: pictures of one size that go through the model together, rounded up to a multiple of the
            devices; None means 1 a device on CPUs, else 16. It bounds memory and sets the speed, and changes no
            result beyond the last bits of a logit.

        Raises:
          ValueError: for settings that the model or the data set cannot serve.
        """
        devices = jax.local_devices()
        size = (
            (1 if jax.default_backend() == "cpu" else 16) * len(devices) if batch_size is None else batch_size
        )
        config = _checked(config, params, regions, size)
        self.dataset, self.config, self.regions = dataset, config, regions
        self.batch_size = -(-size // len(devices)) * len(devices)
        self.variants = tuple(dict.fromkeys([config.parts] if variants is None else variants))
        self.compiling = 0.0
        self._mesh = Mesh(np.array(devices), ("pictures",))
        self._replicated, self._split = (NamedSharding(self._mesh, spec) for spec in (P(), P("pictures")))
        text = embed_text(config, params, dataset.classes)
        self._text, self._params = jax.device_put((text, dict(params)), self._replicated)
        self._programs: dict[tuple, Callable] = {}

    def __call__(self, indices: Iterable[int], *, keep_labels: bool = False) -> Iterator[Scored | Broken]:
        """Score the pictures of some places; what cannot be read is told in between.

        The host prepares a batch and takes up the last one's counts while the device is at work.

        Raises:
          jax.errors.JaxRuntimeError: where a batch is too large for the memory.
        """
        cap = self.config.method.max_regions if self.regions == GIVEN else None
        underway: list[tuple[Batch, list]] = []
        for batch in batches(read_ahead(self.dataset, list(indices), max_regions=cap), self.batch_size):
            if isinstance(batch, Broken):
                yield batch
                continue
            underway.append((batch, self._start(batch)))
            if len(underway) > 1:
                yield self._finish(*underway.pop(0), keep_labels)
        for rest in underway:
            yield self._finish(*rest, keep_labels)

    def _start(self, batch: Batch) -> list:
        """Hand a batch to the devices; nothing is waited for."""
        images, labels = jax.device_put((batch.images, batch.labels), self._split)
        if self.regions == GIVEN:
            assert batch.regions is not None
            cap = _cap(batch.regions, self.config.method.max_regions)
            maps = jax.device_put(batch.regions, self._split)
        else:
            cap = SOURCES[self.config.regions.source].cap(self.config) - 1
            maps = self._run("find", partial(_find, self.config), (self._params,), (images,))
        outcomes = []
        for number, parts in enumerate(self.variants):
            config = with_fields(self.config, parts=parts, method={"max_regions": cap})
            step = partial(_step, make_segment(config), len(self.dataset.classes), number == 0)
            shared, split = (self._params, self._text), (images, labels, maps)
            outcomes.append(self._run(("step", parts, cap), step, shared, split))
        return outcomes

    def _finish(self, batch: Batch, outcomes: list, keep_labels: bool) -> Scored:
        """Wait for a batch's counts; devices' sums are summed here."""
        real = len(batch.indices)
        labels, areas, boundary = outcomes[0].labels, outcomes[0].areas, outcomes[0].boundary
        matrices = jax.device_get([outcome.matrix for outcome in outcomes])
        return Scored(
            batch.indices,
            np.stack([each.sum(axis=0, dtype=np.uint32) for each in matrices]),
            np.asarray(areas)[:real],
            np.asarray(boundary).sum(axis=0, dtype=np.uint32),
            np.asarray(labels)[:real] if keep_labels else None,
        )

    def _run(self, name: Any, function: Callable, shared: tuple, split: tuple) -> Any:
        """Run a function of shared and of split arguments, compiled for their shapes at the first call."""
        key = (name, split[0].shape)
        if key not in self._programs:
            start = time.perf_counter()
            spread = function
            if self._mesh.size > 1:
                specs = (P(),) * len(shared) + (P("pictures"),) * len(split)
                spread = jax.shard_map(
                    function, mesh=self._mesh, in_specs=specs, out_specs=P("pictures"), check_vma=False
                )
            self._programs[key] = jax.jit(spread).lower(*shared, *split).compile()
            self.compiling += time.perf_counter() - start
        return self._programs[key](*shared, *split)


class _Outcome(NamedTuple):
    """What one device gives of its pictures."""

    matrix: jax.Array
    areas: jax.Array | None
    boundary: jax.Array | None
    labels: jax.Array | None


def _find(config: Config, params, images):
    with jax.default_matmul_precision("highest"):
        return find_regions(config, params, images)[0]


def _step(segment: Callable, num_classes: int, whole: bool, params, text, images, truth, regions) -> _Outcome:
    labels = segment(params, images, text, regions=regions).labels
    count = partial(metrics.confusion, num_classes=num_classes)
    if not whole:
        return _Outcome(count(labels, truth)[None], None, None, None)

    def one(pair):
        labels, truth = pair
        matrix = count(labels, truth)
        return matrix, metrics.areas(matrix), metrics.boundary_areas(labels, truth, num_classes)

    if len(labels) == 1:
        matrices, areas, boundary = jax.tree.map(lambda x: x[None], one((labels[0], truth[0])))
    else:
        matrices, areas, boundary = jax.lax.map(one, (labels, truth))
    total = partial(jnp.sum, axis=0, keepdims=True, dtype=jnp.uint32)
    return _Outcome(total(matrices), areas, total(boundary), labels)


def _cap(regions: Int[np.ndarray, "B H W"], most: int) -> int:
    """A cap on regions that serves many batches: a region is a token in every block of the image tower."""
    count = max(map(count_regions, regions))
    return min(next(cap for cap in (16 << 2 * n for n in range(16)) if cap >= count), most)


def _checked(config: Config, params: dict[str, Any], regions: str, size: int) -> Config:
    """The configuration with the source of regions."""
    known = [*SOURCES, GIVEN]
    if regions not in known:
        raise ValueError(f"regions must be one of {', '.join(known)}. Got {regions!r}.")
    if size < 1:
        raise ValueError(f"batch_size must be 1 or more. Got {size}.")
    if regions == GIVEN:
        return config
    config = with_fields(config, regions={"source": cast(RegionSource, regions)})
    if not can_find(config, params):
        raise ValueError(
            f"the model {config.name!r} has no {SOURCES[config.regions.source].title} to find regions with. Take "
            f"one that has, or regions {GIVEN!r} or 'none'."
        )
    return config
