"""`Segmenter`: photos of any kind and class names in, labels of the photos' own size out.

For interactive use and scripts; `make_segment` is the jitted function underneath.
"""

import copy
import os
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, cast, overload

import jax
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from corrclip_jax.config import Config, DtypeChoice, RegionSource, source_family, with_fields
from corrclip_jax.hub.presets import load
from corrclip_jax.inference import photo_reading
from corrclip_jax.inference.frame_source import FrameSource
from corrclip_jax.inference.label_runner import LabelRunner, OnStart, Outcome, Request
from corrclip_jax.inference.open_bank import BankLike, open_bank
from corrclip_jax.inference.other_clips import OtherModel, described, embed_in_all, load_text_towers
from corrclip_jax.inference.photo_regions import Regions
from corrclip_jax.inference.region_runner import RegionRunner
from corrclip_jax.inference.region_tracks import RegionTracks
from corrclip_jax.inference.segmentation import Segmentation
from corrclip_jax.inference.settings import check_settings, with_settings
from corrclip_jax.io.photos import PhotoError, read_photo
from corrclip_jax.io.region_maps import RegionError
from corrclip_jax.models.layers import in_compute_type
from corrclip_jax.regions.sources import SOURCES, can_find, network_to_load
from corrclip_jax.runtime.sharding import put_params
from corrclip_jax.text.classes import normalise_classes
from corrclip_jax.text.embedding import TextEmbedding, pad_queries, query_bucket

Classes = Iterable[str | Iterable[str]]
Photo = str | os.PathLike | Image.Image | np.ndarray
_KEPT_VOCABULARIES = 16
Failure: TypeAlias = PhotoError | RegionError | jax.errors.JaxRuntimeError


