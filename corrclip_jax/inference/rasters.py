"""Rasters of any size, segmented tile by tile in bounded memory: a label raster, polygons and a preview."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corrclip_jax.inference.raster_results import Counts, counts_of, raster_names, write_results
from corrclip_jax.inference.raster_tiles import OnStep, RasterTiles, Tiling
from corrclip_jax.inference.segmenter import Classes, Segmenter
from corrclip_jax.inference.tile_store import TileStore
from corrclip_jax.io.marks import file_digest
from corrclip_jax.io.own_files import OwnFiles, value_digest
from corrclip_jax.io.raster_polygons import VECTOR_SUFFIXES
from corrclip_jax.io.rasters import Raster
from corrclip_jax.text.classes import normalise_classes

_TILING = Tiling()


@dataclass(frozen=True)
class RasterResult:
    """Where the results of a raster are, and the pixels of each class.

    Attributes:
      paths: of the files, the label raster first.
      pixels: by the class's first name.
      nodata: how many pixels have no data.
      tiles: how many tiles there are.
      before: how many of them, or all, were done by an earlier run.
    """

    paths: list[Path]
    pixels: dict[str, int]
    nodata: int
    tiles: int
    before: int


def segment_raster(
    segmenter: Segmenter,
    raster: Raster | str | os.PathLike,
    classes: Classes,
    out: str | os.PathLike,
    *,
    stem: str | None = None,
    tiling: Tiling = _TILING,
    vector: str | None = None,
    made: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    on_step: OnStep = lambda step, done, total: None,
    stop: Callable[[], bool] = lambda: False,
) -> RasterResult:
    """Label a raster of any size, and write <stem>.tif, its colours and names, a preview, polygons, a description.

    Tiles that are done are kept in a folder in `out` until all are, so a killed run continues. A result that was
    made in the same way is kept.

    Args:
      segmenter: the model.
      raster: a file, or a `Raster` with bands, stretch and resolution.
      classes: class names; a list inside is synonyms of one class.
      out: the folder of the results.
      stem: of their names; by default the raster's.
      tiling: sides of the tiles, and at which size the networks see them.
      vector: "gpkg" or "geojson" to write polygons, too.
      made: more that the result depends on, for the journal of own files.
      overwrite: make it again, and replace files that this program did not write.
      on_step: called as the work goes on.
      stop: asked between tiles whether to end.

    Raises:
      RasterError: a raster that cannot be read.
      ForeignFileError: if a file that this program did not write would be replaced, and `overwrite` is False.
      OutputError: if a file cannot be written, or the description of an earlier result is damaged.
      ValueError: for other arguments that do not fit.
      Stopped: if `stop` said so.
    """
    tiling.check()
    if vector is not None and vector not in VECTOR_SUFFIXES:
        raise ValueError(f"vector must be {' or '.join(VECTOR_SUFFIXES)}. Got {vector!r}.")
    raster = raster if isinstance(raster, Raster) else Raster(raster)
    stem = stem or raster.paths[0].stem
    tiles = RasterTiles(segmenter, raster, normalise_classes(classes), tiling)
    made = {**_made(tiles, segmenter, tiling), **(made or {})}
    own, names = OwnFiles(out), raster_names(stem, vector)
    paths = [own.folder / name for name in names]
    if any(path.resolve() in raster.files for path in paths):
        raise ValueError(f"the results would replace {raster}. Choose another folder.")
    total = len(tiles.grid.tiles)

    def result(counts: Counts, before: int) -> RasterResult:
        return RasterResult(paths, *counts, total, before)

    if own.look(names, made).done and not overwrite:
        return result(counts_of(paths[-1]), total)
    own.check(names, overwrite=overwrite)
    store = TileStore(own.folder / f".corrclip-tiles-{stem}", made)
    try:
        before = tiles.run(store, on_step, stop)
    finally:
        store.remove_if_empty()
    with own.writing(names, made, overwrite=overwrite) as partials:
        counts = write_results(tiles, store, partials, made, on_step, stop)
    store.remove()
    return result(counts, before)


def _made(tiles: RasterTiles, segmenter: Segmenter, tiling: Tiling) -> dict[str, Any]:
    """From what and how the result is made."""
    raster = tiles.raster
    return {
        "raster": [file_digest(path) for path in raster.files],
        "classes": value_digest(tiles.classes),
        "settings": value_digest(repr(segmenter.config)),
        "grid": [raster.height, raster.width],
        "bands": list(raster.bands),
        "mask": raster.mask_band,
        "stretch": None if raster.stretch is None else list(raster.stretch),
        "tiling": list(tiling),
    }
