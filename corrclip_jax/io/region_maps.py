"""Region maps in files, named by the stem of their photo: `.npz`, `.png` or `.json`.

.npz   array `instance_mask` [H, W], as in the authors' implementation
.png   an index map: 8 or 16 bits, grey or with a palette
.json  COCO RLE: a list of masks, which may overlap, as written by facebookresearch/segment-anything
"""

import json
import os
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32, Integer
from PIL import Image, UnidentifiedImageError

from corrclip_jax.io import coco_rle
from corrclip_jax.io.files import atomic_file, fitting_stem
from corrclip_jax.io.index_images import IndexImageError, stored_numbers
from corrclip_jax.viz.palette import palette

KEY = "instance_mask"
SUFFIXES = (".npz", ".png", ".json")
"""Suffixes of region maps."""
MAX_MASKS = 4096
"""How many masks of a photo, which may overlap, a file may hold."""

_MAP_MODES = ("1", "L", "P", "I", "I;16", "I;16B")
_REGION = "region"  # the id in the map, in addition to the fields that SAM writes


class RegionError(ValueError):
    """A region map that cannot be read, or whose size is not that of its photo."""


def region_file(folder: str | os.PathLike, photo: str | os.PathLike) -> Path:
    """Find the region map of a photo in a folder, by the photo's stem.

    Raises:
      RegionError: if there is none, or more than one.
    """
    paths = [Path(folder) / name for name in region_file_names(Path(photo).stem)]
    found = [path for path in paths if path.is_file()]
    if not found:
        others = ", ".join(SUFFIXES[1:])
        raise RegionError(
            f"{photo} has no region map: {paths[0]} does not exist, nor one that ends in {others}."
        )
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise RegionError(f"{photo} has several region maps in {folder}: {names}. Keep one of them.")
    return found[0]


def region_file_names(stem: str) -> list[str]:
    """The names that the region map of a photo of this stem may have, one for each of `SUFFIXES`."""
    return [f"{fitting_stem(stem, suffix)}{suffix}" for suffix in SUFFIXES]


def region_file_name(photo: str | os.PathLike, suffix: str) -> str:
    """The name of a photo's region map: the photo's stem, cut if it is too long, and the suffix of the format."""
    return f"{fitting_stem(Path(photo).stem, suffix)}{suffix}"


def read_regions(path: str | os.PathLike, height: int, width: int) -> Int32[np.ndarray, "{height} {width}"]:
    """Read the region map of a photo of this size: 0 for unsegmented pixels, ids from 1 for regions.

    The suffix says the format, `.png` or `.json`; all others are read as `.npz`.

    Raises:
      RegionError: if the file is missing, damaged or of another format, or `as_regions` rejects the map.
    """
    path = Path(path)
    with _faults_named(path):
        match path.suffix.lower():
            case ".png":
                regions = _read_png(path)
            case ".json":
                regions = _read_json(path, height, width)
            case _:
                regions = _read_npz(path, height, width)
    return as_regions(regions, height, width, name=str(path))


def read_masks(
    path: str | os.PathLike, height: int, width: int
) -> Int32[np.ndarray, "{height} {width}"] | Bool[np.ndarray, "R {height} {width}"]:
    """Read the regions of a photo of this size: a map as of `read_regions`, or the masks that an `.npz` file
    holds in its place, which may overlap; `MAX_MASKS` at most.

    Raises:
      RegionError: as `read_regions` does.
    """
    path = Path(path)
    if path.suffix.lower() in (".png", ".json"):
        return read_regions(path, height, width)
    with _faults_named(path):
        found = _read_npz(path, height, width, masks=True)
    return found if found.ndim == 3 else as_regions(found, height, width, name=str(path))


def as_regions(
    regions: Any, height: int, width: int, *, name: str = "The region map"
) -> Int32[np.ndarray, "{height} {width}"]:
    """Check a region map: integers from 0 on, [height, width].

    Raises:
      RegionError: for another dtype or size, or an id below 0 or of more than 31 bits.
    """
    regions = np.asarray(regions)
    if regions.dtype.kind not in "iu":
        raise RegionError(f"{name} must hold integers. It holds {regions.dtype}.")
    _check_shape(regions.shape, height, width, name)
    if regions.min() < 0 or regions.max() > np.iinfo(np.int32).max:
        raise RegionError(
            f"{name} must hold ids of 0 (unsegmented) and above, of at most 31 bits."
            f" It holds {regions.min()} to {regions.max()}."
        )
    return regions.astype(np.int32)


def _check_shape(shape: tuple[int, ...], height: int, width: int, name: str) -> None:
    if shape != (height, width):
        hint = " Height and width are swapped." if shape == (width, height) else ""
        raise RegionError(
            f"{name} must have the photo's size, (height, width) = ({height}, {width}). Got {shape}.{hint}"
        )


