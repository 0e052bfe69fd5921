"""Labels of a data set's pictures, counted on the device: one batch after the other, reading ahead meanwhile.

Pictures of like size share a canvas (see `batching`). Shapes: B pictures, canvas [H, W], K classes.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int, UInt32

from corrclip_jax.config import Config, PartsConfig, with_fields
from corrclip_jax.datasets.dataset import Dataset
from corrclip_jax.evaluation import metrics
from corrclip_jax.evaluation.loading import Broken, Loaded, load_batches, read_sizes
from corrclip_jax.inference.buckets import Batch, Bucket, Size, plan_batches, plan_buckets
from corrclip_jax.inference.label_runner import region_cap
from corrclip_jax.io.region_maps import count_regions
from corrclip_jax.method.segment import make_segment
from corrclip_jax.regions.sources import SOURCES, can_find, find_regions
from corrclip_jax.runtime import sharding
from corrclip_jax.text.encode import embed_text

GIVEN = "given"
"""In place of a source of regions: the data set's own maps."""


class Scored(NamedTuple):
    """What a batch gave.

    `matrices` (see `metrics`) are one for each variant of the method. Of the first variant are `areas`, those of
    every picture; `boundary`, the boundaries' areas summed over the batch; and `labels`, of the pictures' own
    sizes, where they were asked for.
    """

    places: tuple[int, ...]
    matrices: UInt32[np.ndarray, "V K K1"]
    areas: UInt32[np.ndarray, "B 3 K"]
    boundary: UInt32[np.ndarray, "3 K"]
    labels: list[Int[np.ndarray, "H W"]] | None


class Scorer:
    """Labels pictures of a data set with variants of the method and counts their pixels.

    A batch is spread over all devices of this process; every device works on its own pictures. `compiling` is the
    seconds that compilation has taken so far, `unreadable` why pictures have no size, by their places.
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
          batch_size: pictures of like size that go through the model together, rounded up to a multiple of the
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
        self._mesh = Mesh(np.array(devices), ("photos",))
        self._split = sharding.over_images(self._mesh)
        text = embed_text(config, params, dataset.classes)
        self._text, self._params = (sharding.put_params(tree, self._mesh) for tree in (text, dict(params)))
        self._programs: dict[tuple, Callable] = {}
        sizes, self.unreadable = read_sizes(dataset)
        self._plan = _planned(sizes, self.config, self.batch_size, len(devices)) if sizes else []

    def batches(self, places: Iterable[int], process: int = 0, processes: int = 1) -> list[Batch]:
        """The batches with pictures of these places; of several processes, the share of one.

        Which pictures go together depends on neither, so their labels are the same, to the last bit.
        """
        wanted = set(places)
        shares = [
            batch._replace(places=tuple(place for place in batch.places if place in wanted))
            for batch in self._plan[process::processes]
        ]
        return [batch for batch in shares if batch.places]

    def __call__(self, batches: Sequence[Batch], *, keep_labels: bool = False) -> Iterator[Scored | Broken]:
        """Score the pictures of batches; what cannot be read is told in between.

        The host prepares a batch and takes up the last one's counts while the device is at work.

        Raises:
          jax.errors.JaxRuntimeError: where a batch is too large for the memory.
        """
        cap = self.config.method.max_regions if self.regions == GIVEN else None
        underway: list[tuple[Loaded, list]] = []
        for loaded in load_batches(self.dataset, batches, max_regions=cap):
            if isinstance(loaded, Broken):
                yield loaded
                continue
            underway.append((loaded, self._start(loaded)))
            if len(underway) > 1:
                yield self._finish(*underway.pop(0), keep_labels)
        for rest in underway:
            yield self._finish(*rest, keep_labels)

    def _start(self, loaded: Loaded) -> list:
        """Hand a batch to the devices; nothing is waited for."""
        distances = np.array([metrics.boundary_distance(*size) for size in loaded.sizes.tolist()], np.int32)
        arrays = loaded.images, loaded.labels, loaded.sizes, distances
        images, labels, sizes, distances = jax.device_put(arrays, self._split)
        caps = {"max_windows": loaded.batch.bucket.windows}
        if self.regions == GIVEN:
            assert loaded.regions is not None
            caps["max_regions"] = region_cap(max(map(count_regions, loaded.regions)), self.config)
            maps = jax.device_put(loaded.regions, self._split)
        else:
            caps["max_regions"] = SOURCES[self.config.regions.source].cap(self.config) - 1
            maps = self._run("find", partial(_find, self.config), images, sizes)
        outcomes = []
        for number, parts in enumerate(self.variants):
            config = with_fields(self.config, parts=parts, method=caps)
            step = partial(_step, make_segment(config), len(self.dataset.classes), number == 0)
            batch = images, labels, maps, sizes, distances
            outcomes.append(self._run(("step", parts, *caps.values()), step, *batch))
        return outcomes

    def _finish(self, loaded: Loaded, outcomes: list, keep_labels: bool) -> Scored:
        """Wait for a batch's counts; devices' sums are summed here."""
        labels, areas, boundary = outcomes[0].labels, outcomes[0].areas, outcomes[0].boundary
        matrices = jax.device_get([outcome.matrix for outcome in outcomes])
        sizes = loaded.sizes[: len(loaded.places)].tolist()
        kept = None
        if keep_labels:
            kept = [
                each[:height, :width]
                for each, (height, width) in zip(np.asarray(labels), sizes, strict=False)
            ]
        return Scored(
            loaded.places,
            np.stack([each.sum(axis=0, dtype=np.uint32) for each in matrices]),
            np.asarray(areas)[: len(sizes)],
            np.asarray(boundary).sum(axis=0, dtype=np.uint32),
            kept,
        )

    def _run(self, name: Any, function: Callable, *arrays: jax.Array) -> Any:
        """Run a function of parameters, text and a batch's arrays, compiled for their shapes at the first call."""
        key = (name, arrays[0].shape)
        if key not in self._programs:
            start = time.perf_counter()
            spread = sharding.sharded(function, self._mesh) if self._mesh.size > 1 else function
            program = jax.jit(spread).lower(self._params, self._text, *arrays).compile()
            self._programs[key] = program
            self.compiling += time.perf_counter() - start
        return self._programs[key](self._params, self._text, *arrays)


