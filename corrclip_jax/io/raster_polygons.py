"""Polygons of a label raster: each connected piece of a class with its probability and area, as a GIS layer."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from jaxtyping import Int

from corrclip_jax.io.raster_output import CERTAIN, new_raster
from corrclip_jax.io.rasters import Raster, RasterError, gdal
from corrclip_jax.ops.equivalence import equivalence_classes

VECTOR_SUFFIXES = ("gpkg", "geojson")
_ROWS = 256
_STRIP = 1024  # rows that are traced at once
_AT_ONCE = 5000  # polygons


def write_polygons(
    labels: Path,
    scores: Path,
    path: Path,
    raster: Raster,
    names: Sequence[str],
    folder: Path,
    on_rows: Callable[[int], object] = lambda rows: None,
) -> int:
    """Write the polygons of the pieces, which touch along pixels' sides; together they are the labelled pixels.

    Fields are class, label, probability (0..1, the mean over its pixels), area in the square of the CRS's unit, and
    pixels.

    Args:
      labels: a raster of labels with a nodata value.
      scores: their probabilities x `CERTAIN`.
      path: the layer to write, .gpkg or .geojson.
      raster: its grid.
      names: of the classes.
      folder: for the map of pieces.
      on_rows: called with the number of rows that are traced; what it raises ends the work.

    Returns:
      How many there are.
    """
    pieces = folder / "pieces.tif"
    table = _number_pieces(labels, scores, pieces, raster)
    features = _features(pieces, table, raster, names, on_rows)
    write = _geojson if path.suffix == ".geojson" else _gpkg
    with gdal():
        return write(path, features, raster)


class _Pieces:
    """The pieces that are known: labels, pixels, sums of scores, last rows, and which pairs are one; 0 is none."""

    def __init__(self) -> None:
        self.pairs: list[np.ndarray] = [np.zeros((0, 2), np.int32)]
        self.count = 1
        self._strips = [(np.zeros(1, np.int64),) * 3 + (np.zeros(1),)]

    def add(self, labels: np.ndarray, pixels: np.ndarray, last_rows: np.ndarray, sums: np.ndarray) -> None:
        self._strips.append((labels, pixels, last_rows, sums))
        self.count += len(labels)

    def finish(self) -> Int[np.ndarray, " n"]:
        """Sum up what is one; returns every piece's new number."""
        labels, pixels, last_rows, sums = (np.concatenate(each) for each in zip(*self._strips, strict=True))
        numbers = equivalence_classes(self.count, np.concatenate(self.pairs))
        _, first = np.unique(numbers, return_index=True)
        self.labels = labels[first]
        self.pixels = np.bincount(numbers, pixels).astype(np.int64)
        self.sums = np.bincount(numbers, sums)
        self.last_rows = np.zeros(len(first), np.int64)
        np.maximum.at(self.last_rows, numbers, last_rows)
        return numbers


def _number_pieces(labels: Path, scores: Path, path: Path, raster: Raster) -> _Pieces:
    """Write a raster of piece numbers from 1 on, 0 without data; in strips, joined along their border."""
    import rasterio
    from rasterio.windows import Window

    table, above = _Pieces(), None
    strips = path.with_name("strips.tif")
    windows = [
        Window(0, top, raster.width, min(_ROWS, raster.height - top))
        for top in range(0, raster.height, _ROWS)
    ]
    with gdal(), rasterio.open(labels) as opened, rasterio.open(scores) as scored:
        with new_raster(strips, raster, "int32") as written:
            for window in windows:
                values = opened.read(1, window=window)
                numbers = _connected(values, opened.nodata, table.count)
                _count(table, numbers, values, scored.read(1, window=window), window.row_off)
                if above is not None:
                    same = (above[0] == values[0]) & (numbers[0] > 0)
                    touching = np.unique(np.stack([above[1], numbers[0]])[:, same], axis=1)
                    table.pairs.append(touching.T.astype(np.int32))
                above = values[-1], numbers[-1]
                written.write(numbers, 1, window=window)
        roots = table.finish()
        with rasterio.open(strips) as read, new_raster(path, raster, "int32", 0) as written:
            for window in windows:
                written.write(roots[read.read(1, window=window)].astype(np.int32), 1, window=window)
    strips.unlink()
    return table


def _connected(values: np.ndarray, nodata: float, first: int) -> Int[np.ndarray, "h w"]:
    """Numbers of the connected pieces of equal values from `first` on; 0 for nodata."""
    numbers = np.zeros(values.shape, np.int32)
    for value in np.unique(values[values != nodata]):
        found, count = scipy.ndimage.label(values == value)
        numbers += np.where(found > 0, found + first - 1, 0).astype(np.int32)
        first += count
    return numbers


