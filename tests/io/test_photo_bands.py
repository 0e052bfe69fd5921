"""Reading photos of more or other bands than RGB of 8 bits: what is chosen, what is stretched, what is said."""

import re
import warnings

import numpy as np
import pytest
import tifffile
from drawn_photos import gradient, png_16_bit
from PIL import Image

from corrclip_jax.io.photos import BandsOf, PhotoError, PhotoWarning, photo_size, read_photo


def tiff(path, values, **options):
    tifffile.imwrite(path, values, **options)
    return path


def read_with_notes(path, **options):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        pixels = read_photo(path, **options)
    assert all(one.category is PhotoWarning for one in found)
    return pixels, [one.message.note for one in found]


@pytest.mark.parametrize("bits", [9, 11, 12, 14])
@pytest.mark.parametrize("planes", ["rgb", "separate", "grey"])
def test_16_bits_that_are_not_used_are_stretched_with_a_note(tmp_path, bits, planes):
    values = np.linspace(0, 2**bits - 1, 6 * 9 * 3).astype(np.uint16).reshape(6, 9, 3)
    if planes == "grey":
        path, wanted = tiff(tmp_path / "a.tif", values[..., 0]), values[..., :1].repeat(3, 2)
        wanted = wanted >> (int(values[..., 0].max()).bit_length() - 8)
    elif planes == "separate":
        options = {"photometric": "rgb", "planarconfig": "separate"}
        path, wanted = (
            tiff(tmp_path / "a.tif", np.moveaxis(values, -1, 0).copy(), **options),
            values >> (bits - 8),
        )
    else:
        path, wanted = tiff(tmp_path / "a.tif", values, photometric="rgb"), values >> (bits - 8)
    pixels, notes = read_with_notes(path)
    assert np.array_equal(pixels, wanted)
    assert notes == [f"uses {bits} of its 16 bits: these are stretched to 8."]
    assert photo_size(path) == (6, 9)


def test_16_bits_that_are_used_keep_their_upper_bytes_without_a_note(tmp_path):
    values = np.linspace(0, 65535, 6 * 9 * 3).astype(np.uint16).reshape(6, 9, 3)
    for options in ({"photometric": "rgb"}, {"photometric": "rgb", "compression": "zlib", "predictor": True}):
        pixels, notes = read_with_notes(tiff(tmp_path / "a.tif", values, **options))
        assert np.array_equal(pixels, values >> 8)
        assert not notes


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("count", [2, 4, 5, 13])
def test_of_many_bands_the_first_three_are_read_and_others_can_be_chosen(tmp_path, dtype, count):
    top = np.iinfo(dtype).max
    values = np.linspace(0, top, 6 * 9 * count).astype(dtype).reshape(6, 9, count)
    path = tiff(tmp_path / "a.tif", values, photometric="minisblack", planarconfig="contig")
    eight = (values >> (8 * (values.dtype.itemsize - 1))).astype(np.uint8)
    pixels, notes = read_with_notes(path)
    first = eight[..., :3] if count > 2 else eight[..., :1].repeat(3, 2)
    assert np.array_equal(pixels, first)
    assert notes == [
        f"has {count} bands: the first {'three are' if count > 2 else 'is'} read. --bands chooses others."
    ]
    pixels, notes = read_with_notes(BandsOf(path, (count, 2, 1)))
    assert np.array_equal(pixels, eight[..., [count - 1, 1, 0]])
    assert not notes
    assert np.array_equal(read_photo(path, bands=[count])[..., 0], eight[..., -1])
    for bands in ((count + 1, 1, 1), (1, 2), (0,)):
        with pytest.raises(PhotoError, match=rf"a\.tif has {count} bands\. Choose three.*Got {bands[0]}"):
            read_photo(path, bands=bands)


