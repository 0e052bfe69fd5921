"""Rasters: bands, stretch, nodata, resolution, mosaics, damaged files."""

import numpy as np
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.transform import Affine, from_origin

from corrclip_jax.io.raster_files import is_raster
from corrclip_jax.io.raster_mosaic import groups
from corrclip_jax.io.rasters import Raster, RasterError, gdal

UTM_SOUTH = "EPSG:32733"


def write(path, values, transform=None, crs=UTM_SOUTH, **more):
    transform = from_origin(4e5, 5e6, 2, 2) if transform is None else transform
    count, height, width = values.shape
    shape = {"count": count, "height": height, "width": width, "dtype": values.dtype}
    shape["photometric"] = "RGB" if count == 3 else "MINISBLACK"
    shape |= more
    with (
        gdal(),
        rasterio.open(path, "w", driver="GTiff", transform=transform, crs=crs, **shape) as file,
    ):
        file.write(values)
    return path


@pytest.mark.parametrize("count", [1, 3, 4, 13])
def test_any_number_of_bands_gives_rgb(tmp_path, count):
    values = np.random.default_rng(0).integers(0, 256, (count, 40, 60), dtype=np.uint8)
    pixels, valid = Raster(write(tmp_path / "a.tif", values)).read(0, 0, 40, 60)
    assert valid.all()
    expected = values[:3] if count > 1 else values[[0, 0, 0]]
    assert (pixels == np.moveaxis(expected, 0, -1)).all()


@pytest.mark.parametrize(("dtype", "nodata"), [("int16", -9999), ("float32", float("nan"))])
def test_nodata_does_not_change_the_stretch(tmp_path, dtype, nodata):
    values = np.random.default_rng(0).integers(-500, 3000, (3, 50, 60)).astype(dtype)
    full = Raster(write(tmp_path / "full.tif", values)).stretch
    values[:, :, :30] = values[:, :, 30:]
    values[:, :, :30] = nodata
    raster = Raster(write(tmp_path / "a.tif", values, nodata=nodata))
    pixels, valid = raster.read(0, 0, 50, 60)
    assert not valid[:, :30].any()
    assert valid[:, 30:].all()
    assert (pixels[:, :30] == 0).all()
    assert abs(raster.stretch.first - full.first) < 100


def test_windows_of_a_stretched_raster_have_no_seams(tmp_path):
    values = np.arange(3 * 64 * 64, dtype=np.uint16).reshape(3, 64, 64)
    raster = Raster(write(tmp_path / "a.tif", values), stretch=(1.0, 99.0))
    whole, _ = raster.read(0, 0, 64, 64)
    assert (raster.read(20, 30, 44, 34)[0] == whole[20:, 30:]).all()
    beyond, valid = raster.read(50, 50, 30, 30)
    assert not valid[14:].any()
    assert (beyond[:14, :14] == whole[50:, 50:]).all()


def test_resolution_keeps_the_ground(tmp_path):
    turned = Affine.translation(4e5, 8e6) @ Affine.rotation(30) @ Affine.scale(2, -2)
    raster = Raster(write(tmp_path / "a.tif", np.ones((3, 40, 60), np.uint8), turned), resolution=4.0)
    assert (raster.height, raster.width) == (20, 30)
    assert raster.transform @ (30, 20) == pytest.approx(turned @ (60, 40))
    degrees = from_origin(10, 60, 1e-4, 1e-4)
    raster = Raster(
        write(tmp_path / "b.tif", np.ones((1, 100, 100), np.uint8), degrees, "EPSG:4326"), resolution=11.15
    )
    assert raster.height == pytest.approx(100, abs=1)
    assert raster.width == pytest.approx(50, abs=1)


def test_resolution_without_crs_is_refused(tmp_path):
    path = write(tmp_path / "a.tif", np.ones((3, 9, 9), np.uint8), crs=None)
    with pytest.raises(RasterError, match="no coordinate reference system"):
        Raster(path, resolution=1.0)


