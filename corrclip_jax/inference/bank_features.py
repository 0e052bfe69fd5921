"""Features of a bank's entries: images and their regions through the networks, in padded batches."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from corrclip_jax.bank.errors import BankError
from corrclip_jax.bank.folder import Network, backbone_of, clip_of
from corrclip_jax.bank.unfinished import Entries
from corrclip_jax.config import Config, RegionConfig, similarity_network, with_fields
from corrclip_jax.inference.bank_build import as_stored
from corrclip_jax.inference.buckets import Batch, Size, plan_batches, plan_buckets
from corrclip_jax.inference.photo_reading import or_error, read_photo_of_size
from corrclip_jax.inference.programs import SEGMENT_LIMIT, Piece, Programs
from corrclip_jax.inference.stream import padded_batch, sizes_of
from corrclip_jax.io.region_maps import RegionError, bounding_box, read_masks, region_file
from corrclip_jax.method.bank_entries import RegionMasks, bank_entries, values_config
from corrclip_jax.params.digests import network_digest
from corrclip_jax.regions.sources import SOURCES, can_find, find_regions
from corrclip_jax.runtime.memory import exhausted, too_large

_CAPS = (16, 64, 256, 1024, 4096)  # numbers of regions that programs are compiled for


class _Image(NamedTuple):
    """An image with its regions: numbers 1 .. R in the map, the id of each, and masks where these overlap."""

    pixels: np.ndarray
    map: np.ndarray
    ids: np.ndarray
    masks: np.ndarray | None
    boxes: np.ndarray


class BankFeatures:
    """Entries of images by a model's networks (`bank_build.Extractor`)."""

    def __init__(
        self,
        config: Config,
        params: Mapping[str, Any],
        *,
        regions: Path | None = None,
        source: str | None = None,
        others: Mapping[str, tuple[Config, Mapping[str, Any]]] | None = None,
        short: int | None = None,
    ):
        """Keep the networks.

        Args:
          config: the model; `config.similarity` names the backbone of the keys, `config.regions.source` where
            regions come from.
          params: its parameters, DINO's among them.
          regions: a folder of region maps to use instead.
          source: the name of the source for the bank's settings, where it says more than the configuration: a
            published network.
          others: further models whose CLIPs make values, by name.
          short: shorter side of the resized images for values; see `values_config`.

        Raises:
          ValueError: for a model without DINO, or without its source's network.
        """
        models = {"main": (config, params), **(others or {})}
        method = values_config(config, short).method
        backbone, _ = similarity_network(config)
        self._config, self._short, self._folder = config, short, regions
        self._clips = {name: model for name, (model, _) in models.items()}
        networks = {backbone: params[backbone], "dino": params["dino"]}
        clips = {name: tree["clip"] for name, (_, tree) in models.items()}
        if regions is None and (finder := self._network_of_regions(config, params)) is not None:
            networks[finder] = params[finder]
        identity = "bank", config, self._clips, short
        self._programs = Programs({**networks, **clips}, SEGMENT_LIMIT, identity=identity)
        self.backbone = backbone_of(config, params)
        self.clips: Mapping[str, Network] = {name: clip_of(*model) for name, model in models.items()}
        self.settings: Mapping[str, Any] = {
            "short": method.resize_short,
            "window": method.window,
            "stride": method.stride,
            "similarity_side": config.method.similarity_side,
            "dtype": config.dtype,
            "dino": network_digest(params["dino"]),
            "regions": {"source": "files"} if regions is not None else _recorded(config.regions, source),
        }

    @staticmethod
    def _network_of_regions(config: Config, params: Mapping[str, Any]) -> str | None:
        source = SOURCES[config.regions.source]
        if config.regions.source == "none" or not can_find(config, params):
            raise ValueError(
                f"a bank's entries are regions, and the model {config.name!r} has no network to find them with "
                f"(regions.source is {config.regions.source!r}). Choose another source, or give region maps."
            )
        return source.network

    def plan(self, sizes: Sequence[Size]) -> list[Batch]:
        """Images that are computed together."""
        method = values_config(self._config, self._short).method
        return plan_batches(sizes, plan_buckets(sizes, method), method, self._programs.batch_size)

    def __call__(
        self, batches: Sequence[Batch], photos: Mapping[int, Path], sizes: Mapping[int, Size]
    ) -> Iterator[tuple[int, dict[int, Entries | str]]]:
        """For each batch, by its number, the entries of its images, or why they have none."""

        @or_error
        def read(index: int) -> _Image | np.ndarray:
            pixels = read_photo_of_size(photos[index], sizes[index])
            if self._folder is None:
                return pixels
            return _image(pixels, read_masks(region_file(self._folder, photos[index]), *pixels.shape[:2]))

        def start(batch: Batch, images: list[Any]) -> Any:
            self._find_regions(batch, images)
            good = [image for image in images if _has_regions(image)]
            return self._start(batch, good) if good else None

        for number, pieces in enumerate(self._programs.run(batches, read, start)):
            found: dict[int, Entries | str] = {}
            for piece in pieces:
                found |= self._entries(piece, photos)
            yield number, found

    def _find_regions(self, batch: Batch, images: list[Any]) -> None:
        """Put an `_Image` in the place of the pixels of each image whose regions are not given, in the list itself.

        `Programs.run` passes the same list on: as the items of the piece, and to smaller batches where memory runs
        out, for which the regions are then known.
        """
        bare = [index for index, image in enumerate(images) if isinstance(image, np.ndarray)]
        if not bare:
            return
        pixels = [images[index] for index in bare]
        arrays = jax.device_put((padded_batch(pixels, batch), sizes_of(pixels, batch)))
        program = lambda params, *arrays: find_regions(self._config, params, *arrays)[0]  # noqa: E731
        maps = np.asarray(self._programs("regions", lambda: program, *arrays))
        for index, one in zip(bare, maps, strict=False):
            height, width = images[index].shape[:2]
            images[index] = or_error(_image)(images[index], one[:height, :width])

    def _start(self, batch: Batch, images: list[_Image]) -> Any:
        most = max(len(image.ids) for image in images)
        cap = next((cap for cap in _CAPS if most <= cap), most)
        masks = None
        if any(image.masks is not None for image in images):
            masks = np.zeros((batch.batch_size, cap, *batch.bucket.shape), bool)
            for row, image in zip(masks, images, strict=False):
                own = image.masks if image.masks is not None else image.map == _numbers(image)
                row[: len(own), : own.shape[1], : own.shape[2]] = own
        maps = padded_batch([image.map for image in images], batch)
        pixels = [image.pixels for image in images]
        regions: Any = jax.device_put((maps, masks))
        images_and_sizes = jax.device_put((padded_batch(pixels, batch), sizes_of(pixels, batch)))
        arrays = (images_and_sizes[0], RegionMasks(*regions), images_and_sizes[1])
        config = with_fields(self._config, method={"max_windows": batch.bucket.windows})

        def program(params: Any, images: Any, regions: RegionMasks, sizes: Any) -> Any:
            return bank_entries(
                config, params, self._clips, images, regions, cap, sizes=sizes, short=self._short
            )

        return self._programs(("entries", batch.bucket.windows, cap), lambda: program, *arrays)

    def _entries(self, piece: Piece, photos: Mapping[int, Path]) -> dict[int, Entries | str]:
        found: dict[int, Entries | str] = {}
        for index, image, row in piece.results(_has_row):
            if row is None:
                found[index] = self._nothing()
            elif isinstance(row, int):
                values = {name: x[row] for name, x in piece.out.values.items()}
                found[index] = _stored(image, piece.out.keys[row], values, photos[index])
            elif row is image:
                found[index] = str(image)
            elif exhausted(row):
                found[index] = too_large(photos[index])
            else:
                raise row
        return found

    def _nothing(self) -> Entries:
        values = {name: np.zeros((0, clip.width), np.float16) for name, clip in self.clips.items()}
        empty = np.zeros((0, 4), np.int32)
        return Entries(np.zeros((0, self.backbone.width), np.float16), values, empty[:, 0], empty)


