"""Mosaics: pixels with data of later files upon earlier ones, however files say which pixels have data."""

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp
from rasterio.transform import from_origin

from corrclip_jax.io.raster_mosaic import groups
from corrclip_jax.io.rasters import Raster, gdal

HEIGHT, WIDTH = 30, 60
PLACES = {
    "one column": [(0, 0, WIDTH)],
    "two columns": [(0, 0, 30), (0, 30, WIDTH)],
    "two columns that overlap": [(0, 0, 40), (0, 20, WIDTH)],
    "three columns": [(0, 0, 20), (0, 20, 40), (0, 40, WIDTH)],
    "three columns that overlap, the last lower": [(0, 0, 30), (0, 15, 45), (7, 35, WIDTH)],
}
NODATA = {
    "uint8 of 0": ("uint8", 0),
    "uint8 of 255": ("uint8", 255),
    "int16": ("int16", 0),
    "int16 of -9999": ("int16", -9999),
    "float32 of -9999": ("float32", -9999),
    "float32 of NaN": ("float32", float("nan")),
    "undeclared NaN": ("float32", None),
    "mask": ("uint8", None),
    "alpha": ("uint8", None),
    "alpha of five bands": ("uint8", None),
}


def write(path, values, corner=(0, 0), mask=None, colours=None, palette=None, **more):
    place = {"crs": "EPSG:32733", "transform": from_origin(4e5 + 2 * corner[1], 5e6 - 2 * corner[0], 2, 2)}
    count, height, width = values.shape
    shape = {"count": count, "height": height, "width": width, "dtype": values.dtype}
    with gdal(), rasterio.open(path, "w", driver="GTiff", **shape, **place, **more) as file:
        if colours:
            file.colorinterp = colours
        if palette:
            file.write_colormap(1, palette)
        file.write(values)
        if mask is not None:
            file.write_mask(mask)
    return path


def write_part(path, kind, values, valid, corner):
    dtype, nodata = NODATA[kind]
    empty = {None: np.nan if dtype == "float32" else 0}.get(nodata, nodata)
    values = np.where(valid, values, empty).astype(dtype)
    if kind.startswith("alpha"):
        more = np.full((int(kind.endswith("bands")), *valid.shape), 7, np.uint8)
        values = np.concatenate([values, more, np.where(valid, 255, 0)[None].astype(np.uint8)])
        rgb = [ColorInterp.red, ColorInterp.green, ColorInterp.blue]
        return write(
            path, values, corner, colours=[*rgb, *[ColorInterp.undefined] * len(more), ColorInterp.alpha]
        )
    mask = np.where(valid, 255, 0).astype(np.uint8) if kind == "mask" else None
    return write(path, values, corner, mask, nodata=nodata)


@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("kind", NODATA)
def test_valid_pixels_of_later_files_lie_upon_earlier_ones(tmp_path, kind, places):
    chance = np.random.default_rng(0)
    expected, known = np.zeros((3, HEIGHT, WIDTH)), np.zeros((HEIGHT, WIDTH), bool)
    files = []
    for number, (top, left, right) in enumerate(places):
        values = chance.integers(1, 255, (3, HEIGHT - top, right - left)).astype(float)
        valid = np.ones(values.shape[1:], bool)
        valid[:, :8], valid[:3], valid[-4:, -9:] = False, False, False  # collars
        files.append(write_part(tmp_path / f"{number}.tif", kind, values, valid, (top, left)))
        part = np.s_[top:, left:right]
        expected[:, *part] = np.where(valid, values, expected[:, *part])
        known[part] |= valid
    with gdal():
        assert groups(files) == [files]
    raster = Raster(files)
    assert (raster.height, raster.width) == (HEIGHT, WIDTH)
    assert raster.files == files
    pixels, valid = raster._values(0, 0, HEIGHT, WIDTH)
    assert (valid == known).all()
    assert (pixels[known] == np.moveaxis(expected, 0, -1)[known]).all()
    _, valid = Raster(files, resolution=4.0).read(0, 0, HEIGHT // 2, WIDTH // 2)
    quarters = known.reshape(HEIGHT // 2, 2, WIDTH // 2, 2)
    assert valid[quarters.all(axis=(1, 3))].all()
    assert not valid[~quarters.any(axis=(1, 3))].any()


@pytest.mark.parametrize("other", [{"nodata": 255}, {}, {"nodata": 0, "NBITS": 4}])
def test_files_of_other_nodata_values_or_bits_are_no_mosaic(tmp_path, other):
    values = np.full((3, 9, 9), 5, np.uint8)
    first = write(tmp_path / "a.tif", values, nodata=0)
    second = write(tmp_path / "b.tif", values, (0, 9), **other)
    with gdal():
        assert groups([first, second]) == [[first], [second]]


def test_palettes_are_kept_and_compared(tmp_path):
    values = np.random.default_rng(0).integers(0, 4, (1, 9, 9), dtype=np.uint8)
    red, blue = ({k: (60 * k, 9, 9, 255)[::turn] for k in range(4)} for turn in (1, -1))
    files = [
        write(tmp_path / "a.tif", values, palette=red),
        write(tmp_path / "b.tif", values, (0, 9), palette=red),
        write(tmp_path / "c.tif", values, (0, 18), palette=blue),
    ]
    with gdal():
        assert groups(files) == [files[:2], files[2:]]
    pixels, valid = Raster(files[:2]).read(0, 0, 9, 18)
    assert valid.all()
    assert (pixels == np.array([red[k][:3] for k in range(4)])[np.tile(values[0], 2)]).all()