def test_bands_that_are_not_there_and_a_truncated_file_are_named(tmp_path):
    path = write(tmp_path / "a.tif", np.random.default_rng(0).integers(0, 256, (3, 200, 200), dtype=np.uint8))
    with pytest.raises(RasterError, match=r"a\.tif has 3 bands"):
        Raster(path, bands=(4, 3, 2))
    path.write_bytes(path.read_bytes()[:60_000])
    with pytest.raises(RasterError, match=r"a\.tif"):
        Raster(path).read(0, 0, 200, 200)


def test_neighbours_are_one_raster_and_others_are_not(tmp_path):
    values = np.random.default_rng(0).integers(1, 256, (3, 40, 60), dtype=np.uint8)
    left = write(tmp_path / "left.tif", values[:, :, :30])
    right = write(tmp_path / "right.tif", values[:, 10:, 30:], from_origin(4e5 + 60, 5e6 - 20, 2, 2))
    far = write(tmp_path / "far.tif", values, from_origin(9e5, 5e6, 2, 2))
    with gdal():
        found = groups([left, right, far])
    assert found == [[left, right], [far]]
    raster = Raster(found[0])
    pixels, valid = raster.read(0, 0, raster.height, raster.width)
    assert (valid == (np.mgrid[:40, :60][0] >= 10) | (np.mgrid[:40, :60][1] < 30)).all()
    assert (pixels[valid] == np.moveaxis(values, 0, -1)[valid]).all()


def test_only_georeferenced_images_are_rasters(tmp_path):
    values = np.zeros((3, 9, 9), np.uint8)
    assert is_raster(write(tmp_path / "a.tif", values))
    assert not is_raster(write(tmp_path / "b.tif", values, Affine.identity(), None))


def near_infrared(tmp_path, clear):
    values = np.random.default_rng(0).integers(1, 200, (4, 64, 64), dtype=np.uint8)
    values[3, :32] = 0
    if clear:
        values[3, 32:] = 255
    return write(tmp_path / "a.tif", values, photometric="RGB", alpha="YES"), values


@pytest.mark.parametrize(
    ("clear", "options", "masked"),
    [
        (True, {}, True),
        (True, {"bands": (4, 2, 1)}, False),
        (True, {"alpha": False}, False),
        (False, {}, False),
        (False, {"alpha": True}, True),
    ],
)
def test_alpha_is_a_mask_only_where_it_is_0_or_opaque_or_asked_for(tmp_path, clear, options, masked):
    path, values = near_infrared(tmp_path, clear)
    raster = Raster(path, **options)
    pixels, valid = raster.read(0, 0, 64, 64)
    assert valid[32:].all()
    assert valid[:32].any() != masked
    bands = [band - 1 for band in raster.bands]
    assert (pixels[valid] == np.moveaxis(values, 0, -1)[valid][:, bands]).all()
    assert any("calls band 4 alpha" in note for note in raster.notes) == (not clear and not options)


def test_near_infrared_of_0_does_not_darken_a_resampled_raster(tmp_path):
    path, values = near_infrared(tmp_path, clear=False)
    pixels, valid = Raster(path, resolution=16.0).read(2, 1, 5, 7)
    assert valid.all()
    means = values[:3].reshape(3, 8, 8, 8, 8).mean(axis=(2, 4))
    assert np.abs(pixels - np.moveaxis(means, 0, -1)[2:7, 1:8]).max() <= 1


def test_a_mosaic_of_near_infrared_keeps_all_its_pixels(tmp_path):
    path, values = near_infrared(tmp_path, clear=False)
    other = write(
        tmp_path / "b.tif", values, from_origin(4e5 + 128, 5e6 - 20, 2, 2), photometric="RGB", alpha="YES"
    )
    raster = Raster([path, other])
    pixels, valid = raster.read(0, 0, raster.height, raster.width)
    assert valid[:64, :64].all()
    assert valid[10:, 64:].all()
    assert not valid[:10, 64:].any()
    assert (pixels[:64, :64] == np.moveaxis(values[:3], 0, -1)).all()