def count_regions(regions: Integer[np.ndarray, "*shape"]) -> int:
    """Number of distinct ids (from 0 on) without the smallest, which is that of unsegmented pixels.

    >>> count_regions(np.array([[0, 7], [7, 2]]))
    2
    """
    few = regions.max() < regions.size
    return int(np.count_nonzero(np.bincount(regions.ravel())) if few else len(np.unique(regions))) - 1


def write_regions(
    path: str | os.PathLike,
    regions: Integer[np.ndarray, "H W"],
    details: Mapping[int, Mapping[str, Any]] | None = None,
) -> None:
    """Write a region map for `read_regions`; an existing file is replaced in one step.

    Args:
      path: the file; its suffix is one of `SUFFIXES`.
      regions: the map.
      details: by id, fields for the masks of a `.json` file ("predicted_iou" ...); not written to the other
        formats.

    Raises:
      RegionError: for another suffix, or ids above 65,535 in a `.png`.
      OutputError: if the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise RegionError(f"A region map ends in {', '.join(SUFFIXES)}. Got {path.name}.")
    if path.suffix == ".png" and regions.max() > 0xFFFF:
        raise RegionError(
            f"A PNG holds ids of at most 16 bits, the region map has {regions.max()}. Use .npz, or renumber "
            "the regions."
        )
    with atomic_file(path) as partial:
        if path.suffix == ".png":
            map_image(regions).save(partial, optimize=True)
        elif path.suffix == ".json":
            partial.write_text(json.dumps(to_annotations(regions, details)) + "\n", "utf-8")
        else:
            with partial.open("wb") as file:
                np.savez_compressed(file, allow_pickle=False, **{KEY: regions})


def map_image(regions: Integer[np.ndarray, "H W"]) -> Image.Image:
    """A region map as an index image: 8 bits with a palette (0 is black), or 16 bits grey for ids above 255."""
    if regions.max() > 0xFF:
        return Image.fromarray(regions.astype(np.uint16))
    image = Image.fromarray(regions.astype(np.uint8))
    image.putpalette(np.concatenate([np.zeros((1, 3), np.uint8), palette(255)]).tobytes())
    return image


def bounding_box(mask: Bool[np.ndarray, "H W"]) -> list[int]:
    """The box (x0, y0, x1, y1) of a mask that has pixels, in pixel indices, with the ends included."""
    (x0, x1), (y0, y1) = (np.flatnonzero(mask.any(axis))[[0, -1]].tolist() for axis in (0, 1))
    return [x0, y0, x1, y1]


def to_annotations(
    regions: Integer[np.ndarray, "H W"], details: Mapping[int, Mapping[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """A region map as a list of masks like SAM's: segmentation, area, bbox (x0, y0, x1 - x0, y1 - y0).

    Boxes are in pixel indices, with the ends included. "region" is the id; `details` are added by id.
    """
    found = []
    for id, segmentation in coco_rle.encode_map(regions).items():
        mask = coco_rle.decode(segmentation)
        x0, y0, x1, y1 = bounding_box(mask)
        found.append(
            {
                _REGION: id,
                "segmentation": segmentation,
                "area": int(mask.sum()),
                "bbox": [x0, y0, x1 - x0, y1 - y0],
                **(details or {}).get(id, {}),
            }
        )
    return found


def from_annotations(annotations: Any, height: int, width: int) -> Int32[np.ndarray, "{height} {width}"]:
    """The region map of a list of masks; an empty list gives zeros.

    Ids are those under "region" if every mask has one, an integer from 1 on. Otherwise masks are painted like those
    of SAM in the method: sorted by area, with ids from 1 for the smallest, and the largest painted last.

    Raises:
      RegionError: if this is no list of masks of this size, for masks of several images ("image_id"), for two masks
        with the same "region", and for one that is true or false.
    """
    if not isinstance(annotations, list) or not all(isinstance(one, dict) for one in annotations):
        raise RegionError('expected a list of masks, each with a "segmentation".')
    _check_one_image([one["image_id"] for one in annotations if "image_id" in one])
    masks = []
    for index, one in enumerate(annotations):
        segmentation = one.get("segmentation")
        size = segmentation.get("size") if isinstance(segmentation, dict) else None
        if isinstance(size, list) and size != [height, width]:  # before memory is taken for it
            raise RegionError(f"mask {index} has the size {tuple(size)}, expected {(height, width)}.")
        try:
            masks.append(coco_rle.decode(segmentation))
        except coco_rle.RLEError as error:
            raise RegionError(f"mask {index}: {error}") from error
    regions = np.zeros((height, width), np.int32)
    known = [one.get(_REGION) for one in annotations]
    for index, id in enumerate(known):
        if isinstance(id, bool):
            raise RegionError(f'mask {index} has the "{_REGION}" {json.dumps(id)}, expected an integer.')
    if all(isinstance(id, int) and 0 < id < 1 << 31 for id in known):
        id, count = Counter(known).most_common(1)[0] if known else (0, 0)
        if count > 1:
            raise RegionError(f'{count} masks have the "{_REGION}" {id}. Give each mask a number of its own.')
        numbered = list(zip(known, masks, strict=True))
    else:
        numbered = list(enumerate(sorted(masks, key=np.count_nonzero), start=1))
    for id, mask in numbered:
        regions[mask] = id
    return regions


@contextmanager
def _faults_named(path: Path) -> Iterator[None]:
    """Errors of reading a region map as `RegionError` with its path."""
    try:
        yield
    except FileNotFoundError:
        raise RegionError(f"The region map {path} does not exist.") from None
    except RegionError:
        raise
    except MemoryError:
        raise RegionError(f"The region map {path} needs more memory than there is. Is it damaged?") from None
    except Exception as e:  # decoders raise whatever damaged data makes them raise
        raise RegionError(f"{path} is no readable region map: {type(e).__name__}: {e}.") from e


def _read_npz(path: Path, height: int, width: int, *, masks: bool = False) -> np.ndarray:
    """The array in a file: a map of this size, or `masks` of it. No memory is taken for others."""
    with path.open("rb") as file:
        try:
            content = np.load(file, allow_pickle=False)
        except _DAMAGED as e:
            # For a foreign file NumPy's own message advises to unpickle it, which would run its code.
            reason = "NumPy did not write it" if "pickle" in str(e) else e
            raise RegionError(f"{path} is no readable .npz file: {reason}.") from e
        if isinstance(content, np.ndarray):
            raise RegionError(
                f"{path} holds a bare array. Save it with np.savez_compressed(path, {KEY}=regions)."
            )
        with content:
            if KEY not in content:
                raise RegionError(f"{path} has no array {KEY!r}. It has: {', '.join(content) or 'nothing'}.")
            try:
                with content.zip.open(f"{KEY}.npy") as array:
                    shape, dtype = _header(array)
                if masks and len(shape) == 3 and dtype.kind == "b":
                    _check_masks(shape, height, width, path)
                else:
                    _check_shape(shape, height, width, str(path))
                return content[KEY]
            except RegionError:
                raise
            except _DAMAGED as e:
                raise RegionError(f"{path} is damaged or cut short: {e}.") from e


def _check_masks(shape: tuple[int, ...], height: int, width: int, path: Path) -> None:
    if shape[1:] != (height, width):
        raise RegionError(f"{path} must hold masks of the photo's size, {height} x {width}. Got {shape[1:]}.")
    if shape[0] > MAX_MASKS:
        raise RegionError(
            f"{path} holds {shape[0]:,} masks; the limit is {MAX_MASKS:,}. Leave out small ones."
        )


def _header(file: zipfile.ZipExtFile) -> tuple[tuple[int, ...], np.dtype]:
    """The shape and type of an array in a .npy file, from its header."""
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    shape, _, dtype = read[np.lib.format.read_magic(file)](file)
    return shape, dtype


def _read_png(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as image:
            if image.mode not in _MAP_MODES:
                raise RegionError(
                    f"{path} is an image in {image.mode}, no index map. Save ids as 8 or 16 bits, one channel."
                )
            return stored_numbers(image)
    except (FileNotFoundError, RegionError):
        raise
    except IndexImageError as e:
        raise RegionError(f"{path} is no index map: {e}.") from None
    except (*_DAMAGED, UnidentifiedImageError, SyntaxError) as e:
        raise RegionError(f"{path} is no readable image: {e}.") from e


def _check_one_image(ids: Iterable[Any]) -> None:
    """Refuse masks, or a file, of several images."""
    distinct = list(dict.fromkeys(map(json.dumps, ids)))
    if len(distinct) > 1:
        raise RegionError(
            f"these are several images ({', '.join(distinct[:5])}), and a region map is of one photo. Write a file "
            "per photo, named for it."
        )


def _read_json(path: Path, height: int, width: int) -> np.ndarray:
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as e:
        raise RegionError(f"{path} is no readable JSON file: {e}.") from e
    try:
        if isinstance(content, dict) and isinstance(
            images := content.get("images"), list
        ):  # COCO's data sets
            _check_one_image([one.get("id") if isinstance(one, dict) else one for one in images])
        # Files of SA-1B have the list under a key. An empty list means that nothing was found in the photo.
        return from_annotations(
            content["annotations"] if isinstance(content, dict) else content, height, width
        )
    except KeyError:
        raise RegionError(f'{path} holds no masks in COCO RLE: it has no "annotations".') from None
    except RegionError as e:
        raise RegionError(f"{path} is no region map in COCO RLE: {e}") from e


_DAMAGED = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error)
