"""Reading of photos and region maps for many images: sizes first, pixels when a batch needs them."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image

from corrclip_jax.inference.buckets import Size
from corrclip_jax.io.photos import PhotoError, photo_size, read_photo
from corrclip_jax.io.region_maps import RegionError, as_regions, count_regions, read_regions

T = TypeVar("T")
ONE_PHOTO = str | os.PathLike | bytes | bytearray | memoryview | Image.Image
"""What is always one photo; opened files and arrays are, too."""


def read_photo_sizes(photos: Sequence[Any]) -> tuple[dict[int, Size], dict[int, PhotoError]]:
    """Height and width of the photos that can be opened, and why the others cannot, by their indices."""
    with ThreadPoolExecutor() as pool:
        found = list(enumerate(pool.map(or_error(photo_size), photos)))
    sizes = {index: size for index, size in found if isinstance(size, tuple)}
    return sizes, {index: error for index, error in found if isinstance(error, PhotoError)}


def read_photo_of_size(photo: Any, size: Size) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels of a photo whose size was read before.

    Raises:
      PhotoError: if it cannot be read, or has another size by now.
    """
    pixels = read_photo(photo)
    if pixels.shape[:2] != size:
        raise PhotoError(f"{photo} changed while the photos were read. Start again.")
    return pixels


def read_region_map(
    given: Any, photo: UInt8[np.ndarray, "H W 3"], max_regions: int
) -> Integer[np.ndarray, "H W"] | None:
    """A region map from an array or a file, checked; None for None.

    Raises:
      RegionError: if it does not fit the photo or has more than `max_regions` regions.
    """
    if given is None:
        return None
    height, width = photo.shape[:2]
    is_file = isinstance(given, str | os.PathLike)
    regions = read_regions(given, height, width) if is_file else as_regions(given, height, width)
    if (count := count_regions(regions)) > max_regions:
        raise RegionError(
            f"{given if is_file else 'The region map'} has {count} regions besides the unsegmented pixels, and "
            f"config.method.max_regions is {max_regions}. Merge small regions, or raise it."
        )
    return regions


def or_error(function: Callable[..., T]) -> Callable[..., T | PhotoError | RegionError]:
    """The function, with errors of photos and region maps as results."""

    def call(*arguments: Any) -> T | PhotoError | RegionError:
        try:
            return function(*arguments)
        except (PhotoError, RegionError) as error:
            return error

    return call


def is_one_photo(photos: Any) -> bool:
    """Whether this is one photo: anything but a list or the like and an iterator, which an opened file is, too."""
    if isinstance(photos, ONE_PHOTO) or hasattr(photos, "read"):
        return True
    return not isinstance(photos, Sequence | Iterator)


def one_for_each(regions: Iterable[Any] | None, count: int) -> list[Any]:
    """The region maps of so many photos, None for a photo without one.

    Raises:
      RegionError: for another number of them.
    """
    given = [None] * count if regions is None else list(regions)
    if len(given) != count:
        raise RegionError(
            f"{count} photos need as many region maps (or None in place of one). Got {len(given)}."
        )
    return given