class _Outcome(NamedTuple):
    """What one device gives of its pictures."""

    matrix: jax.Array
    areas: jax.Array | None
    boundary: jax.Array | None
    labels: jax.Array | None


def _find(config: Config, params, text, images, sizes):
    with jax.default_matmul_precision("highest"):
        return find_regions(config, params, images, sizes)[0]


def _step(
    segment: Callable, num_classes: int, whole: bool, params, text, images, truth, regions, sizes, distances
) -> _Outcome:
    labels = segment(params, images, text, sizes=sizes, regions=regions).labels
    count = partial(metrics.confusion, num_classes=num_classes)
    if not whole:
        return _Outcome(count(labels, truth)[None], None, None, None)

    def one(picture):
        labels, truth, distance = picture
        matrix = count(labels, truth)
        return matrix, metrics.areas(matrix), metrics.boundary_areas(labels, truth, num_classes, distance)

    matrices, areas, boundary = jax.lax.map(one, (labels, truth, distances))
    total = partial(jnp.sum, axis=0, keepdims=True, dtype=jnp.uint32)
    return _Outcome(total(matrices), areas, total(boundary), labels)


def _planned(sizes: dict[int, Size], config: Config, most: int, devices: int) -> list[Batch]:
    """Batches of all pictures of a data set, by their places."""
    places, method = list(sizes), config.method

    def slots(bucket: Bucket, count: int) -> int:
        return min(most, -(-count // devices) * devices)

    buckets = plan_buckets(sizes.values(), method)
    batches = plan_batches(list(sizes.values()), buckets, method, slots)
    return [batch._replace(places=tuple(places[number] for number in batch.places)) for batch in batches]


def _checked(config: Config, params: dict[str, Any], regions: str, size: int) -> Config:
    """The configuration with the source of regions."""
    known = [*SOURCES, GIVEN]
    if regions not in known:
        raise ValueError(f"regions must be one of {', '.join(known)}. Got {regions!r}.")
    if size < 1:
        raise ValueError(f"batch_size must be 1 or more. Got {size}.")
    if regions == GIVEN:
        return config
    config = with_fields(config, regions={"source": regions})
    if not can_find(config, params):
        raise ValueError(
            f"the model {config.name!r} has no {SOURCES[config.regions.source].title} to find regions with. Take "
            f"one that has, or regions {GIVEN!r} or 'none'."
        )
    return config
