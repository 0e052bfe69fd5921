"""`Segmenter`: photos of any kind and class names in, labels of the photos' own size out.

It is made for people; `make_segment` is for programs.
"""

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias, overload

import jax
import numpy as np
from jax.sharding import Mesh
from PIL import Image

from corrclip_jax.config import Config, Dtype, RegionSource, with_fields
from corrclip_jax.hub.presets import load
from corrclip_jax.inference.buckets import Size
from corrclip_jax.inference.label_runner import Announce, LabelRunner, Request
from corrclip_jax.inference.photo_regions import Regions
from corrclip_jax.inference.region_runner import RegionRunner
from corrclip_jax.inference.segmentation import Segmentation
from corrclip_jax.io.photos import PhotoError, photo_size, read_photo
from corrclip_jax.io.region_maps import RegionError, as_regions, count_regions, read_regions
from corrclip_jax.regions.sources import SOURCES, can_find, network_to_load
from corrclip_jax.runtime.sharding import put_params
from corrclip_jax.text.classes import normalise_classes
from corrclip_jax.text.embedding import TextEmbedding, pad_queries, query_bucket
from corrclip_jax.text.encode import embed_text

Classes = Sequence[str | Sequence[str]]
Photo = str | os.PathLike | Image.Image | np.ndarray
_KEPT_VOCABULARIES = 16
Failure: TypeAlias = PhotoError | RegionError | jax.errors.JaxRuntimeError