class Segmenter:
    """Labels photos with any class names.

    >>> segmenter = Segmenter("vit-b")                                            # doctest: +SKIP
    >>> result = segmenter("photo.jpg", ["cat", ["sky", "cloud"], "grass"])       # doctest: +SKIP
    >>> result.shares, result.overlay().show(), result.mask("cat")                # doctest: +SKIP

    A few programs serve photos of all sizes (see `inference.buckets`), each compiled at its first photo; another
    vocabulary compiles nothing as long as its number of names falls into the same bucket. Text embeddings of the
    last vocabularies are kept.
    """

    def __init__(
        self,
        model: str | os.PathLike | tuple[Config, Mapping[str, Any]] = "vit-b",
        *,
        dtype: DtypeChoice | None = None,
        regions: RegionSource | None = None,
        points: int | None = None,
        background_threshold: float | None = None,
        assignments: Sequence[str] = (),
        bank: BankLike | None = None,
        others: Mapping[str, OtherModel] | None = None,
        mesh: Mesh | None = None,
        shard_params: bool = False,
        probability_points: int | None = 96,
    ):
        """Load a model; settings that are None are the model's own.

        Args:
          model: a name, a folder, or configuration and parameters as `load` returns them.
          dtype: the networks' compute type; "auto" takes the one that suits the devices.
          regions: a source of regions (`regions.sources.SOURCES`): "sam2" finds them with SAM 2, "none" does
            without. A model with a name also takes a published network, "sam2.1-t" for instance. Networks that the
            source does not need are not loaded; region maps can be given all the same.
          points: n for SAM's n x n grid of points (`points_per_side`).
          background_threshold: pixels whose class is less probable get class 0.
          assignments: any fields of the configuration by text, as in "method.stride=56".
          bank: a bank of unlabelled images, for a model of CorrCLIPv2: its folder, or a bank in memory, made with
            the model's backbone and CLIP.
          others: further CLIPs whose values the bank has, by the names of these values: a published one
            ("dfn-b16"), or that of a model. Only their text towers are loaded.
          mesh: devices of this process, which share the photos of a list, and the bank.
          shard_params: each of these devices holds a part of the parameters instead of all.
          probability_points: `Segmentation.probabilities` has so many points along the longer side of a photo. A
            vocabulary of K classes takes at most 2 K n^2 bytes a photo. None does without, and so do the segments:
            with `tiny` and no regions a photo of 500 x 375 pixels then takes 4 to 10 % less time.

        Raises:
          ValueError: for settings out of range, a model without the source's network, a bank that does not fit the
            model, and whatever `load` refuses.
          FileNotFoundError: if a model's weights are missing and cannot be downloaded.
        """
        check_settings(dtype, points, background_threshold, probability_points)
        config, params = (
            model if isinstance(model, tuple) else load(_name(model), region_network=network_to_load(regions))
        )
        config = with_settings(
            config,
            dtype=dtype,
            points=points,
            background_threshold=background_threshold,
            assignments=assignments,
        )
        if regions is not None:
            config = with_fields(config, regions={"source": source_family(regions)})
        if regions is not None and not can_find(config, params):
            title = SOURCES[config.regions.source].title
            raise ValueError(
                f"the model {config.name!r} has no {title} to find regions with. Choose one "
                "that has, give region maps, or do without regions (regions='none')."
            )
        self.config: Config = config
        held = in_compute_type(params, config.dtype)
        self._params = jax.device_put(held) if mesh is None else put_params(held, mesh, shard=shard_params)
        self._texts: OrderedDict[tuple, TextEmbedding] = OrderedDict()
        self._others = load_text_towers(others)
        if self._others and bank is None:
            raise ValueError("others are further CLIPs of a bank's values: give bank= as well.")
        clips = described(self._others)
        opened = None if bank is None else open_bank(bank, config, params, clips, mesh=mesh)
        self._mesh, self._bank = mesh, opened
        self._runner = LabelRunner(config, self._params, mesh, opened, points=probability_points)
        self._region_runner: RegionRunner | None = None
        self._scaled: dict[tuple[Config, int], Segmenter] = {}

    def embed(self, classes: Classes) -> TextEmbedding:
        """Text embeddings of classes (a list inside is synonyms), padded to a bucket and kept.

        Raises:
          ValueError: no classes, an empty or a repeated name, a model without vocabulary.
        """
        key = tuple(tuple(names) for names in normalise_classes(classes))
        if key not in self._texts:
            text = embed_in_all(self.config, self._params, self._others, key)
            self._texts[key] = pad_queries(text, query_bucket(text.features.shape[0]))
        self._texts.move_to_end(key)
        while len(self._texts) > _KEPT_VOCABULARIES:
            self._texts.popitem(last=False)
        return self._texts[key]

    def expect_sizes(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Plan the programs for photos that come in several calls, or in several processes.

        Photos then share the programs, and have the labels, of one call with all of them.

        Args:
          sizes: height and width of all photos, in pixels, in any order.
        """
        if sizes:
            self._runner.expect(sizes)

    def at_scale(
        self,
        sides: tuple[int, int],
        zoom: float,
        points: int,
        *,
        by_shorter: bool,
        superpixel: int | None = None,
    ) -> "Segmenter":
        """A copy that sees images of this height and width at `zoom` times their size; its programs are for these.

        Images of which only the longer side is the same are seen so, too; with `by_shorter`, those of which the
        shorter one is. Weights and text embeddings are shared, and the last copy is kept with its
        programs. `points` is the copy's `probability_points`, `superpixel` its `config.regions.slic.side`.
        """
        shorter, longer = (max(1, round(side * zoom)) for side in sorted(sides))
        sizes = {"resize_short": longer + 1, "resize_long": longer}
        if by_shorter:
            sizes = {"resize_short": shorter, "resize_long": max(longer, 2 * shorter) + 1}
        config = with_fields(self.config, method=sizes, regions={"slic": {"side": superpixel}})
        if (config, points) not in self._scaled:
            other = copy.copy(self)
            other.config, other._scaled = config, {}
            other._runner = LabelRunner(
                config, self._params, self._mesh, self._bank, points=points, headroom=False
            )
            self._scaled.clear()  # one at a time: its programs take memory
            self._scaled[config, points] = other
        return self._scaled[config, points]

    def label(
        self,
        sizes: Sequence[tuple[int, int]],
        read: Callable[[int], Request | Exception],
        text: TextEmbedding,
    ) -> Iterator[tuple[int, Any, Outcome | Exception]]:
        """Label images that `read` returns by their indices (see `LabelRunner.work`)."""
        return self._runner.work(sizes, [False] * len(sizes), read, text)

    @overload
    def __call__(self, photos: Photo, classes: Classes, *, regions: Any = None) -> Segmentation: ...

    @overload
    def __call__(
        self, photos: list[Any] | tuple[Any, ...], classes: Classes, *, regions: Any = None
    ) -> list[Segmentation]: ...

    def __call__(
        self, photos: Any, classes: Classes, *, regions: Any = None
    ) -> Segmentation | list[Segmentation]:
        """Label a photo, or each of a list of photos.

        Args:
          photos: a path, a PIL image, an array uint8 [H, W, 3] or [H, W]; or a list of such, of any sizes.
          classes: class names; a list inside is synonyms of one class.
          regions: a region map instead of regions that the model finds: integers [H, W] (0 for unsegmented
            pixels), or the path of a file. For a list of photos, a list of such, with None for a photo without one.

        Returns:
          A `Segmentation`, or a list of them.

        Raises:
          PhotoError: a photo that cannot be read.
          RegionError: a region map of another size, with ids below 0, or with more than `max_regions` regions.
          ValueError: no classes, an empty or a repeated name.
        """
        single = _is_one(photos)
        names = tuple(tuple(synonyms) for synonyms in normalise_classes(classes))
        listed = [photos] if single else list(photos)
        given = [regions] if single else [None] * len(listed) if regions is None else list(regions)
        if len(given) != len(listed):
            raise RegionError(
                f"{len(listed)} photos need as many region maps (or None in place of one). Got {len(given)}."
            )
        with ThreadPoolExecutor() as pool:
            pixels = list(pool.map(read_photo, listed))
        items = [self._request(photo, one) for photo, one in zip(pixels, given, strict=True)]
        sizes = [item.photo.shape[:2] for item in items]
        text = self.embed(names)
        results: dict[int, Segmentation] = {}
        for index, item, found in self._runner.work(
            sizes, [one is not None for one in given], items.__getitem__, text
        ):
            if isinstance(found, Exception):
                raise found
            results[index] = _segmentation(item.photo, names, found)
        return results[0] if single else [results[index] for index in range(len(listed))]

    def stream(
        self,
        photos: Iterable[Any],
        classes: Classes,
        *,
        regions: Sequence[Any] | None = None,
        newest: bool = False,
        track: bool = False,
        on_start: OnStart = lambda indices, compiles: None,
    ) -> Generator[tuple[int, Segmentation | Failure], None, None]:
        """Label any number of photos, or the frames of a camera, with bounded memory: the next are read meanwhile.

        Frames are what an iterator without a length gives, such as a generator. A thread reads them; results come
        in their order, at most two batches of frames after a frame was read.

        Args:
          photos: as for a call with a list; or any iterator of such.
          classes: as for a call.
          regions: as for a call with a list; not for frames.
          newest: for frames that come faster than they are labelled: the newest one is labelled next, alone, and
            those that came before it are dropped.
          track: for frames: regions keep their ids from frame to frame and vote for one label over time, see
            `RegionTracks`.
          on_start: called with the indices of the photos that run next, and whether that compiles a program.

        Yields:
          A photo's index and its result, in the order that needs few programs; or, in place of the result, a
          `PhotoError`, a `RegionError`, or JAX's RESOURCE_EXHAUSTED for a photo too large for the memory. For
          frames, their numbers in the iterator, in order.

        Raises:
          ValueError: no classes, an empty or a repeated name; region maps for frames; `track` without regions.
          Exception: what an iterator of frames raises, after the results of those before.
        """
        names = tuple(tuple(synonyms) for synonyms in normalise_classes(classes))
        if newest or track or not isinstance(photos, Sized):
            if regions is not None:
                raise ValueError("region maps cannot be given for frames, only for a list of photos.")
            tracks = RegionTracks(len(names), self.config.regions.source) if track else None
            yield from self._frames(photos, names, newest, tracks, on_start)
            return
        photos = cast(Sequence[Any], photos)
        given = [None] * len(photos) if regions is None else list(regions)
        text = self.embed(names)
        sizes, failures = photo_reading.read_photo_sizes(photos)
        yield from failures.items()
        indices = list(sizes)

        def read(position: int) -> Request:
            index = indices[position]
            return self._request(photo_reading.read_photo_of_size(photos[index], sizes[index]), given[index])

        def on_batch(positions: Sequence[int], compiles: bool) -> None:
            on_start([indices[position] for position in positions], compiles)

        with_map = [given[index] is not None for index in indices]
        work = self._runner.work(list(sizes.values()), with_map, photo_reading.or_error(read), text, on_batch)
        for position, item, found in work:
            if isinstance(found, Exception):
                yield indices[position], found
            else:
                yield indices[position], _segmentation(item.photo, names, found)

    def _frames(
        self,
        frames: Iterable[Any],
        names: tuple[tuple[str, ...], ...],
        newest: bool,
        tracks: RegionTracks | None,
        on_start: OnStart,
    ) -> Iterator[tuple[int, Segmentation | Failure]]:
        text = self.embed(names)
        together = 1
        with FrameSource(frames, newest=newest) as source:
            while taken := source.take(together):
                read = {number: photo_reading.or_error(read_photo)(frame) for number, frame in taken}
                good = {
                    number: pixels for number, pixels in read.items() if not isinstance(pixels, Exception)
                }
                found = self._label_frames(good, text, on_start, newest)
                for number, pixels in read.items():
                    outcome = found.get(number, pixels)
                    if isinstance(outcome, Outcome):
                        result = _segmentation(good[number], names, outcome)
                        yield number, result if tracks is None else tracks(result)
                    else:
                        yield number, outcome
                if good and not newest:
                    sizes = {pixels.shape[:2] for pixels in good.values()}
                    together = source.ahead = max(map(self._runner.together, sizes))

    def _label_frames(
        self, frames: Mapping[int, np.ndarray], text: TextEmbedding, on_start: OnStart, alone: bool
    ) -> dict[int, Any]:
        """The outcomes of frames by their numbers."""
        numbers = list(frames)
        items = [Request(pixels, None) for pixels in frames.values()]
        work = self._runner.work(
            [item.photo.shape[:2] for item in items],
            [False] * len(items),
            items.__getitem__,
            text,
            lambda places, compiles: on_start([numbers[place] for place in places], compiles),
            of_many=not alone,
        )
        return {numbers[place]: outcome for place, _, outcome in work}

    @overload
    def regions(self, photos: Photo) -> Regions: ...

    @overload
    def regions(self, photos: list[Any] | tuple[Any, ...]) -> list[Regions]: ...

    def regions(self, photos: Any) -> Regions | list[Regions]:
        """The regions of a photo, or of each of a list of photos, by the model's source; needs no class names.

        Raises:
          PhotoError: a photo that cannot be read.
          ValueError: a model without the network of its source.
        """
        single = _is_one(photos)
        with ThreadPoolExecutor() as pool:
            pixels = list(pool.map(read_photo, [photos] if single else photos))
        if self._region_runner is None:
            self._region_runner = RegionRunner(self.config, self._params)
        found: dict[int, Regions] = {}
        for index, result in self._region_runner.stream(pixels):
            if isinstance(result, Exception):
                raise result
            found[index] = result
        return found[0] if single else [found[index] for index in range(len(pixels))]

    def _request(self, photo: np.ndarray, regions: Any) -> Request:
        return Request(photo, photo_reading.read_region_map(regions, photo, self.config.method.max_regions))


def _segmentation(photo: np.ndarray, names: tuple[tuple[str, ...], ...], found: Outcome) -> Segmentation:
    support = found.support
    if support is not None:  # without the queries that fill up a bucket
        queries = sum(map(len, names))
        support = replace(support, logits=support.logits[:, :queries], own=support.own[:, :queries])
    probabilities = None if found.probabilities is None else found.probabilities[: len(names)].copy()
    return Segmentation(photo, *found[:3], names, found.seconds, found.compiled, support, probabilities)


def _is_one(photos: Any) -> bool:
    return isinstance(photos, str | os.PathLike | Image.Image) or hasattr(photos, "ndim")


def _name(model: str | os.PathLike) -> str | Path:
    return model if isinstance(model, str) else Path(model)