def _count(table: _Pieces, numbers: np.ndarray, values: np.ndarray, scores: np.ndarray, top: int) -> None:
    first, last = table.count, int(numbers.max(initial=0)) + 1
    if last <= first:
        return
    known = numbers > 0
    place = numbers[known] - first
    labels, rows = np.zeros((2, last - first), np.int64)
    labels[place] = values[known]
    rows[place] = top + np.nonzero(known)[0]  # in order: a piece keeps its last row
    table.add(labels, np.bincount(place), rows, np.bincount(place, scores[known]))


def _features(
    path: Path, table: _Pieces, raster: Raster, names: Sequence[str], on_rows: Callable[[int], object]
) -> Iterator[tuple[Any, dict]]:
    """The polygon and the fields of each piece, as soon as it ends.

    Strips are traced one after another, in pixels, where borders are whole numbers: so the parts of a piece on both
    sides of a strip's border join without a gap.
    """
    import rasterio
    import shapely.affinity
    from rasterio.features import shapes
    from rasterio.windows import Window

    turn = raster.transform
    growing: dict[int, list[Any]] = {}
    with gdal(), rasterio.open(path) as opened:
        for top in range(0, raster.height, _STRIP):
            rows = min(_STRIP, raster.height - top)
            numbers = opened.read(1, window=Window(0, top, raster.width, rows))
            for geometry, value in shapes(numbers, mask=numbers > 0, connectivity=4):
                part = shapely.affinity.translate(shapely.geometry.shape(geometry), yoff=top)
                growing.setdefault(int(value), []).append(part)
            for piece in [piece for piece in growing if table.last_rows[piece] < top + rows]:
                parts = growing.pop(piece)
                shape = shapely.union_all(parts) if len(parts) > 1 else parts[0]
                shape = shapely.transform(shape, lambda xy: np.stack(turn @ (xy[:, 0], xy[:, 1]), axis=1))
                shape = shape if shape.is_valid else shapely.make_valid(shape)
                yield shape, _fields(table, piece, raster, names)
            on_rows(top + rows)


def _fields(table: _Pieces, piece: int, raster: Raster, names: Sequence[str]) -> dict[str, Any]:
    label, pixels = int(table.labels[piece]), int(table.pixels[piece])
    return {
        "class": names[label],
        "label": label,
        "probability": round(table.sums[piece] / pixels / CERTAIN, 4),
        "area": pixels * raster.pixel_area,
        "pixels": pixels,
    }


def _gpkg(path: Path, features: Iterator[tuple[Any, dict]], raster: Raster) -> int:
    import pyogrio
    import shapely

    fields, total = ("class", "label", "probability", "area", "pixels"), 0
    types = (object, np.int32, np.float64, np.float64, np.int64)
    crs = None if raster.crs is None else raster.crs.to_wkt()
    while True:
        chunk = [one for one, _ in zip(features, range(_AT_ONCE), strict=False)]
        if not chunk and total:
            return total
        pyogrio.raw.write(
            path,
            geometry=shapely.to_wkb(
                np.array([shapely.MultiPolygon(_parts(shape)) for shape, _ in chunk], object)
            ),
            field_data=[
                np.array([row[name] for _, row in chunk], kind)
                for name, kind in zip(fields, types, strict=True)
            ],
            fields=np.array(fields, object),
            driver="GPKG",
            layer="labels",
            geometry_type="MultiPolygon",
            crs=crs,
            append=total > 0,
        )
        total += len(chunk)
        if len(chunk) < _AT_ONCE:
            return total


def _parts(shape: Any) -> list[Any]:
    return [part for part in getattr(shape, "geoms", [shape]) if part.geom_type == "Polygon"]


def _geojson(path: Path, features: Iterator[tuple[Any, dict]], raster: Raster) -> int:
    import shapely

    head: dict[str, Any] = {"type": "FeatureCollection", "name": "labels"}
    if raster.crs is not None:
        authority = raster.crs.to_authority()
        if authority is None:
            raise RasterError(
                f"{raster} has a coordinate reference system without a code, which GeoJSON cannot name. Use "
                "--vector gpkg."
            )
        name = f"urn:ogc:def:crs:{authority[0]}::{authority[1]}"
        head["crs"] = {"type": "name", "properties": {"name": name}}
    total = 0
    with path.open("w", encoding="utf-8") as file:
        file.write(f'{json.dumps(head)[:-1]}, "features": [')
        for shape, properties in features:
            feature = {
                "type": "Feature",
                "properties": properties,
                "geometry": shapely.geometry.mapping(shape),
            }
            file.write(f"{',' if total else ''}\n{json.dumps(feature, ensure_ascii=False, allow_nan=False)}")
            total += 1
        file.write("\n]}\n")
    return total
