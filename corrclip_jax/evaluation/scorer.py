"""Scorer: labels of a data set's images, counted on the devices, batch by batch.

Images of similar size share a padded batch (see `inference.buckets`). Shapes: B images, padded batch [H, W], K
classes, V variants of the method.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from corrclip_jax.config import Config, PartsConfig, with_fields
from corrclip_jax.datasets.dataset import Dataset, Example
from corrclip_jax.evaluation import metrics
from corrclip_jax.evaluation.batch_counts import BatchCounts, counts_of, first_unlabelled, joined
from corrclip_jax.evaluation.loading import Unreadable, padded_examples, read_example, read_sizes
from corrclip_jax.inference.buckets import Batch, Size, plan_batches, plan_buckets
from corrclip_jax.inference.label_runner import region_cap
from corrclip_jax.inference.not_finite import not_finite
from corrclip_jax.inference.other_clips import Loaded, embed_in_all
from corrclip_jax.inference.programs import BatchLimit, Piece, Programs
from corrclip_jax.io.region_maps import count_regions
from corrclip_jax.method.bank import Bank
from corrclip_jax.method.bank_arrays import put_bank
from corrclip_jax.method.checks import check_bank
from corrclip_jax.method.segment import make_segment
from corrclip_jax.models.layers import in_compute_type
from corrclip_jax.regions.sources import SOURCES, can_find, find_regions
from corrclip_jax.runtime import sharding
from corrclip_jax.runtime.kept_traces import keepable
from corrclip_jax.runtime.memory import exhausted
from corrclip_jax.text.embedding import TextEmbedding

FROM_DATASET = "truth"
"""In place of a source of regions: the data set's own region maps."""

_LIMIT = BatchLimit(images=16, pixels=1 << 25)
_READ_AHEAD = 32  # images, but two batches at least


