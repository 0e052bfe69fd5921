"""`SegmentImages`: a callable class for Ray's `Dataset.map_batches`; each actor holds one compiled `Segmenter`."""

import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from corrclip_jax.io.photos import BandsOf, PhotoError, PhotoWarning
from corrclip_jax.io.region_maps import RegionError
from corrclip_jax.ray.chunks import NamedBytes, read_sources
from corrclip_jax.ray.rows import LABEL_FORMATS, LabelFormat, error_row, result_row, table
from corrclip_jax.ray.sources import Source

if TYPE_CHECKING:
    from corrclip_jax.inference.segmentation import Segmentation
    from corrclip_jax.inference.segmenter import Segmenter

_COLUMNS = ("bytes", "image", "path", "uri", "url")


class SegmentImages:
    """Labels batches of images; loads and compiles at the first batch, in the process that gets it.

    For instance::

        images = ray.data.read_binary_files("s3://bucket/images", include_paths=True)
        labelled = images.map_batches(
            SegmentImages,
            fn_constructor_args=("vit-b", ["cat", "grass", ["sky", "cloud"]]),
            compute=ray.data.ActorPoolStrategy(size=4),
            batch_size=32,
            num_gpus=1,
        )

    A batch has the columns `bytes` (encoded images), `image` (arrays uint8 [H, W, 3]), or `path`, `uri` or `url`,
    and may have `key`, without which path or address are the keys.
    """

    def __init__(
        self,
        model: str | os.PathLike = "vit-b",
        classes: Sequence[str | Sequence[str]] = (),
        *,
        labels: str = "png",
        sizes: Mapping[tuple[int, int], int] | None = None,
        bands: tuple[int, ...] | None = None,
        **options: Any,
    ):
        """Keep the settings; nothing is loaded.

        Args:
          model: a name, or a folder that all machines see.
          classes: class names; a list inside is synonyms of one class.
          labels: how a row holds the labels, "png" or "rle" (COCO RLE of every class).
          sizes: how many images of all batches have which height and width, in pixels. With it, labels equal those
            of one `Segmenter` with all images; without, actors plan their programs by the batches that they get.
          bands: of the images, for red, green and blue, or one for grey, counted from 1.
          options: more arguments of `Segmenter`: regions, dtype, points, ...

        Raises:
          ValueError: for no classes, or another format of labels.
        """
        if not classes:
            raise ValueError("SegmentImages needs classes: SegmentImages(model, ['cat', 'grass']). Got none.")
        if labels not in LABEL_FORMATS:
            raise ValueError(f"labels must be one of {', '.join(LABEL_FORMATS)}. Got {labels!r}.")
        self.model, self.classes = model, list(classes)
        self.labels: LabelFormat = "png" if labels == "png" else "rle"
        self.bands = bands
        self._sizes, self._options = dict(sizes or {}), options

    def __call__(self, batch: Mapping[str, Any]) -> Any:
        """Label a batch.

        Returns:
          A table of PyArrow with one row an image, in the batch's order: key, height, width, labels, shares (by
          class), segments (JSON, as in the description of `corrclip segment`), notes, seconds, error. An image that
          cannot be labelled has only key and error.

        Raises:
          ValueError: for a batch without images or keys.
        """
        keys, photos = self._photos(batch)
        return table(self.rows(keys, photos), self.labels)

    def rows(self, keys: Sequence[str], photos: Sequence[Any]) -> list[dict[str, Any]]:
        """The rows of images.

        Args:
          keys: their names.
          photos: what `Segmenter.stream` takes, or an error in place of an image.
        """
        rows: dict[int, dict[str, Any]] = {}
        for index, result, notes in self.results(photos):
            key = keys[index]
            if isinstance(result, Exception):
                rows[index] = error_row(key, self.reason(key, result))
            else:
                rows[index] = result_row(key, result, self.labels, notes)
        return [rows[index] for index in range(len(keys))]

    def results(self, photos: Sequence[Any]) -> Iterator[tuple[int, "Segmentation | Exception", list[str]]]:
        """The result of each photo by its index, or why there is none, and notes on how it was read."""
        good = [index for index, photo in enumerate(photos) if not isinstance(photo, Exception)]
        for index, photo in enumerate(photos):
            if isinstance(photo, Exception):
                yield index, photo, []
        if not good:
            return
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", PhotoWarning)
            found = [photos[index] for index in good]
            for position, result in self.segmenter.stream(found, self.classes):
                name = _name(found[position])
                notes = [one.message for one in caught if isinstance(one.message, PhotoWarning)]
                yield good[position], result, list(dict.fromkeys(n.note for n in notes if n.photo == name))

    @staticmethod
    def reason(key: str, error: Exception) -> str:
        """Why an image has no labels.

        Raises:
          Exception: the error, if it does not concern the image alone.
        """
        if isinstance(error, PhotoError | RegionError):
            return str(error)
        from corrclip_jax.runtime.memory import exhausted, too_large

        if not exhausted(error):
            raise error
        return too_large(key)

    @cached_property
    def segmenter(self) -> "Segmenter":
        """The model with the embedded class names and the planned programs."""
        use_assigned_cores()
        import jax

        from corrclip_jax.inference.segmenter import Segmenter
        from corrclip_jax.runtime.compilation_cache import keep_compiled_programs

        keep_compiled_programs()
        devices = jax.local_devices()
        mesh = jax.make_mesh((len(devices),), ("images",), devices=devices) if len(devices) > 1 else None
        segmenter = Segmenter(self.model, mesh=mesh, **self._options)
        segmenter.expect_sizes([size for size, count in self._sizes.items() for _ in range(count)])
        segmenter.embed(self.classes)
        return segmenter

    def _photos(self, batch: Mapping[str, Any]) -> tuple[list[str], list[Any]]:
        column = next((name for name in _COLUMNS if name in batch), None)
        named = next((name for name in ("key", "path", "uri", "url") if name in batch), None)
        if column is None or named is None:
            raise ValueError(
                f"a batch needs a column of images ({', '.join(_COLUMNS)}) and one of keys (key, or a path or "
                f"address; read_binary_files and read_images have include_paths=True). Got {', '.join(batch)}."
            )
        keys = [str(key) for key in batch[named]]
        if column == "bytes":
            photos: list[Any] = [_opened(data, key) for data, key in zip(batch[column], keys, strict=True)]
        elif column == "image":
            photos = list(batch[column])
        else:
            places = [Source(key, str(place), "") for key, place in zip(keys, batch[column], strict=True)]
            return keys, read_sources(places, self.bands)
        if self.bands is not None:
            photos = [p if isinstance(p, Exception) else BandsOf(p, self.bands) for p in photos]
        return keys, photos


def _opened(data: Any, key: str) -> NamedBytes | PhotoError:
    return PhotoError(f"{key} has no image.") if data is None else NamedBytes(bytes(data), key)


def _name(photo: Any) -> str:
    return photo.name if isinstance(photo, NamedBytes) else str(photo)


def use_assigned_cores() -> None:
    """Let XLA use as many threads as Ray has assigned cores to this actor; outside Ray, do nothing."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return
    cores = ray.get_runtime_context().get_assigned_resources().get("CPU", 0)
    if cores >= 1:
        os.environ.setdefault("NPROC", str(int(cores)))
