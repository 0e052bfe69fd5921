"""Raster results: the label raster, polygons, preview and description of a raster whose tiles are done."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from corrclip_jax.inference.descriptions import read_description
from corrclip_jax.inference.raster_tiles import OnStep, Place, RasterTiles, Stopped
from corrclip_jax.inference.segmentation import describe_classes
from corrclip_jax.inference.tile_grid import TileGrid
from corrclip_jax.inference.tile_labels import RegionVotes, class_chances, label_core
from corrclip_jax.inference.tile_store import TileStore
from corrclip_jax.io import raster_output
from corrclip_jax.io.files import json_bytes
from corrclip_jax.io.raster_polygons import write_polygons
from corrclip_jax.runtime.environment import device_name
from corrclip_jax.viz.overlay import overlay


def raster_names(stem: str, vector: str | None) -> list[str]:
    """The names of the files of a raster's result, the description last."""
    names = [f"{stem}.tif", f"{stem}.tif.aux.xml", f"{stem}.qml", f"{stem}.preview.jpg"]
    return [*names, *([] if vector is None else [f"{stem}.{vector}"]), f"{stem}.json"]


class Counts(NamedTuple):
    """Pixels of each class by its first name, and how many have no data."""

    pixels: dict[str, int]
    nodata: int


def write_results(
    tiles: RasterTiles,
    store: TileStore,
    files: list[Path],
    made: Mapping[str, Any],
    on_step: OnStep,
    stop: Callable[[], bool],
) -> Counts:
    """Write all files of a raster's result.

    Args:
      tiles: of the raster.
      store: with all of them.
      files: in the order of `raster_names`.
      made: from what and how the result is made.
      on_step: called as the work goes on.
      stop: asked between tiles whether to end.

    Raises:
      Stopped: if `stop` said so.
    """
    labels, categories, style, preview, *layers, description = files
    names = tiles.names

    def on_part(step: str, done: int, total: int) -> None:
        on_step(step, done, total)
        if stop():
            raise Stopped(f"all {len(tiles.grid.tiles)} tiles of {tiles.raster} are kept")

    def on_tile(step: str, done: int) -> None:
        on_part(step, done, len(tiles.grid.tiles))

    first, final, scores = (store.folder / f"{name}.tif" for name in ("first", "labels", "scores"))
    winners = _label_pixels(tiles, store, first, on_tile)
    counts, shown = _label_regions(tiles, store, first, final, scores if layers else None, winners, on_tile)
    raster_output.to_cog(final, labels)
    categories.write_bytes(raster_output.category_names(names))
    style.write_bytes(raster_output.qgis_style(names))
    shown.save(preview, "JPEG", quality=90)
    polygons = None
    for layer in layers:
        on_rows = partial(on_part, "Polygons", total=tiles.raster.height)
        on_rows(0)
        polygons = write_polygons(final, scores, layer, tiles.raster, names, store.folder, on_rows)
    description.write_bytes(json_bytes(_description(tiles, counts, made, polygons)))
    return counts


def _label_pixels(
    tiles: RasterTiles, store: TileStore, path: Path, on_tile: Callable[[str, int], None]
) -> dict[Place, np.ndarray] | None:
    """Write the labels before the correction by region; returns the regions' labels, if any."""
    config, names = tiles.config, tiles.names
    votes = RegionVotes(store, tiles.grid, len(names)) if config.parts.correction else None
    with _new_labels(path, tiles) as opened:
        for number, place in enumerate(tiles.grid.tiles, start=1):
            found = label_core(store, tiles.grid, place, config.method.background_threshold)
            values = raster_output.with_nodata(found.labels, found.valid, len(names))
            opened.write(values, 1, window=_window(tiles.grid, place))
            if votes is not None:
                votes.add(place, found)
            on_tile("Seams", number)
    return None if votes is None else votes.winners()


