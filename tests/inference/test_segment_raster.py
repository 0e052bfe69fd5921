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
from corrclip_jax.inference.raster_tiles import Stopped, Tiling
from corrclip_jax.inference.rasters import segment_raster
from corrclip_jax.inference.tile_grid import TileGrid, plan_axis
from corrclip_jax.inference.tile_labels import Labelled, RegionVotes
from corrclip_jax.inference.tile_store import Tile, TileStore
from corrclip_jax.io.rasters import RasterError

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


def test_a_raster_in_tiles_is_resumed_and_labelled_as_a_whole(segmenter, scene, tmp_path):
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
    segment_raster(segmenter, scene, CLASSES, tmp_path / "whole", tiling=Tiling(320, 0.5))
    with rasterio.open(tmp_path / "whole" / "scene.tif") as found:
        assert (found.read(1) == labels).mean() >= 0.99
    content = json.loads((tmp_path / "scene.json").read_text())
    assert content["nodata"]["pixels"] == empty.sum()
    again = segment_raster(segmenter, scene, CLASSES, tmp_path, tiling=tiling, vector="gpkg")
    assert (again.pixels, again.nodata) == (result.pixels, result.nodata)
    assert again.before == again.tiles


def test_a_raster_that_cannot_be_read_leaves_no_folder_of_tiles(segmenter, scene, tmp_path):
    whole = scene.read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RasterError, match=r"cut\.tif"):
        segment_raster(segmenter, tmp_path / "cut.tif", CLASSES, tmp_path / "out", tiling=Tiling(112, 0.5))
    assert not list((tmp_path / "out").glob(".corrclip-tiles*"))


def test_regions_of_tiles_vote_together_unless_they_reach_far(tmp_path):
    grid = TileGrid(plan_axis(32, 64, 32, 8, 8), plan_axis(424, 64, 32, 8, 8), 8)
    store = TileStore(tmp_path / "tiles", {})
    votes = RegionVotes(store, grid, 2)
    last = len(grid.tiles) - 1
    for place in grid.tiles:
        regions = np.ones(grid.extent(place), np.uint16)  # in the upper half one region of all tiles
        regions[16:] = 2  # below one of three tiles, then two of the others
        if place[1] >= 3:
            regions[16:24], regions[24:] = 3, 4
        valid = np.ones(regions.shape, bool)
        store.write(place, Tile(None, regions, valid, np.zeros((1, 1, 3), np.uint8)))
        own = grid.own(place)
        labels = np.full(regions[own].shape, place[1] in (1, 2))
        votes.add(place, Labelled(labels.astype(int), labels, regions[own].astype(int), valid[own]))
    winners = votes.winners()
    assert last == 9
    assert [winners[0, k][1] for k in range(last + 1)] == [-1] * (last + 1)
    assert [winners[0, k][2] for k in range(3)] == [1, 1, 1]
    assert winners[0, last][3] == 0
    assert all(one[0] == -1 for one in winners.values())
