"""`Segmenter`: photos of any kind and class names in, labels of the photos' own size out.

It is made for people; `make_segment` is for programs.
"""

import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

import jax
import numpy as np
from PIL import Image

from corrclip_jax.config import Config, Dtype, RegionSource, with_fields
from corrclip_jax.photos import read_photo
from corrclip_jax.presets import load
from corrclip_jax.region_files import RegionError, as_regions, read_regions
from corrclip_jax.segment import make_segment
from corrclip_jax.segmentation import Segmentation
from corrclip_jax.sources import SOURCES, can_find
from corrclip_jax.text import TextEmbedding, embed_text, normalise_classes, pad_queries, query_bucket

Classes = Sequence[str | Sequence[str]]
Photo = str | os.PathLike | Image.Image | np.ndarray
_KEPT_VOCABULARIES = 16
# Photos of one size go through the accelerator together, as many as have about this many pixels.
_PIXELS_PER_CALL, _PHOTOS_PER_CALL = 1 << 23, 8


class Segmenter:
    """Labels photos with any class names.

    >>> segmenter = Segmenter("vit-b")                                            # doctest: +SKIP
    >>> result = segmenter("photo.jpg", ["cat", ["sky", "cloud"], "grass"])       # doctest: +SKIP
    >>> result.shares, result.overlay().show(), result.mask("cat")                # doctest: +SKIP

    A photo size is compiled once, at its first photo; another vocabulary does not compile again as long as its
    number of names falls into the same bucket. Text embeddings of the last vocabularies are kept.
    """

    def __init__(
        self,
        model: str | os.PathLike | tuple[Config, Mapping[str, Any]] = "vit-b",
        *,
        dtype: Dtype | None = None,
        regions: RegionSource | None = None,
        points: int | None = None,
        background_threshold: float | None = None,
    ):
        """Load a model: a name, a folder, or configuration and parameters as `load` gives them.

        The other settings replace the configuration's: `dtype` is the towers' compute type; `regions` is a source
        of `sources.SOURCES`: "sam2" finds regions with SAM 2, "none" does without; what the source does not need is
        not loaded, and given region maps are taken all the same;
        `points` n is SAM's n x n grid; pixels whose class is less probable than `background_threshold` get
        class 0.

        Raises:
          ValueError: for settings out of range, a model without the network of the source that is asked for, and
            whatever `load` refuses.
          FileNotFoundError: where a model's weights are not here and cannot be downloaded.
        """
        _check_settings(points, background_threshold)
        config, params = model if isinstance(model, tuple) else load(_name(model), sam2=_wants_sam2(regions))
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
        self._params = jax.device_put(dict(params))
        self._texts: OrderedDict[tuple, TextEmbedding] = OrderedDict()
        self._programs: dict[int, Callable] = {}
        self._compiled: set[tuple] = set()

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
        single = isinstance(photos, str | os.PathLike | Image.Image) or hasattr(photos, "ndim")
        names = tuple(tuple(synonyms) for synonyms in normalise_classes(classes))
        listed = [photos] if single else list(photos)
        given = [regions] if single else [None] * len(listed) if regions is None else list(regions)
        if len(given) != len(listed):
            raise RegionError(
                f"{len(listed)} photos want as many region maps (or None in place of one). Got {len(given)}."
            )
        pixels = [read_photo(photo) for photo in listed]
        maps = [self._region_map(*pair) for pair in zip(given, pixels, strict=True)]
        text = self.embed(classes)
        results: dict[int, Segmentation] = {}
        for chunk in _chunks(pixels, maps):
            results |= self._run(chunk, pixels, maps, text, names)
        return results[0] if single else [results[index] for index in range(len(listed))]

    def _region_map(self, given: Any, photo: np.ndarray) -> np.ndarray | None:
        if given is None:
            return None
        height, width = photo.shape[:2]
        is_file = isinstance(given, str | os.PathLike)
        regions = read_regions(given, height, width) if is_file else as_regions(given, height, width)
        if (count := _count(regions)) > (most := self.config.method.max_regions):
            raise RegionError(
                f"{given if is_file else 'The region map'} has {count} regions besides the rest, and "
                f"config.method.max_regions is {most}. Merge small regions, or raise it."
            )
        return regions

    def _run(
        self, chunk: "_Chunk", pixels: list, maps: list, text: TextEmbedding, names: tuple
    ) -> dict[int, Segmentation]:
        """One call of the compiled function; results by the photos' places."""
        images = np.stack([pixels[index] for index in chunk.padded])
        regions = np.stack([maps[index] for index in chunk.padded]) if chunk.given else None
        cap = _cap(max(map(_count, regions)), self.config.method.max_regions) if regions is not None else 0
        key = (images.shape, cap, text.features.shape)
        start = time.perf_counter()
        found = self._program(cap)(self._params, images, text, regions=regions)
        labels, scores, used = jax.device_get(tuple(found))
        seconds = (time.perf_counter() - start) / len(chunk.places)
        compiled = key not in self._compiled
        self._compiled.add(key)
        return {
            place: Segmentation(pixels[place], labels[i], scores[i], used[i], names, seconds, compiled)
            for i, place in enumerate(chunk.places)
        }

    def _program(self, cap: int) -> Callable:
        """The compiled function for region maps of at most `cap` regions; 0 where none are given.

        A region is a token in every block of the image tower, so a cap near the number there is saves much time.
        """
        if cap not in self._programs:
            config = with_fields(self.config, method={"max_regions": cap}) if cap else self.config
            self._programs[cap] = jax.jit(make_segment(config))
        return self._programs[cap]


