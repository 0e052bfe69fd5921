"""`segment_raster`: tiles that give what the whole gives, files that GIS programs read, a run that is resumed."""

import json

import numpy as np
import pyogrio
import pytest
import rasterio
import scipy
import shapely
from rasterio.features import rasterize
from rasterio.transform import from_origin

from corrclip_jax import Segmenter
from corrclip_jax.datasets.scenes.generate import val_scene
from corrclip_jax.inference.raster_results import raster_names, write_results
from corrclip_jax.inference.raster_tiles import RasterTiles, Stopped, Tiling, scaled_config
from corrclip_jax.inference.rasters import segment_raster
from corrclip_jax.inference.tile_grid import TileGrid, plan_axis
from corrclip_jax.inference.tile_labels import Labelled, RegionVotes
from corrclip_jax.inference.tile_store import Tile, TileStore
from corrclip_jax.io.files import OutputError
from corrclip_jax.io.rasters import Raster, RasterError

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


def test_rasters_of_the_same_tiles_share_a_runner_that_sees_them_at_their_zoom(segmenter, scene):
    one, other = (
        RasterTiles(segmenter, Raster(scene), [[name] for name in CLASSES], Tiling(112, 0.5)) for _ in "ab"
    )
    assert one.config == other.config == scaled_config(segmenter.config, one.grid, 0.5)
    assert one.config.method.resize_short == 80  # of 160 rows, which all tiles have
    runner = segmenter.runner_of(one.config, 24)
    assert segmenter.runner_of(other.config, 24) is runner
    assert segmenter.runner_of(one.config, 12) is not runner  # one is kept
    assert segmenter.runner_of(one.config, 24) is not runner


def test_a_raster_that_cannot_be_read_leaves_no_folder_of_tiles(segmenter, scene, tmp_path):
    whole = scene.read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(RasterError, match=r"cut\.tif"):
        segment_raster(segmenter, tmp_path / "cut.tif", CLASSES, tmp_path / "out", tiling=Tiling(112, 0.5))
    assert not list((tmp_path / "out").glob(".corrclip-tiles*"))


@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_the_probability_of_a_polygon_is_that_of_its_class(scene, tmp_path, threshold):
    segmenter = Segmenter("tiny", regions="slic", background_threshold=threshold)
    tiles = RasterTiles(segmenter, Raster(scene), [[name] for name in CLASSES], Tiling(320))
    assert tiles.grid.tiles == [(0, 0)]
    cell, chance = tiles.grid.cell, np.random.default_rng(0)
    size = len(CLASSES), -(-160 // cell), -(-300 // cell)
    chances = scipy.special.softmax(2 * chance.standard_normal(size), axis=0).astype(np.float16)
    rows, columns = np.mgrid[:160, :300]
    regions = (1 + rows // 40 * 8 + columns // 40).astype(np.uint16)
    photo, valid = tiles.raster.read(0, 0, 160, 300)
    store = TileStore(tmp_path / "tiles", {})
    store.write((0, 0), Tile(chances, regions, valid, photo))
    files = [tmp_path / name for name in raster_names("scene", "geojson")]
    write_results(tiles, store, files, {}, lambda *step: None, lambda: False)
    at = [(np.arange(side) - cell // 2) / cell for side in (160, 300)]
    logits = [
        scipy.ndimage.map_coordinates(one, np.meshgrid(*at, indexing="ij"), order=1, mode="nearest")
        for one in np.log(chances.astype(np.float64))
    ]
    expected = scipy.special.softmax(logits, axis=0)
    best = expected.argmax(axis=0)
    with rasterio.open(tmp_path / "scene.tif") as found:
        labels, transform = found.read(1), found.transform
    assert (labels != best)[valid].mean() > 0.3  # regions have outvoted many pixels
    features = json.loads((tmp_path / "scene.geojson").read_text())["features"]
    assert sum(one["properties"]["pixels"] for one in features) == valid.sum()
    for feature in features:
        inside = rasterize([feature["geometry"]], labels.shape, transform=transform).astype(bool)
        label = feature["properties"]["label"]
        assert (labels[inside] == label).all()
        assert feature["properties"]["probability"] == pytest.approx(expected[label][inside].mean(), abs=2e-3)


def test_a_raster_of_one_pixel_is_labelled(segmenter, tmp_path):
    place = {"crs": "EPSG:32733", "transform": from_origin(4e5, 8e6, 0.5, 0.5)}
    shape = {"count": 3, "height": 1, "width": 1, "dtype": "uint8"}
    with rasterio.open(tmp_path / "small.tif", "w", driver="GTiff", **shape, **place) as file:
        file.write(np.full((3, 1, 1), 90, np.uint8))
    result = segment_raster(segmenter, tmp_path / "small.tif", CLASSES, tmp_path / "out", vector="geojson")
    assert sum(result.pixels.values()) == 1


def test_a_damaged_description_of_an_earlier_result_is_named(segmenter, scene, tmp_path):
    tiling = Tiling(320, 0.5)
    segment_raster(segmenter, scene, CLASSES, tmp_path, tiling=tiling)
    for content in (b'{"classes": [', b"[]", b'{"classes": []}', b"\xff"):
        (tmp_path / "scene.json").write_bytes(content)
        with pytest.raises(
            OutputError, match=r"scene\.json is damaged or changed.*--overwrite makes it again"
        ):
            segment_raster(segmenter, scene, CLASSES, tmp_path, tiling=tiling)
    segment_raster(segmenter, scene, CLASSES, tmp_path, tiling=tiling, overwrite=True)


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
        votes.add(place, Labelled(labels.astype(int), regions[own].astype(int), valid[own]))
    winners = votes.winners()
    assert last == 9
    assert [winners[0, k][1] for k in range(last + 1)] == [-1] * (last + 1)
    assert [winners[0, k][2] for k in range(3)] == [1, 1, 1]
    assert winners[0, last][3] == 0
    assert all(one[0] == -1 for one in winners.values())