@pytest.mark.parametrize("resolution", [61.0, 500.0, float("inf"), 0.0, -1.0, float("nan")])
def test_a_resolution_coarser_than_the_raster_is_refused_with_both_numbers(tmp_path, resolution):
    path = write(tmp_path / "a.tif", np.ones((3, 30, 40), np.uint8))
    with pytest.raises(RasterError, match=rf"a\.tif is 80 m wide and 60 m high.*Got {resolution:g} m"):
        Raster(path, resolution=resolution)
    assert (Raster(path, resolution=60.0).height, Raster(path, resolution=60.0).width) == (1, 1)


@pytest.mark.parametrize("photometric", ["MINISBLACK", "MINISWHITE"])
@pytest.mark.parametrize("bits", [1, 2, 4, 7, 8])
def test_unused_bits_and_white_of_0_are_minded(tmp_path, bits, photometric):
    white = 2**bits - 1
    values = np.random.default_rng(0).integers(0, white + 1, (1, 40, 60), dtype=np.uint8)
    values[0, :, :20] = 0
    expected = np.rint(values[0] * (255 / white))
    if photometric == "MINISWHITE":
        expected = 255 - expected
    first = write(tmp_path / "a.tif", values, photometric=photometric, NBITS=bits)
    second = write(
        tmp_path / "b.tif", values, from_origin(4e5 + 120, 5e6, 2, 2), photometric=photometric, NBITS=bits
    )
    with gdal():
        assert groups([first, second]) == [[first, second]]
    for raster, times in ((Raster(first), 1), (Raster([first, second]), 2)):
        pixels, valid = raster.read(0, 0, 40, 60 * times)
        assert valid.all()
        assert (pixels == np.tile(expected, times)[..., None]).all()


def test_three_bands_of_4_bits_and_white_of_0_in_16_bits(tmp_path):
    values = np.random.default_rng(0).integers(0, 16, (3, 40, 60), dtype=np.uint8)
    raster = Raster(write(tmp_path / "a.tif", values, NBITS=4))
    assert (raster.read(0, 0, 40, 60)[0] == 17 * np.moveaxis(values, 0, -1)).all()
    assert raster.notes == ["holds uint8 from 0 to 15: 0 to 15 become 0 to 255."]
    deep = np.random.default_rng(0).integers(100, 4000, (1, 40, 60), dtype=np.uint16)
    plain = Raster(write(tmp_path / "b.tif", deep)).read(0, 0, 40, 60)[0]
    turned = Raster(write(tmp_path / "c.tif", deep, photometric="MINISWHITE")).read(0, 0, 40, 60)[0]
    assert np.abs(turned.astype(int) - (255 - plain.astype(int))).max() <= 1


def test_dark_rasters_of_8_bits_say_so(tmp_path):
    values = np.random.default_rng(0).integers(1, 20, (3, 40, 60), dtype=np.uint8)
    raster = Raster(write(tmp_path / "a.tif", values))
    assert raster.stretch is None
    assert "is dark" in raster.notes[0]
    assert "--stretch 2,98" in raster.notes[0]
    values[:, :20] = 0  # without data
    values[:, 20:] = 90
    raster = Raster(write(tmp_path / "b.tif", values, nodata=0))
    assert raster.stretch is None
    assert not raster.notes


def test_every_error_of_opening_names_the_file(tmp_path, monkeypatch):
    path = write(tmp_path / "a.tif", np.ones((1, 9, 9), np.uint8))
    monkeypatch.setattr("corrclip_jax.io.rasters.palette_of", lambda opened: opened.colormap(1))
    with pytest.raises(RasterError, match=r"a\.tif cannot be read as a raster: NULL color table"):
        Raster(path)


def test_control_points_that_are_not_kept_are_said(tmp_path):
    points = [GroundControlPoint(row, column, 10 + column, 50 - row) for row in (0, 9) for column in (0, 9)]
    path = write(tmp_path / "a.tif", np.ones((3, 9, 9), np.uint8), Affine.identity(), None)
    assert not Raster(path).notes
    with gdal(), rasterio.open(path, "r+") as file:
        file.gcps = points, rasterio.crs.CRS.from_epsg(4326)
    assert Raster(path).notes == [
        "is placed by control points, which are not kept: warp it first (gdalwarp)."
    ]
