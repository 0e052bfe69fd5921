"""Region maps in files: `<stem of the photo>.npz`, key `instance_mask`, as the authors' program keeps them."""

import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, Integer

from corrclip_jax.output import whole_file

KEY = "instance_mask"


class RegionError(ValueError):
    """A region map that cannot be read or does not fit its photo."""


def region_file(folder: str | os.PathLike, photo: str | os.PathLike) -> Path:
    """The file in a folder that holds a photo's region map, by the photo's stem.

    Raises:
      RegionError: there is none.
    """
    path = Path(folder) / f"{Path(photo).stem}.npz"
    if not path.is_file():
        raise RegionError(f"{photo} has no region map: {path} does not exist.")
    return path


def read_regions(path: str | os.PathLike, height: int, width: int) -> Int32[np.ndarray, "{height} {width}"]:
    """The region map [height, width] of a photo of that size: 0 what belongs to no region, 1.. otherwise.

    Raises:
      RegionError: no such file, no NumPy archive, no key `instance_mask`, or a map that `as_regions` refuses.
    """
    try:
        content = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise RegionError(f"The region map {path} does not exist.") from None
    except _DAMAGED as e:
        raise RegionError(f"{path} is no readable .npz file: {e}.") from e
    if isinstance(content, np.ndarray):
        raise RegionError(
            f"{path} holds a bare array. Save it with np.savez_compressed(path, {KEY}=regions)."
        )
    with content:
        if KEY not in content:
            raise RegionError(f"{path} has no array {KEY!r}. It has: {', '.join(content) or 'nothing'}.")
        try:
            regions = content[KEY]
        except _DAMAGED as e:
            raise RegionError(f"{path} is damaged or cut short: {e}.") from e
    return as_regions(regions, height, width, name=str(path))


def as_regions(
    regions: Any, height: int, width: int, *, name: str = "The region map"
) -> Int32[np.ndarray, "{height} {width}"]:
    """Check a region map: integers of 0 and above, [height, width].

    Raises:
      RegionError: another type or size, or an id below 0 or of more than 31 bits.
    """
    regions = np.asarray(regions)
    if regions.dtype.kind not in "iu":
        raise RegionError(f"{name} must hold integers. It holds {regions.dtype}.")
    if regions.shape != (height, width):
        hint = " Height and width are swapped." if regions.shape == (width, height) else ""
        raise RegionError(
            f"{name} must have the photo's size, (height, width) = ({height}, {width})."
            f" Got {regions.shape}.{hint}"
        )
    if regions.min() < 0 or regions.max() > np.iinfo(np.int32).max:
        raise RegionError(
            f"{name} must hold ids of 0 (belongs to no region) and above, of at most 31 bits."
            f" It holds {regions.min()} to {regions.max()}."
        )
    return regions.astype(np.int32)


def count_regions(regions: Integer[np.ndarray, "*shape"]) -> int:
    """Distinct ids, 0 and above; the smallest, which is the rest, is not counted.

    >>> count_regions(np.array([[0, 7], [7, 2]]))
    2
    """
    few = regions.max() < regions.size
    return int(np.count_nonzero(np.bincount(regions.ravel())) if few else len(np.unique(regions))) - 1


def write_regions(path: str | os.PathLike, regions: Integer[np.ndarray, "H W"]) -> None:
    """Write a region map so that `read_regions` reads it; an existing file is replaced in one step.

    Raises:
      OutputError: the file cannot be written.
    """
    with whole_file(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **{KEY: regions})


_DAMAGED = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)
