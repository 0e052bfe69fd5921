"""Polygons of label rasters: exactly the labelled pixels, also of pieces that reach over several strips."""

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from rasterio.features import rasterize
from rasterio.transform import Affine

from corrclip_jax.io import raster_polygons
from corrclip_jax.io.raster_output import CERTAIN
from corrclip_jax.io.raster_polygons import write_polygons
from corrclip_jax.io.rasters import Raster, RasterError, gdal

TURNED = Affine.translation(4e5 + 0.3, 5e6 + 0.7) @ Affine.rotation(20) @ Affine.scale(0.3, -0.3)


def write(path, values, **more):
    shape = {"count": 1, "height": values.shape[1], "width": values.shape[2], "dtype": values.dtype}
    grid = {"transform": TURNED, "crs": "EPSG:32733"}
    with gdal(), rasterio.open(path, "w", driver="GTiff", **shape, **grid, **more) as file:
        file.write(values)
    return path


@pytest.fixture
def scene(tmp_path, monkeypatch):
    """Noise, a ring and a corner that touches another by a point, over several strips."""
    monkeypatch.setattr(raster_polygons, "_STRIP", 7)
    monkeypatch.setattr(raster_polygons, "_ROWS", 5)
    draw = np.random.default_rng(0)
    values = draw.integers(0, 3, (1, 40, 30)).astype(np.uint8)
    values[0, 3:33, 4:28] = 1
    values[0, 8:25, 9:20] = 2
    values[0, 25:30, 20:24] = 2
    values[0, 35:, :10] = 255
    scores = (draw.random((1, 40, 30)) * CERTAIN).astype(np.uint16)
    labels = write(tmp_path / "labels.tif", values, nodata=255)
    return values[0], scores[0] / CERTAIN, labels, write(tmp_path / "scores.tif", scores)


def test_polygons_are_the_labelled_pixels_and_each_piece_is_one(scene, tmp_path):
    values, scores, labels, scored = scene
    seen = []
    total = write_polygons(
        labels, scored, tmp_path / "a.gpkg", Raster(labels), ["a", "b", "c"], tmp_path, seen.append
    )
    meta, _, geometry, fields = pyogrio.raw.read(tmp_path / "a.gpkg")
    rows = [dict(zip(meta["fields"], row, strict=True)) for row in zip(*fields, strict=True)]
    shapes = shapely.from_wkb(geometry)
    assert len(shapes) == total
    assert seen == [7, 14, 21, 28, 35, 40]
    assert shapely.is_valid(shapes).all()
    # The pieces of a label raster are what GDAL finds in the whole at once.
    with gdal(), rasterio.open(labels) as opened:
        whole = [
            value for _, value in rasterio.features.shapes(opened.read(1), connectivity=4) if value != 255
        ]
    assert total == len(whole)
    burnt = rasterize(
        [(shape, row["label"]) for shape, row in zip(shapes, rows, strict=True)],
        values.shape,
        fill=255,
        transform=TURNED,
        dtype=np.uint8,
    )
    np.testing.assert_array_equal(burnt, values)
    for shape, row in zip(shapes, rows, strict=True):
        inside = rasterize([shape], values.shape, transform=TURNED, dtype=np.uint8) == 1
        assert row["pixels"] == inside.sum()
        assert row["area"] == pytest.approx(shape.area, rel=1e-6) == pytest.approx(0.09 * inside.sum())
        assert row["probability"] == pytest.approx(scores[inside].mean(), abs=1e-3)


def test_what_is_raised_between_strips_ends_the_work(scene, tmp_path):
    def stop(rows):
        raise RasterError("enough")

    with pytest.raises(RasterError, match="enough"):
        write_polygons(
            scene[2], scene[3], tmp_path / "a.geojson", Raster(scene[2]), ["a", "b", "c"], tmp_path, stop
        )
