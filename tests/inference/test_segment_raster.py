"""`segment_raster`: tiles that give what the whole gives, files that GIS programs read, a run that is resumed."""

import json

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from rasterio.features import rasterize
from rasterio.transform import from_origin

from corrclip_jax import Segmenter
from corrclip_jax.datasets.scenes.generate import val_scene
from corrclip_jax.inference.rasters import Stopped, Tiling, segment_raster

CLASSES = ["grass", "sky", "water", "sand", "brick", "road", "circle", "square"]


@pytest.fixture(scope="module")
def segmenter():
    return Segmenter("tiny", regions="none")


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    path = tmp_path_factory.mktemp("scene") / "scene.tif"
    image = np.tile(val_scene(0).image[:160, :160], (1, 2, 1))[:, :300]
    image[:20, :30] = 0
    shape = {"count": 3, "height": 160, "width": 300, "dtype": "uint8", "nodata": 0}
    place = {"crs": "EPSG:32733", "transform": from_origin(4e5, 8e6, 0.5, 0.5)}
    with rasterio.open(path, "w", driver="GTiff", **shape, **place) as file:
        file.write(np.moveaxis(image, -1, 0))
    return path


def test_a_raster_in_tiles_is_resumed_and_read_back(segmenter, scene, tmp_path):
    tiling, steps = Tiling(112, 0.5), []
    with pytest.raises(Stopped, match="1 of"):
        segment_raster(segmenter, scene, CLASSES, tmp_path, tiling=tiling, vector="gpkg", stop=lambda: True)
    result = segment_raster(
        segmenter,
        scene,
        CLASSES,
        tmp_path,
        tiling=tiling,
        vector="gpkg",
        on_step=lambda *step: steps.append(step),
    )
    assert result.before == 1
    assert steps[0] == ("Tiles", 1, result.tiles)
    assert not list(tmp_path.glob(".corrclip-tiles*"))
    with rasterio.open(scene) as given, rasterio.open(tmp_path / "scene.tif") as found:
        assert (found.crs, found.transform, found.shape) == (given.crs, given.transform, given.shape)
        assert found.nodata == 255
        assert found.tags(1)["CLASS_1"] == "sky"
        assert found.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        labels = found.read(1)
        empty = given.dataset_mask() == 0
        transform = found.transform
    assert ((labels == 255) == empty).all()
    _, _, shapes, fields = pyogrio.raw.read(tmp_path / "scene.gpkg")
    shapes = shapely.from_wkb(shapes)
    assert shapely.is_valid(shapes).all()
    burnt = rasterize(
        zip(shapes, fields[1].tolist(), strict=True),
        labels.shape,
        fill=255,
        transform=transform,
        dtype="uint8",
    )
    assert (burnt == labels).all()
    assert fields[3].sum() == pytest.approx(0.25 * (labels != 255).sum())
    content = json.loads((tmp_path / "scene.json").read_text())
    assert content["nodata"]["pixels"] == empty.sum()
    again = segment_raster(segmenter, scene, CLASSES, tmp_path, tiling=tiling, vector="gpkg")
    assert (again.pixels, again.nodata) == (result.pixels, result.nodata)
    assert again.before == again.tiles
