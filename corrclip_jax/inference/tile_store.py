"""Tile store: a folder of the tiles of a raster that are done, so that a killed run continues with the others."""

import json
import shutil
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
from jaxtyping import Bool, Float16, Int, UInt8

from corrclip_jax.io.files import atomic_file, json_bytes, remove_stale_partials

_MARK = "made.json"
_CACHE_BYTES = 256 << 20


class Tile(NamedTuple):
    """What is known of a tile after it has run.

    Attributes:
      probabilities: of the classes, once a cell; None where no pixel has data.
      regions: the region map, 0 for unsegmented pixels.
      valid: which pixels have data.
      small: some of its pixels, for the preview.
    """

    probabilities: Float16[np.ndarray, "K h w"] | None
    regions: Int[np.ndarray, "H W"]
    valid: Bool[np.ndarray, "H W"]
    small: UInt8[np.ndarray, "a b 3"]


class TileStore:
    """The tiles in a folder, each a file that appears whole; those read last are kept in memory."""

    def __init__(self, folder: Path, made: Mapping[str, Any]):
        """Open the folder, and empty it if its tiles were made from or with something else than `made` says.

        Raises:
          OutputError: if it cannot be written.
        """
        self.folder = folder
        self._cache: OrderedDict[tuple[int, int], Tile] = OrderedDict()
        wanted = json_bytes(dict(made))
        mark = folder / _MARK
        if not mark.is_file() or json.loads(mark.read_bytes() or b"{}") != json.loads(wanted):
            shutil.rmtree(folder, ignore_errors=True)
            with atomic_file(mark) as partial:
                partial.write_bytes(wanted)
        remove_stale_partials(folder)

    def has(self, place: tuple[int, int]) -> bool:
        """Whether the tile in this row and column is done."""
        return self._path(place).is_file()

    def write(self, place: tuple[int, int], tile: Tile) -> None:
        """Keep a tile.

        Raises:
          OutputError: if it cannot be written.
        """
        content: dict[str, Any] = {
            "regions": tile.regions,
            "valid": np.packbits(tile.valid, axis=1),
            "small": tile.small,
        }
        if tile.probabilities is not None:
            content["probabilities"] = tile.probabilities
        # Level 1 takes a third of the time of numpy's own.
        with (
            atomic_file(self._path(place)) as partial,
            ZipFile(partial, "w", ZIP_DEFLATED, compresslevel=1) as file,
        ):
            for name, values in content.items():
                with file.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.asanyarray(values), allow_pickle=False)

    def read(self, place: tuple[int, int]) -> Tile:
        """A tile that is done."""
        if place not in self._cache:
            with np.load(self._path(place)) as content:
                regions = content["regions"]
                valid = np.unpackbits(content["valid"], axis=1, count=regions.shape[1]).astype(bool)
                chances = content.get("probabilities")
                self._cache[place] = Tile(chances, regions, valid, content["small"])
        self._cache.move_to_end(place)
        while len(self._cache) > 1 and sum(map(_bytes, self._cache.values())) > _CACHE_BYTES:
            self._cache.popitem(last=False)
        return self._cache[place]

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def remove_if_empty(self) -> None:
        """Delete the folder if it holds no tile, so that a raster that cannot be read leaves nothing behind."""
        if not any(self.folder.glob("tile-*")):
            self.remove()

    def _path(self, place: tuple[int, int]) -> Path:
        return self.folder / f"tile-{place[0]:05d}-{place[1]:05d}.npz"


def _bytes(tile: Tile) -> int:
    return sum(part.nbytes for part in tile if part is not None)