@pytest.mark.parametrize("suffix", ["png", "tif", "gif"])
def test_bands_of_an_ordinary_photo_are_red_green_and_blue(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 3
    image = Image.fromarray(gradient()[::-1, ::-1].copy())
    image = image.quantize(64) if suffix == "gif" else image
    image.save(tmp_path / f"a.{suffix}", exif=exif)
    upright = read_photo(tmp_path / f"a.{suffix}")
    swapped = read_photo(tmp_path / f"a.{suffix}", bands=(3, 2, 1))
    assert np.array_equal(swapped, upright[..., ::-1])
    assert np.array_equal(read_photo(tmp_path / f"a.{suffix}", bands=[2]), upright[..., [1, 1, 1]])
    with pytest.raises(PhotoError, match="has 3 bands"):
        read_photo(tmp_path / f"a.{suffix}", bands=[4])


def test_grey_of_16_bits_in_a_compression_that_only_pillow_reads_here(tmp_path):
    values = np.linspace(0, 4095, 6 * 9).astype(np.uint16).reshape(6, 9)
    Image.fromarray(values).save(tmp_path / "a.tif", compression="tiff_lzw")
    pixels, notes = read_with_notes(tmp_path / "a.tif")
    assert np.array_equal(pixels[..., 0], values >> 4)
    assert notes == ["uses 12 of its 16 bits: these are stretched to 8."]


def test_four_bands_in_a_compression_that_only_pillow_reads_here(tmp_path, monkeypatch):
    def lacks(self, *rest, **options):
        raise ValueError("requires the 'imagecodecs' package")

    monkeypatch.setattr(tifffile.TiffPage, "asarray", lacks)
    values = gradient()
    four = np.concatenate([values, values[..., :1]], axis=2)
    Image.frombytes("RGBX", values.shape[1::-1], four.tobytes()).save(
        tmp_path / "a.tif", compression="tiff_lzw"
    )
    pixels, notes = read_with_notes(tmp_path / "a.tif")
    assert np.array_equal(pixels, values)
    assert notes == ["has 4 bands: the first three are read. --bands chooses others."]
    with pytest.raises(
        PhotoError, match=r"\(uint8, compression lzw\), which needs a decoder .*corrclip-jax\[tiff\]"
    ):
        read_photo(tmp_path / "a.tif", bands=(4, 1, 2))


def test_opened_files_are_read_as_their_paths_are(tmp_path):
    values = np.linspace(0, 2047, 6 * 9 * 5).astype(np.uint16).reshape(6, 9, 5)
    path = tiff(tmp_path / "a.tif", values, photometric="minisblack", planarconfig="contig")
    pixels, notes = read_with_notes(path)
    with path.open("rb") as file:
        file.read(7)
        for opened in (file, path.read_bytes()):
            again, again_notes = read_with_notes(opened)
            assert np.array_equal(again, pixels)
            assert again_notes == notes
    with path.open(encoding="latin-1") as file, pytest.raises(PhotoError, match="as a binary file"):
        read_photo(file)


def test_alpha_is_no_band(tmp_path):
    values = np.dstack([gradient(), np.full((6, 9), 40, np.uint8)])
    pixels, notes = read_with_notes(
        tiff(tmp_path / "a.tif", values, photometric="rgb", extrasamples=["unassalpha"])
    )
    assert np.array_equal(pixels, gradient())
    assert not notes


def test_signed_numbers_keep_their_negative_half(tmp_path):
    values = np.linspace(-2000, 3000, 6 * 9).astype(np.int16).reshape(6, 9)
    pixels, (note,) = read_with_notes(tiff(tmp_path / "a.tif", values))
    assert note.startswith("holds int16 from -2000 to 3000: ")
    assert len(np.unique(pixels)) > 45


def test_white_may_be_zero_in_unused_bits(tmp_path):
    values = np.linspace(0, 4095, 6 * 9).astype(np.uint16).reshape(6, 9)
    pixels, _ = read_with_notes(tiff(tmp_path / "a.tif", values, photometric="miniswhite"))
    assert np.array_equal(pixels[..., 0], (4095 - values) >> 4)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_further_pages_are_said(tmp_path, dtype):
    values = np.linspace(0, np.iinfo(dtype).max, 3 * 6 * 9 * 3).astype(dtype).reshape(3, 6, 9, 3)
    pixels, notes = read_with_notes(tiff(tmp_path / "a.tif", values, photometric="rgb"))
    assert np.array_equal(pixels[-1, -1], values[0, -1, -1] >> (8 * (values.dtype.itemsize - 1)))
    assert notes[0] == "has 3 pages: the first is read."


def test_floats_of_0_to_1_are_taken_as_such_and_others_are_stretched(tmp_path):
    values = np.linspace(0, 1, 6 * 9 * 3, dtype=np.float32).reshape(6, 9, 3)
    pixels, notes = read_with_notes(tiff(tmp_path / "a.tif", values, photometric="rgb"))
    assert np.array_equal(pixels, np.rint(values * 255))
    assert not notes
    heights = values[..., 0] * 3000 - 200
    heights[0, 0], heights[0, 1] = -9999, np.nan
    extra = [(42113, "s", 0, "-9999", True)]
    pixels, notes = read_with_notes(tiff(tmp_path / "b.tif", heights, extratags=extra))
    assert pixels[0, :2].max() == 0
    assert (pixels[0, 2, 0], pixels[-1, -1, 0]) == (0, 255)
    assert re.search(r"holds float32 from -\d.* become 0 to 255", notes[0])


def test_16_bits_of_png_that_are_nearly_black_are_said(tmp_path):
    (tmp_path / "a.png").write_bytes(png_16_bit(np.full((6, 9, 3), 4095, np.uint16)))
    assert read_with_notes(tmp_path / "a.png")[1][0].startswith("is dark: 98 %")


def test_tiffs_that_cannot_be_read_say_what_they_are(tmp_path):
    values = np.zeros((6, 9, 5), np.uint16)
    path = tiff(tmp_path / "a.tif", values, photometric="minisblack", planarconfig="contig")
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(
        PhotoError, match=r"a\.tif is a TIFF of 5 bands of 16 bits \(uint16, compression none\)"
    ):
        read_photo(path)
    with pytest.raises(PhotoError, match="complex64"):
        read_photo(tiff(tmp_path / "b.tif", np.zeros((6, 9), np.complex64)))
    (tmp_path / "c.tif").write_bytes(b"II*\0" + bytes(4))
    with pytest.raises(PhotoError, match=r"c\.tif is a damaged TIFF: its list of tags cannot be read"):
        read_photo(tmp_path / "c.tif")