def _label_regions(
    tiles: RasterTiles,
    store: TileStore,
    first: Path,
    path: Path,
    scores: Path | None,
    winners: Mapping[Place, np.ndarray] | None,
    on_tile: Callable[[str, int], None],
) -> tuple[Counts, Image.Image]:
    """Write the labels in which regions have theirs, and their scores; returns their counts and the preview."""
    raster, names, step = tiles.raster, tiles.names, tiles.step
    empty = raster_output.nodata_of(len(names))
    counts = np.zeros(len(names), np.int64)
    shape = -(-raster.height // step), -(-raster.width // step)
    photo, small = np.zeros((*shape, 3), np.uint8), np.full(shape, empty)
    with ExitStack() as stack:
        read = stack.enter_context(raster_output.opened(first))
        opened = stack.enter_context(_new_labels(path, tiles))
        scored = None
        if scores is not None:
            scored = stack.enter_context(raster_output.new_raster(scores, raster, "uint16"))
        for number, place in enumerate(tiles.grid.tiles, start=1):
            window, tile = _window(tiles.grid, place), store.read(place)
            values = read.read(1, window=window)
            known = values != empty
            if winners is not None:
                own = winners[place][tile.regions[tiles.grid.own(place)]]
                values = np.where(known & (own >= 0), own, values).astype(values.dtype)
            opened.write(values, 1, window=window)
            if scored is not None:
                chances = class_chances(store, tiles.grid, place, values).clip(0, 1)
                scored.write(np.rint(chances * raster_output.CERTAIN).astype(np.uint16), 1, window=window)
            counts += np.bincount(values[known], minlength=len(names))
            _put(photo, tile.small, tiles.grid.corner(place), step)
            top, left = window.row_off, window.col_off
            _put(small, values[-top % step :: step, -left % step :: step], (top, left), step)
            on_tile("Labels", number)
    nodata = raster.height * raster.width - int(counts.sum())
    found = Counts(dict(zip(names, counts.tolist(), strict=True)), nodata)
    shown = [*names, "no data"] if (small == empty).any() else names
    return found, overlay(photo, np.where(small == empty, len(names), small), shown)


def _put(picture: np.ndarray, part: np.ndarray, corner: tuple[int, int], step: int) -> None:
    """Every `step`th pixel of a tile that begins at `corner` to its place in the preview."""
    y, x = (-(-first // step) for first in corner)
    picture[y : y + part.shape[0], x : x + part.shape[1]] = part


def _new_labels(path: Path, tiles: RasterTiles) -> AbstractContextManager[Any]:
    return raster_output.new_labels(path, tiles.raster, tiles.names)


def _window(grid: TileGrid, place: Place) -> Any:
    from rasterio.windows import Window

    (top, bottom), (left, right) = grid.y.core(place[0]), grid.x.core(place[1])
    return Window(left, top, right - left, bottom - top)


def counts_of(description: Path) -> Counts:
    """The counts of a result that is there.

    Raises:
      OutputError: if its description is damaged.
    """

    def take(content: Any) -> Counts:
        pixels = {one["names"][0]: int(one["pixels"]) for one in content["classes"]}
        return Counts(pixels, int(content["nodata"]["pixels"]))

    return read_description(description, take)


def _description(
    tiles: RasterTiles, counts: Counts, made: Mapping[str, Any], polygons: int | None
) -> dict[str, Any]:
    raster = tiles.raster
    classes = [
        {**one, "area": one["pixels"] * raster.pixel_area}
        for one in describe_classes(tiles.classes, np.array(list(counts.pixels.values())))
    ]
    return {
        "raster": [str(path) for path in raster.paths],
        "width": raster.width,
        "height": raster.height,
        "crs": None if raster.crs is None else raster.crs.to_string(),
        "transform": list(raster.transform)[:6],
        "unit": raster.unit,
        "nodata": {"value": raster_output.nodata_of(len(tiles.names)), "pixels": counts.nodata},
        "classes": classes,
        "tiles": len(tiles.grid.tiles),
        "polygons": polygons,
        "notes": raster.notes,
        "made": dict(made),
        "device": device_name(),
    }