class _Chunk(NamedTuple):
    """Places of photos for one call; `padded` repeats the last one to the size of the chunks before."""

    places: list[int]
    padded: list[int]
    given: bool


def _chunks(pixels: list[np.ndarray], maps: list[np.ndarray | None]) -> list[_Chunk]:
    groups: dict[tuple, list[int]] = {}
    for index, (photo, regions) in enumerate(zip(pixels, maps, strict=True)):
        groups.setdefault((photo.shape, regions is not None), []).append(index)
    chunks = []
    for (shape, given), places in groups.items():
        size = min(len(places), _photos_per_call(shape))
        for start in range(0, len(places), size):
            part = places[start : start + size]
            chunks.append(_Chunk(part, part + part[-1:] * (size - len(part)), given))
    return chunks


def _photos_per_call(shape: tuple[int, ...]) -> int:
    if jax.default_backend() == "cpu":
        return 1  # nothing gained: one photo keeps all cores busy
    return max(1, min(_PHOTOS_PER_CALL, _PIXELS_PER_CALL // (shape[0] * shape[1])))


def _count(regions: np.ndarray) -> int:
    """Distinct ids, the smallest, which is the rest, not counted."""
    few = regions.max() < regions.size
    return int(np.count_nonzero(np.bincount(regions.ravel())) if few else len(np.unique(regions))) - 1


def _cap(count: int, most: int) -> int:
    """A cap on regions that serves many photos: 16, 64, 256 ... and at most the configured one."""
    cap = 16
    while cap < count:
        cap *= 4
    return min(cap, most)


def _name(model: str | os.PathLike) -> str | Path:
    return model if isinstance(model, str) else Path(model)


def _wants_sam2(regions: RegionSource | None) -> bool:
    return regions not in SOURCES or SOURCES[regions].tower == "sam2"  # without a choice, the model's own


def _check_settings(points: int | None, background_threshold: float | None) -> None:
    if points is not None and points < 1:
        raise ValueError(f"points must be 1 or more: n gives a grid of n x n point prompts. Got {points}.")
    if background_threshold is not None and not 0 <= background_threshold <= 1:
        raise ValueError(f"background_threshold is a probability, 0 to 1. Got {background_threshold}.")
