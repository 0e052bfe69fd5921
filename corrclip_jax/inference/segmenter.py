"""`Segmenter`: photos of any kind and class names in, labels of the photos' own size out.

For interactive use and scripts; `make_segment` is the jitted function underneath.
"""

import io
import os
from collections import OrderedDict
from collections.abc import Generator, Iterable, Mapping, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import IO, Any, TypeAlias, cast, overload

import jax
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from corrclip_jax.config import (
    PROBABILITY_POINTS,
    Config,
    DtypeChoice,
    RegionSource,
    source_family,
    with_fields,
)
from corrclip_jax.hub.presets import load
from corrclip_jax.inference import photo_reading
from corrclip_jax.inference.frames import label_frames
from corrclip_jax.inference.label_runner import LabelRunner, OnStart, Outcome, Request
from corrclip_jax.inference.model_and_source import Model, with_source
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
from corrclip_jax.regions.sources import SOURCES, can_find
from corrclip_jax.runtime.sharding import put_params
from corrclip_jax.text.classes import normalise_classes
from corrclip_jax.text.embedding import TextEmbedding, pad_queries, query_bucket

Classes = Iterable[str | Iterable[str]]
Photo = str | os.PathLike | IO[bytes] | bytes | Image.Image | np.ndarray
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
        model: Model = "vit-b",
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
        probability_points: int | None = PROBABILITY_POINTS,
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
            ("dfn-b16"), or that of a model. Only their text towers are loaded. "main" is the model's own CLIP.
          mesh: devices of this process, which share the photos of a list, and the bank.
          shard_params: each of these devices holds a part of the parameters instead of all.
          probability_points: `Segmentation.probabilities` has so many points along the longer side of a photo. A
            vocabulary of K classes takes at most 2 K n^2 bytes a photo. None does without, and so do the segments:
            with `tiny` and no regions a photo of 500 x 375 pixels then takes 4 to 10 % less time.

        Raises:
          ValueError: for settings out of range, a name that is no source of regions, a model without the source's
            network, names of `others` that are taken, a bank that does not fit the model, and whatever `load`
            refuses.
          FileNotFoundError: if a model's weights are missing and cannot be downloaded.
        """
        check_settings(dtype, points, background_threshold, probability_points)
        config, params = with_source(model, regions, load)
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
        self._other_runner: tuple[tuple[Config, int], LabelRunner] | None = None

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

    def runner_of(self, config: Config, points: int) -> LabelRunner:
        """What labels images of a few known sizes with another configuration of this model.

        Weights and bank are shared, and the last runner is kept with its programs.

        Args:
          config: this model's networks with other settings.
          points: `probability_points` in place of this model's.
        """
        if self._other_runner is None or self._other_runner[0] != (config, points):
            self._other_runner = None  # one at a time: its programs take memory
            runner = LabelRunner(config, self._params, self._mesh, self._bank, points=points, headroom=False)
            self._other_runner = (config, points), runner
        return self._other_runner[1]

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
          photos: a path, an opened file or its bytes, a PIL image, an array uint8 [H, W, 3] or [H, W]; or a list of
            such, of any sizes, or an iterator, which is read to its end (`stream` needs no memory for all).
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
        single = photo_reading.is_one_photo(photos)
        names = tuple(tuple(synonyms) for synonyms in normalise_classes(classes))
        listed = [photos] if single else list(photos)
        given = [regions] if single else photo_reading.one_for_each(regions, len(listed))
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
          ValueError: no classes, an empty or a repeated name; a single photo; region maps for frames, or more or
            fewer than photos (`RegionError`); `track` without regions.
          Exception: what an iterator of frames raises, after the results of those before.
        """
        names = tuple(tuple(synonyms) for synonyms in normalise_classes(classes))
        if isinstance(photos, photo_reading.ONE_PHOTO | io.IOBase):
            raise ValueError("stream labels photos or frames: give one photo as a list, [photo].")
        if newest or track or not isinstance(photos, Sized):
            if regions is not None:
                raise ValueError("region maps cannot be given for frames, only for a list of photos.")
            tracks = RegionTracks(len(names), self.config.regions.source) if track else None
            frames = label_frames(self._runner, photos, self.embed(names), newest=newest, on_start=on_start)
            for number, pixels, found in frames:
                if isinstance(found, Exception):
                    yield number, cast(Failure, found)
                else:
                    result = _segmentation(pixels, names, found)
                    yield number, result if tracks is None else tracks(result)
            return
        photos = cast(Sequence[Any], photos)
        given = photo_reading.one_for_each(regions, len(photos))
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

    @overload
    def regions(self, photos: Photo) -> Regions: ...

    @overload
    def regions(self, photos: list[Any] | tuple[Any, ...]) -> list[Regions]: ...

    def regions(self, photos: Any) -> Regions | list[Regions]:
        """The regions of a photo, or of each of a list of photos, by the model's source; needs no class names.

        Photos are those of a call (`segmenter(photos, classes)`).

        Raises:
          PhotoError: a photo that cannot be read.
          ValueError: a model without the network of its source.
        """
        single = photo_reading.is_one_photo(photos)
        with ThreadPoolExecutor() as pool:
            pixels = list(pool.map(read_photo, [photos] if single else photos))
        if self._region_runner is None:
            self._region_runner = RegionRunner(self.config, self._params, self._mesh)
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