class Segmenter:
    """Labels photos with any class names.

    >>> segmenter = Segmenter("vit-b")                                            # doctest: +SKIP
    >>> result = segmenter("photo.jpg", ["cat", ["sky", "cloud"], "grass"])       # doctest: +SKIP
    >>> result.shares, result.overlay().show(), result.mask("cat")                # doctest: +SKIP

    A few programs serve photos of all sizes (see `batching`), each compiled at its first photo; another vocabulary
    does not compile again as long as its number of names falls into the same bucket. Text embeddings of the last
    vocabularies are kept.
    """

    def __init__(
        self,
        model: str | os.PathLike | tuple[Config, Mapping[str, Any]] = "vit-b",
        *,
        dtype: Dtype | None = None,
        regions: RegionSource | None = None,
        points: int | None = None,
        background_threshold: float | None = None,
        mesh: Mesh | None = None,
        shard_params: bool = False,
    ):
        """Load a model: a name, a folder, or configuration and parameters as `load` gives them.

        The other settings replace the configuration's: `dtype` is the towers' compute type; `regions` is a source
        of `sources.SOURCES`: "sam2" finds regions with SAM 2, "none" does without; what the source does not need is
        not loaded, and given region maps are taken all the same;
        `points` n is SAM's n x n grid; pixels whose class is less probable than `background_threshold` get
        class 0.
        The devices of a `mesh`, all of this process, share the photos of a list; each holds all parameters, or with
        `shard_params` a part of them.

        Raises:
          ValueError: for settings out of range, a model without the network of the source that is asked for, and
            whatever `load` refuses.
          FileNotFoundError: where a model's weights are not here and cannot be downloaded.
        """
        _check_settings(points, background_threshold)
        config, params = (
            model if isinstance(model, tuple) else load(_name(model), region_network=network_to_load(regions))
        )
        if dtype is not None:
            config = with_fields(config, dtype=dtype)
        if regions is not None:
            config = with_fields(config, regions={"source": regions})
        if points is not None:
            config = with_fields(config, regions={"points_per_side": points})
        if background_threshold is not None:
            config = with_fields(config, method={"background_threshold": background_threshold})
        if regions is not None and not can_find(config, params):
            raise ValueError(
                f"the model {config.name!r} has no {SOURCES[regions].title} to find regions with. Take one "
                "that has, give region maps, or do without regions (regions='none')."
            )
        self.config: Config = config
        self._params = (
            jax.device_put(dict(params))
            if mesh is None
            else put_params(dict(params), mesh, shard=shard_params)
        )
        self._texts: OrderedDict[tuple, TextEmbedding] = OrderedDict()
        self._runner = LabelRunner(config, self._params, mesh)
        self._finder: RegionRunner | None = None

    def embed(self, classes: Classes) -> TextEmbedding:
        """Text embeddings of classes (a list inside is synonyms), padded to a bucket; kept for next time.

        Raises:
          ValueError: no classes, an empty or a doubled name, a model without vocabulary.
        """
        key = tuple(tuple(names) for names in normalise_classes(classes))
        if key not in self._texts:
            text = embed_text(self.config, self._params, key)
            self._texts[key] = pad_queries(text, query_bucket(text.features.shape[0]))
        self._texts.move_to_end(key)
        while len(self._texts) > _KEPT_VOCABULARIES:
            self._texts.popitem(last=False)
        return self._texts[key]

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
          regions: a region map to use in place of SAM's: integers [H, W] (0 for what belongs to none), or the
            path of an `.npz` file. For a list of photos, a list of such; None in it is a photo without one.

        Returns:
          A `Segmentation`, or a list of them.

        Raises:
          PhotoError: a photo that cannot be read.
          RegionError: a region map of another size, with ids below 0, or with more than `max_regions` regions.
          ValueError: no classes, an empty or a doubled name.
        """
        single = _is_one(photos)
        names = tuple(tuple(synonyms) for synonyms in normalise_classes(classes))
        listed = [photos] if single else list(photos)
        given = [regions] if single else [None] * len(listed) if regions is None else list(regions)
        if len(given) != len(listed):
            raise RegionError(
                f"{len(listed)} photos want as many region maps (or None in place of one). Got {len(given)}."
            )
        with ThreadPoolExecutor() as pool:
            pixels = list(pool.map(read_photo, listed))
        items = [
            Request(photo, self._region_map(one, photo)) for photo, one in zip(pixels, given, strict=True)
        ]
        sizes = [item.photo.shape[:2] for item in items]
        text = self.embed(classes)
        results: dict[int, Segmentation] = {}
        for place, item, found in self._runner.work(
            sizes, [one is not None for one in given], items.__getitem__, text
        ):
            if isinstance(found, Exception):
                raise found
            results[place] = Segmentation(item.photo, *found[:3], names, *found[3:])
        return results[0] if single else [results[index] for index in range(len(listed))]

    def stream(
        self,
        photos: Sequence[Any],
        classes: Classes,
        *,
        regions: Sequence[Any] | None = None,
        announce: Announce = lambda places, compiles: None,
    ) -> Iterator[tuple[int, Segmentation | Failure]]:
        """Label any number of photos, holding a few at a time: the next are read while some run.

        Arguments are those of a call with a list. Yields a photo's place in it and its result, in the order that
        needs few programs; or, in the result's place, why there is none: a `PhotoError`, a `RegionError`, or JAX's
        `RESOURCE_EXHAUSTED` for a photo too large for the memory.

        Raises:
          ValueError: no classes, an empty or a doubled name.
        """
        names = tuple(tuple(synonyms) for synonyms in normalise_classes(classes))
        given = [None] * len(photos) if regions is None else list(regions)
        text = self.embed(classes)
        sizes: dict[int, Size] = {}
        with ThreadPoolExecutor() as pool:
            for place, size in enumerate(pool.map(_or_error(photo_size), photos)):
                if isinstance(size, Exception):
                    yield place, size
                else:
                    sizes[place] = size
        places = list(sizes)

        def read(index: int) -> Request:
            place = places[index]
            photo = read_photo(photos[place])
            if photo.shape[:2] != sizes[place]:
                raise PhotoError(f"{photos[place]} was changed while the photos were read. Start again.")
            return Request(photo, self._region_map(given[place], photo))

        def tell(indices: Sequence[int], compiles: bool) -> None:
            announce([places[index] for index in indices], compiles)

        with_map = [given[place] is not None for place in places]
        work = self._runner.work(list(sizes.values()), with_map, _or_error(read), text, tell)
        for index, item, found in work:
            if isinstance(found, Exception):
                yield places[index], found
            else:
                yield places[index], Segmentation(item.photo, *found[:3], names, *found[3:])

    @overload
    def regions(self, photos: Photo) -> Regions: ...

    @overload
    def regions(self, photos: list[Any] | tuple[Any, ...]) -> list[Regions]: ...

    def regions(self, photos: Any) -> Regions | list[Regions]:
        """The regions of a photo, or of each of a list of photos, by the model's source: no class names needed.

        Raises:
          PhotoError: a photo that cannot be read.
          ValueError: a model without the network of its source.
        """
        single = _is_one(photos)
        with ThreadPoolExecutor() as pool:
            pixels = list(pool.map(read_photo, [photos] if single else photos))
        if self._finder is None:
            self._finder = RegionRunner(self.config, self._params)
        found: dict[int, Regions] = {}
        for place, result in self._finder.stream([photo.shape[:2] for photo in pixels], pixels.__getitem__):
            if isinstance(result, Exception):
                raise result
            found[place] = result
        return found[0] if single else [found[index] for index in range(len(pixels))]

    def _region_map(self, given: Any, photo: np.ndarray) -> np.ndarray | None:
        if given is None:
            return None
        height, width = photo.shape[:2]
        is_file = isinstance(given, str | os.PathLike)
        regions = read_regions(given, height, width) if is_file else as_regions(given, height, width)
        if (count := count_regions(regions)) > (most := self.config.method.max_regions):
            raise RegionError(
                f"{given if is_file else 'The region map'} has {count} regions besides the rest, and "
                f"config.method.max_regions is {most}. Merge small regions, or raise it."
            )
        return regions


def _is_one(photos: Any) -> bool:
    return isinstance(photos, str | os.PathLike | Image.Image) or hasattr(photos, "ndim")


def _or_error(function: Callable) -> Callable:
    """The function, with photos' and region maps' errors as results."""

    def call(argument: Any) -> Any:
        try:
            return function(argument)
        except (PhotoError, RegionError) as error:
            return error

    return call


def _name(model: str | os.PathLike) -> str | Path:
    return model if isinstance(model, str) else Path(model)


def _check_settings(points: int | None, background_threshold: float | None) -> None:
    if points is not None and points < 1:
        raise ValueError(f"points must be 1 or more: n gives a grid of n x n point prompts. Got {points}.")
    if background_threshold is not None and not 0 <= background_threshold <= 1:
        raise ValueError(f"background_threshold is a probability, 0 to 1. Got {background_threshold}.")
