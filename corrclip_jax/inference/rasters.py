"""Rasters of any size, segmented tile by tile in bounded memory: a label raster, polygons and a preview."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from PIL import Image

from corrclip_jax.inference.label_runner import Outcome, Request
from corrclip_jax.inference.segmenter import Classes, Segmenter
from corrclip_jax.inference.tile_grid import CELL_MULTIPLE, TileGrid, plan_axis
from corrclip_jax.inference.tile_labels import label_core, region_labels
from corrclip_jax.inference.tile_store import Tile, TileStore
from corrclip_jax.io import raster_output
from corrclip_jax.io.files import json_bytes
from corrclip_jax.io.marks import file_digest
from corrclip_jax.io.own_files import OwnFiles, value_digest
from corrclip_jax.io.raster_polygons import VECTOR_SUFFIXES, write_polygons
from corrclip_jax.io.rasters import Raster, RasterError
from corrclip_jax.text.classes import normalise_classes
from corrclip_jax.viz.overlay import overlay
from corrclip_jax.viz.palette import class_colours

_POINTS_PER_PATCH = 4
_TILE_BYTES = 512 << 20  # of a tile's probabilities as float32
_PREVIEW = 1024

OnStep = Callable[[str, int, int], object]
"""Called with what is being done ("Tiles", "Seams", "Labels", "Polygons"), how much is done, and the total."""


class Tiling(NamedTuple):
    """How a raster is cut.

    Attributes:
      tile: side of a tile in pixels, about.
      zoom: size at which the networks see the raster, as a factor; about, since windows begin at whole pixels.
    """

    tile: int = 1024
    zoom: float = 1.0

    def check(self) -> None:
        """Refuse what does not fit.

        Raises:
          ValueError: with what is expected.
        """
        if self.tile < 64 or not 0.05 <= self.zoom <= 4:
            raise ValueError(
                f"tiles must have a side of at least 64 pixels and a zoom of 0.05 to 4. Got a side of {self.tile} "
                f"and a zoom of {self.zoom:g}."
            )


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


class Stopped(Exception):
    """The run was asked to end; the tiles that are done are kept."""


def raster_names(stem: str, vector: str | None) -> list[str]:
    """The names of the files of a raster's result, the description last."""
    names = [f"{stem}.tif", f"{stem}.tif.aux.xml", f"{stem}.qml", f"{stem}.preview.jpg"]
    return [*names, *([] if vector is None else [f"{stem}.{vector}"]), f"{stem}.json"]


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
      OutputError: if a file cannot be written.
      ValueError: for other arguments that do not fit.
      Stopped: if `stop` said so.
    """
    tiling.check()
    if vector is not None and vector not in VECTOR_SUFFIXES:
        raise ValueError(f"vector must be {' or '.join(VECTOR_SUFFIXES)}. Got {vector!r}.")
    raster = raster if isinstance(raster, Raster) else Raster(raster)
    work = _Work(segmenter, raster, normalise_classes(classes), tiling, Path(out), stem, vector)
    made = {**work.made(), **(made or {})}
    own, names = OwnFiles(out), raster_names(work.stem, vector)
    if any((own.folder / name).resolve() in raster.files for name in names):
        raise ValueError(f"the results would replace {raster}. Choose another folder.")
    standing = own.look(names, made)
    paths = [own.folder / name for name in names]
    if standing.done and not overwrite:
        total = len(work.grid.tiles)
        return RasterResult(paths, *_described(paths[-1]), total, total)
    own.check(names, overwrite=overwrite)
    store = TileStore(own.folder / f".corrclip-tiles-{work.stem}", made)
    before = work.run_tiles(store, on_step, stop)
    with own.writing(names, made, overwrite=overwrite) as partials:
        pixels, nodata = work.write(store, dict(zip(names, partials, strict=True)), made, on_step, stop)
    store.remove()
    return RasterResult(paths, pixels, nodata, len(work.grid.tiles), before)


class _Work:
    """One raster with its tiles."""

    def __init__(
        self,
        segmenter: Segmenter,
        raster: Raster,
        classes: Sequence[Sequence[str]],
        tiling: Tiling,
        out: Path,
        stem: str | None,
        vector: str | None,
    ):
        self.raster, self.tiling, self.vector = raster, tiling, vector
        self.classes = [list(names) for names in classes]
        self.names = [names[0] for names in self.classes]
        self.stem = stem or raster.paths[0].stem
        patch = segmenter.config.clip.vision.patch_size
        cell = _cell(patch, tiling, len(self.names))
        method = segmenter.config.method
        stride = max(1, round(method.stride / tiling.zoom / CELL_MULTIPLE)) * CELL_MULTIPLE
        window = round(method.window * stride / method.stride)
        y, x = (plan_axis(side, tiling.tile, window, stride, cell) for side in (raster.height, raster.width))
        self.grid = TileGrid(y, x, cell)
        self.segmenter = segmenter.at_scale(
            (y.side, x.side), method.stride / stride, max(y.side, x.side) // cell
        )
        self.step = max(1, -(-max(raster.height, raster.width) // _PREVIEW))

    def made(self) -> dict[str, Any]:
        """From what and how the result is made."""
        raster, config = self.raster, self.segmenter.config
        return {
            "raster": [file_digest(path) for path in raster.files],
            "classes": value_digest(self.classes),
            "settings": value_digest(repr(config)),
            "grid": [raster.height, raster.width],
            "bands": list(raster.bands),
            "mask": raster.mask_band,
            "stretch": None if raster.stretch is None else list(raster.stretch),
            "tiling": list(self.tiling),
        }

    def run_tiles(self, store: TileStore, on_step: OnStep, stop: Callable[[], bool]) -> int:
        """Run the tiles that are not done; returns how many were."""
        places = self.grid.tiles
        left = [place for place in places if not store.has(place)]
        before = done = len(places) - len(left)
        on_step("Tiles", done, len(places))
        sides = self.grid.y.side, self.grid.x.side
        pixels: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        text = self.segmenter.embed(self.classes)

        def read(index: int) -> Request | Exception:
            try:
                rgb, valid = self.raster.read(*self._corner(left[index]), *sides)
            except RasterError as error:
                return error
            small = self._small(rgb, left[index])
            if not valid.any():
                regions = np.zeros(sides, np.uint16)
                store.write(left[index], Tile(None, regions, valid, small))
                return _Empty()
            pixels[index] = valid, small
            return Request(rgb, None)

        for index, _, found in self.segmenter.label([sides] * len(left), read, text):
            if isinstance(found, Outcome):
                store.write(left[index], self._tile(found, *pixels.pop(index)))
            elif not isinstance(found, _Empty):
                raise found
            done += 1
            on_step("Tiles", done, len(places))
            if stop():
                raise Stopped(f"{done} of {len(places)} tiles of {self.raster} are kept")
        return before

    def _tile(self, found: Outcome, valid: np.ndarray, small: np.ndarray) -> Tile:
        most = int(found.regions.max(initial=0))
        regions = found.regions.astype(np.uint16 if most < 65536 else np.int32)
        return Tile(found.probabilities[: len(self.names)], regions, valid, small)

    def _corner(self, place: tuple[int, int]) -> tuple[int, int]:
        return self.grid.y.starts[place[0]], self.grid.x.starts[place[1]]

    def _small(self, rgb: np.ndarray, place: tuple[int, int]) -> np.ndarray:
        """The pixels of a tile in rows and columns that the preview shows."""
        top, left = self._corner(place)
        return rgb[-top % self.step :: self.step, -left % self.step :: self.step]

    def write(
        self,
        store: TileStore,
        files: Mapping[str, Path],
        made: Mapping[str, Any],
        on_step: OnStep,
        stop: Callable[[], bool],
    ) -> tuple[dict[str, int], int]:
        """All files of the result; returns the pixels of each class, and those without data."""
        raster, names, stem = self.raster, self.names, self.stem
        config, places = self.segmenter.config, self.grid.tiles
        threshold = config.method.background_threshold
        seen = 0

        def next_tile(step: str) -> None:
            nonlocal seen
            seen += 1
            on_step(step, seen, len(places))
            if stop():
                raise Stopped(f"all {len(places)} tiles of {raster} are kept")

        voted = None
        if config.parts.correction:
            voted = region_labels(store, self.grid, len(names), threshold, lambda: next_tile("Seams"))
        labels_file, scores_file = store.folder / "labels.tif", store.folder / "scores.tif"
        empty = raster_output.nodata_of(len(names))
        counts = np.zeros(len(names), np.int64)
        shape = -(-raster.height // self.step), -(-raster.width // self.step)
        photo, small = np.zeros((*shape, 3), np.uint8), np.full(shape, empty)
        seen = 0
        dtype = "uint8" if empty == 255 else "uint16"
        with (
            raster_output.new_raster(labels_file, raster, dtype, empty) as opened,
            raster_output.new_raster(scores_file, raster, "uint16") as scored,
        ):
            raster_output.describe_labels(opened, names)
            for place in places:
                labels, scores, regions, valid = label_core(store, self.grid, place, threshold)
                if voted is not None:
                    own = voted[place][regions]
                    labels = np.where(own >= 0, own, labels)
                counts += np.bincount(labels[valid], minlength=len(names))
                window, top, left = self._window(place)
                values = raster_output.with_nodata(labels, valid, len(names))
                opened.write(values, 1, window=window)
                if self.vector is not None:
                    scored.write(np.rint(scores.clip(0, 1) * 65535).astype(np.uint16), 1, window=window)
                part = values[-top % self.step :: self.step, -left % self.step :: self.step]
                y, x = -(-top // self.step), -(-left // self.step)
                small[y : y + part.shape[0], x : x + part.shape[1]] = part
                tile = store.read(place).small
                y, x = (-(-start // self.step) for start in self._corner(place))
                tile = tile[: shape[0] - y, : shape[1] - x]
                photo[y : y + tile.shape[0], x : x + tile.shape[1]] = tile
                next_tile("Labels")
        raster_output.to_cog(labels_file, files[f"{stem}.tif"])
        files[f"{stem}.tif.aux.xml"].write_bytes(raster_output.category_names(names))
        files[f"{stem}.qml"].write_bytes(raster_output.qgis_style(names))
        _preview(photo, small, names, empty).save(files[f"{stem}.preview.jpg"], quality=90)
        polygons = None
        if self.vector is not None:
            on_step("Polygons", 0, 1)
            polygons = write_polygons(
                labels_file, scores_file, files[f"{stem}.{self.vector}"], raster, names, store.folder
            )
        pixels = dict(zip(names, counts.tolist(), strict=True))
        nodata = raster.height * raster.width - int(counts.sum())
        files[f"{stem}.json"].write_bytes(json_bytes(self._summary(pixels, nodata, made, polygons)))
        return pixels, nodata

    def _window(self, place: tuple[int, int]) -> tuple[Any, int, int]:
        from rasterio.windows import Window

        (top, bottom), (left, right) = self.grid.y.core(place[0]), self.grid.x.core(place[1])
        return Window(left, top, right - left, bottom - top), top, left

    def _summary(
        self, pixels: Mapping[str, int], nodata: int, made: Mapping[str, Any], polygons: int | None
    ) -> dict[str, Any]:
        raster = self.raster
        colours, known = class_colours(self.names).tolist(), max(1, sum(pixels.values()))
        return {
            "raster": [str(path) for path in raster.paths],
            "width": raster.width,
            "height": raster.height,
            "crs": None if raster.crs is None else raster.crs.to_string(),
            "transform": list(raster.transform)[:6],
            "unit": raster.unit,
            "nodata": {"value": raster_output.nodata_of(len(self.names)), "pixels": nodata},
            "classes": [
                {
                    "label": k,
                    "names": names,
                    "colour": colours[k],
                    "pixels": pixels[names[0]],
                    "share": pixels[names[0]] / known,
                    "area": pixels[names[0]] * raster.pixel_area,
                }
                for k, names in enumerate(self.classes)
            ],
            "tiles": len(self.grid.tiles),
            "polygons": polygons,
            "notes": raster.notes,
            "made": dict(made),
            "device": f"{jax.devices()[0].platform}: {jax.devices()[0].device_kind}",
        }


class _Empty(Exception):
    """A tile without data, which no network needs to see."""


def _described(path: Path) -> tuple[dict[str, int], int]:
    """The pixels of each class, and those without data, from the description of a result."""
    content = json.loads(path.read_bytes())
    return {one["names"][0]: one["pixels"] for one in content["classes"]}, content["nodata"]["pixels"]


def _cell(patch: int, tiling: Tiling, classes: int) -> int:
    """Pixels between the points at which probabilities are kept: a quarter of a patch, more for many classes."""
    cell = CELL_MULTIPLE
    while cell > 1 and cell > patch / tiling.zoom / _POINTS_PER_PATCH:
        cell //= 2
    while cell < CELL_MULTIPLE and classes * (tiling.tile // cell) ** 2 * 4 > _TILE_BYTES:
        cell *= 2
    return cell


def _preview(photo: np.ndarray, labels: np.ndarray, names: Sequence[str], empty: int) -> Image.Image:
    shown = [*names, "no data"] if (labels == empty).any() else list(names)
    return overlay(photo, np.where(labels == empty, len(names), labels), shown)