class Scorer:
    """Labels the images of a data set with variants of the method and counts their pixels.

    The devices of this process share a batch; each works on its own images.

    What costs time (text embeddings, parameters on the devices, sizes of all images) is done when it is first
    needed: an evaluation that finds everything counted needs none of it.
    """

    def __init__(
        self,
        config: Config,
        params: Mapping[str, Any],
        dataset: Dataset,
        variants: Sequence[PartsConfig] | None = None,
        *,
        regions: str = "sam2",
        batch_size: int | None = None,
        bank: Bank | None = None,
        others: Loaded | None = None,
    ):
        """Check the settings.

        Args:
          config: the model and the method.
          params: the tree of `load`.
          dataset: what to label.
          variants: which parts are on, by default the configuration's own. All read the same regions, found once.
          regions: the source that finds them (`SOURCES`), or `FROM_DATASET`, the data set's own.
          batch_size: images of similar size that run together, rounded up to a multiple of the devices; by default
            one a device on CPUs, else up to 16. It bounds memory and sets the speed, and changes no result beyond
            the last bits of a logit.
          bank: of unlabelled images; its arrays may lie on disk. The devices share its rows.
          others: the CLIPs of its further values, by name.

        Raises:
          ValueError: for settings that the model or the data set does not support.
        """
        devices = jax.local_devices()
        self.dataset, self.regions = dataset, regions
        self.config = _checked(config, params, regions, batch_size)
        self.variants = tuple(dict.fromkeys([config.parts] if variants is None else variants))
        self.params = params
        self._mesh = Mesh(np.array(devices), ("photos",))
        self._split = sharding.over_images(self._mesh)
        if bank is not None:
            check_bank(self.config, bank)
        self.bank, self.others = bank, others or {}
        self._each = None if batch_size is None else -(-batch_size // len(devices))

    @cached_property
    def programs(self) -> Programs:
        """What has been compiled, with the seconds that took; puts the parameters on the devices."""
        on_mesh = sharding.put_params(in_compute_type(self.params, self.config.dtype), self._mesh)
        identity = "scores", self.config, self.variants, len(self.dataset.classes), self.regions
        return Programs(
            on_mesh, _LIMIT, identity=identity, devices=self._mesh.size, images_per_device=self._each
        )

    @property
    def unreadable(self) -> dict[int, str]:
        """Why images have no size, by their indices."""
        return self._sizes[1]

    @cached_property
    def _sizes(self) -> tuple[dict[int, Size], dict[int, str]]:
        return read_sizes(self.dataset)

    @cached_property
    def _text(self) -> TextEmbedding:
        """The class names, embedded and on the devices."""
        text = embed_in_all(self.config, self.params, self.others, self.dataset.classes)
        return sharding.put_params(text, self._mesh)

    @cached_property
    def _bank(self) -> dict[str, Bank]:
        """The bank on the devices, as a keyword argument."""
        return {} if self.bank is None else {"bank": put_bank(self.bank, self._mesh)}

    @cached_property
    def _plan(self) -> list[Batch]:
        """Batches of all images of the data set, by their indices."""
        sizes, method = self._sizes[0], self.config.method
        if not sizes:
            return []
        indices, buckets = list(sizes), plan_buckets(sizes.values(), method)
        batches = plan_batches(list(sizes.values()), buckets, method, self.programs.batch_size)
        return [
            batch._replace(indices=tuple(indices[number] for number in batch.indices)) for batch in batches
        ]

    def prepare(self, report: Callable[[str], object] = lambda step: None) -> None:
        """Do all that costs time before the first image; `report` gets the step that begins."""
        report(f"Reading the sizes of {self.dataset.count} images")
        _ = self._plan
        report(f"Encoding {sum(map(len, self.dataset.classes))} class names")
        _ = self._text

    def batches(self, indices: Iterable[int], process: int = 0, processes: int = 1) -> list[Batch]:
        """The batches that hold these images; of several processes, the share of one.

        Which images run together depends on neither, so their labels are the same to the last bit.
        """
        if not (wanted := set(indices)):
            return []
        shares = [
            batch._replace(indices=tuple(index for index in batch.indices if index in wanted))
            for batch in self._plan[process::processes]
        ]
        return [batch for batch in shares if batch.indices]

    def __call__(
        self, batches: Sequence[Batch], *, keep_labels: bool = False
    ) -> Iterator[BatchCounts | Unreadable]:
        """Count the images of batches; an image that cannot be read comes before its batch.

        Where memory runs out, a batch is run in smaller parts (see `Programs`), whose counts are added up. An image
        that is too large for the memory alone counts as unreadable.

        Raises:
          jax.errors.JaxRuntimeError: if a device fails for another reason.
          NotFiniteError: for an image whose features are not finite, since no score of damaged weights is one.
        """
        if not batches:
            return
        most = self.config.method.max_regions if self.regions == FROM_DATASET else None
        read = partial(read_example, self.dataset, max_regions=most)
        start = partial(self._start, keep_labels=keep_labels)
        ahead = max(2, _READ_AHEAD // max((batch.batch_size for batch in batches), default=1))
        for pieces in self.programs.run(batches, read, start, ahead=ahead):
            yield from (item for piece in pieces for item in piece.items if isinstance(item, Unreadable))
            for piece in pieces:
                if exhausted(piece.out):
                    yield from self._too_large(piece)
            done = [piece for piece in pieces if piece.out is not None and not exhausted(piece.out)]
            if done:
                counts = joined([counts_of(piece) for piece in done])
                if counts.matrices[:, :, -1].any():  # pixels without a label
                    raise not_finite(self.dataset.stem(first_unlabelled(counts)))
                yield counts

    def _too_large(self, piece: Piece) -> Iterator[Unreadable]:
        """The images of a piece, one for each device, that did not fit the memory."""
        for index, item in zip(piece.batch.indices, piece.items, strict=True):
            if isinstance(item, Example):
                height, width = item.labels.shape
                yield Unreadable(
                    index,
                    f"{self.dataset.stem(index)} ({width}x{height} pixels) is too large for the memory, even alone "
                    "on its device. Scale it down, or take a smaller model or fewer points.",
                )

    def _start(self, batch: Batch, items: list[Example | Unreadable], keep_labels: bool) -> list | None:
        """Hand a batch to the devices without waiting for them: one outcome a variant."""
        good = [item for item in items if isinstance(item, Example)]
        if not good:
            return None
        try:
            host = padded_examples(batch, good)
        except MemoryError as error:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: no memory for the batch") from error
        distances = np.array([metrics.boundary_distance(*size) for size in host.sizes.tolist()], np.int32)
        arrays = host.images, host.labels, host.sizes, distances
        images, labels, sizes, distances = jax.device_put(arrays, self._split)
        caps = {"max_windows": batch.bucket.windows}
        if self.regions == FROM_DATASET:
            assert host.regions is not None
            caps["max_regions"] = region_cap(max(map(count_regions, host.regions)), self.config)
            maps = jax.device_put(host.regions, self._split)
        else:
            caps["max_regions"] = SOURCES[self.config.regions.source].cap(self.config) - 1
            find = self._divided(partial(_find, self.config))
            maps = self.programs("find", lambda: find, self._text, images, sizes)
        outcomes = []
        for number, parts in enumerate(self.variants):
            config = with_fields(self.config, parts=parts, method=caps)
            key, make = ("step", parts, *caps.values()), partial(self._step, config, number == 0)
            batch_of = images, labels, maps, sizes, distances
            outcome = self.programs(key, make, self._text, *batch_of, **self._bank)
            outcomes.append(outcome if keep_labels else outcome._replace(labels=None))
        return outcomes

    def _step(self, config: Config, whole: bool) -> Callable:
        """The program that labels a batch and counts its pixels."""
        segment = make_segment(config, mesh=self._mesh if self._mesh.size > 1 else None)
        count = self._divided(partial(_count, len(self.dataset.classes), whole))

        def step(
            params: Any,
            text: Any,
            images: Any,
            truth: Any,
            regions: Any,
            sizes: Any,
            distances: Any,
            **bank: Any,
        ) -> _Outcome:
            labels = segment(params, images, text, sizes=sizes, regions=regions, **bank).labels
            return count((), (), labels, truth, distances)

        return step

    def _divided(self, function: Callable) -> Callable:
        """A function of parameters, text and a batch's arrays, run by each device on its images."""
        return sharding.sharded(function, self._mesh) if self._mesh.size > 1 else function


@keepable
class _Outcome(NamedTuple):
    """What one device counts of its images."""

    matrix: jax.Array
    unscored: jax.Array
    areas: jax.Array | None
    boundary: jax.Array | None
    labels: jax.Array | None


def _find(config: Config, params: Any, text: Any, images: jax.Array, sizes: jax.Array) -> jax.Array:
    return find_regions(config, params, images, sizes)[0]


def _count(
    num_classes: int,
    whole: bool,
    params: Any,
    text: Any,
    labels: jax.Array,
    truth: jax.Array,
    distances: jax.Array,
) -> _Outcome:
    count = partial(metrics.confusion, num_classes=num_classes)
    unscored = metrics.unscored(labels, truth, num_classes)[None]
    if not whole:
        return _Outcome(count(labels, truth)[None], unscored, None, None, None)

    def one(image: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        labels, truth, distance = image
        matrix = count(labels, truth)
        return matrix, metrics.areas(matrix), metrics.boundary_areas(labels, truth, num_classes, distance)

    matrices, areas, boundary = jax.lax.map(one, (labels, truth, distances))
    total = partial(jnp.sum, axis=0, keepdims=True, dtype=jnp.uint32)
    return _Outcome(total(matrices), unscored, areas, total(boundary), labels)


def _checked(config: Config, params: Mapping[str, Any], regions: str, batch_size: int | None) -> Config:
    """The configuration with the source of regions."""
    known = [*SOURCES, FROM_DATASET]
    if regions not in known:
        raise ValueError(f"regions must be one of {', '.join(known)}. Got {regions!r}.")
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more. Got {batch_size}.")
    if regions == FROM_DATASET:
        return config
    config = with_fields(config, regions={"source": regions})
    if not can_find(config, params):
        raise ValueError(
            f"the model {config.name!r} has no {SOURCES[config.regions.source].title} to find regions with. Choose "
            f"one that has, or regions {FROM_DATASET!r} or 'none'."
        )
    return config