def _stored(image: _Image, keys: np.ndarray, values: dict[str, np.ndarray], photo: Path) -> Entries | str:
    count = len(image.ids)
    try:
        stored = as_stored(keys[:count], {name: x[:count] for name, x in values.items()})
    except BankError as error:
        return f"{photo}: {error}"
    return Entries(*stored, image.ids, image.boxes)


def _recorded(regions: RegionConfig, source: str | None) -> dict[str, Any]:
    """The settings of regions as JSON has them, without unset ones that banks of earlier versions do not know."""
    settings = asdict(regions) | ({} if source is None else {"source": source})
    if regions.slic.side is None:
        del settings["slic"]["side"]
    return json.loads(json.dumps(settings))  # lists for tuples, as they are read back


def _has_regions(image: Any) -> bool:
    return isinstance(image, _Image) and len(image.ids) > 0


def _has_row(image: Any) -> bool:
    """Whether an image ran; where the device failed while regions were sought, its pixels are still there."""
    return isinstance(image, np.ndarray) or _has_regions(image)


def _numbers(image: _Image) -> np.ndarray:
    return np.arange(1, len(image.ids) + 1)[:, None, None]


def _image(pixels: np.ndarray, regions: np.ndarray) -> _Image:
    """An image with its regions numbered; of masks those without pixels are left out."""
    if regions.ndim == 3:
        there = np.flatnonzero(regions.any(axis=(1, 2)))
        masks = regions[there]
        painted = np.zeros(regions.shape[1:], np.int32)
        for number, mask in enumerate(masks, start=1):
            painted[mask] = number
        ids = (there + 1).astype(np.int32)
    else:
        masks = None
        ids = np.unique(regions)
        ids = ids[ids != 0].astype(np.int32)
        painted = np.where(regions == 0, 0, np.searchsorted(ids, regions) + 1).astype(np.int32)
    each = masks if masks is not None else (painted == number for number in range(1, len(ids) + 1))
    boxes = np.array([bounding_box(mask) for mask in each], np.int32).reshape(-1, 4)
    if len(ids) > _CAPS[-1]:
        raise RegionError(
            f"there are {len(ids)} regions; at most {_CAPS[-1]} are computed. Merge small ones."
        )
    return _Image(pixels, painted, ids, masks, boxes)
