"""Reading photos: every kind a person may have, and every way in which a file can be wrong."""

import io
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from drawn_photos import gradient, png_16_bit
from PIL import Image

from corrclip_jax.io import photos, pillow_images
from corrclip_jax.io.bands import valid_orientation
from corrclip_jax.io.photos import PhotoError, photo_size, read_photo
from corrclip_jax.io.pillow_images import orientation_of


def jpeg(size=(64, 48), **options):
    data = io.BytesIO()
    Image.fromarray(gradient(*size[::-1])).save(data, "JPEG", **options)
    return data.getvalue()


def test_rgb_png_is_read_as_it_is(tmp_path):
    Image.fromarray(gradient()).save(tmp_path / "a.png")
    out = read_photo(tmp_path / "a.png")
    assert out.dtype == np.uint8
    assert np.array_equal(out, gradient())
    assert np.array_equal(read_photo(str(tmp_path / "a.png")), gradient())


@pytest.mark.parametrize("size", [(1, 1), (100, 4000), (4000, 100)])
def test_any_size_down_to_one_pixel(tmp_path, size):
    Image.fromarray(gradient(*size)).save(tmp_path / "a.png")
    assert np.array_equal(read_photo(tmp_path / "a.png"), gradient(*size))


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P", "CMYK", "YCbCr", "HSV", "PA"])
def test_every_mode_becomes_rgb(mode):
    out = read_photo(Image.fromarray(gradient()).convert("LA" if mode == "PA" else "RGB").convert(mode))
    assert out.shape == (6, 9, 3)
    if mode in ("L", "LA", "1"):
        assert np.array_equal(out[..., 0], out[..., 2])


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_transparency_is_dropped_not_blended(tmp_path, suffix):
    rgba = np.dstack([gradient(), np.full((6, 9), 40, np.uint8)])
    Image.fromarray(rgba).save(tmp_path / f"a.{suffix}", **({"lossless": True} if suffix == "webp" else {}))
    assert np.array_equal(read_photo(tmp_path / f"a.{suffix}"), gradient())


def test_premultiplied_alpha_is_undone():
    rgba = Image.fromarray(np.dstack([gradient(), np.full((6, 9), 128, np.uint8)]))
    assert np.abs(read_photo(rgba.convert("RGBa")).astype(int) - gradient()).max() <= 1


def test_cmyk_jpeg(tmp_path):
    Image.new("RGB", (32, 32), (200, 30, 60)).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert np.abs(read_photo(tmp_path / "a.jpg").mean((0, 1)) - (200, 30, 60)).max() < 3


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path, suffix):
    grey = np.linspace(0, 65535, 54).astype(np.uint16).reshape(6, 9)
    Image.fromarray(grey).save(tmp_path / f"a.{suffix}", **({"format": "PPM"} if suffix == "pgm" else {}))
    assert np.array_equal(read_photo(tmp_path / f"a.{suffix}"), np.repeat((grey >> 8)[..., None], 3, 2))


def test_16_bit_rgb_is_scaled_not_clipped(tmp_path):
    colour = np.linspace(0, 65535, 54 * 3).astype(np.uint16).reshape(6, 9, 3)
    (tmp_path / "a.png").write_bytes(png_16_bit(colour))
    assert np.array_equal(read_photo(tmp_path / "a.png"), colour >> 8)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(tmp_path, orientation):
    stored_from_upright = {
        1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2), 6: lambda a: np.rot90(a),
        7: lambda a: np.rot90(a.transpose(1, 0, 2), 2), 8: lambda a: np.rot90(a, -1),
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    for suffix in ("png", "tif"):
        stored = np.ascontiguousarray(stored_from_upright[orientation](gradient()))
        Image.fromarray(stored).save(tmp_path / f"a.{suffix}", exif=exif)
        assert np.array_equal(read_photo(tmp_path / f"a.{suffix}"), gradient())


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_size_is_known_before_the_pixels(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(gradient()).save(tmp_path / f"a.{suffix}", exif=exif)
    wanted = read_photo(tmp_path / f"a.{suffix}").shape[:2]
    assert wanted == ((6, 9) if orientation < 5 else (9, 6))
    assert photo_size(tmp_path / f"a.{suffix}") == wanted
    assert photo_size(Image.open(tmp_path / f"a.{suffix}")) == wanted
    assert photo_size(gradient()) == (6, 9)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif"])
@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_there_is_not_is_upright(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(gradient()).save(tmp_path / f"a.{suffix}", exif=exif)
    assert read_photo(tmp_path / f"a.{suffix}").shape[:2] == (6, 9)
    assert photo_size(tmp_path / f"a.{suffix}") == (6, 9)
    with Image.open(tmp_path / f"a.{suffix}") as image:
        assert orientation_of(image) == 1


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_an_orientation_that_is_a_text_is_upright(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6
    number, text = (
        b"\x01\x12\x00" + end for end in (b"\x03\x00\x00\x00\x01\x00\x06", b"\x02\x00\x00\x00\x026\x00")
    )
    data = exif.tobytes()
    assert number in data
    Image.fromarray(gradient()).save(tmp_path / f"a.{suffix}", exif=data.replace(number, text))
    assert Image.open(tmp_path / f"a.{suffix}").getexif()[0x0112] == "6"
    assert read_photo(tmp_path / f"a.{suffix}").shape[:2] == (6, 9)
    assert photo_size(tmp_path / f"a.{suffix}") == (6, 9)


@pytest.mark.parametrize(("value", "wanted"), [(3, 3), (9, 1), (0, 1), ("6", 1), ((6, 6), 1), (None, 1)])
def test_valid_orientations_are_1_to_8(value, wanted):
    assert valid_orientation(value) == wanted


def test_the_size_of_what_is_no_photo(tmp_path):
    (tmp_path / "a.png").write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(PhotoError, match=r"a\.png is not an image"):
        photo_size(tmp_path / "a.png")
    with pytest.raises(PhotoError, match=r"gone\.png does not exist"):
        photo_size(tmp_path / "gone.png")


def test_filters_of_warnings_survive_reading_in_threads(tmp_path):
    Image.fromarray(gradient(60, 90)).save(tmp_path / "a.png")
    before = list(warnings.filters)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read_photo, [tmp_path / "a.png"] * 200))
    assert warnings.filters == before


def test_exif_that_cannot_be_read_turns_nothing(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg(exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\0" * 8))
    assert read_photo(tmp_path / "a.jpg").shape == (48, 64, 3)


def test_first_frame_of_an_animation(tmp_path):
    first, second = (Image.fromarray(np.full((4, 5), v, np.uint8)) for v in (10, 200))
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    assert (read_photo(tmp_path / "a.gif") == 10).all()


def test_arrays():
    assert np.array_equal(read_photo(gradient()), gradient())
    assert np.array_equal(read_photo(gradient()[..., 0])[..., 2], gradient()[..., 0])
    assert read_photo(gradient()[::-1, ::-1]).flags.c_contiguous


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((4, 5, 3)), r"float64 \[4, 5, 3\].*255"),
        (np.zeros((4, 5, 3), np.uint16), "uint16.*>> 8"),
        (np.zeros((4, 5, 3), bool), "bool.*expected uint8"),
        (np.zeros((4, 5, 3), np.int64), "int64.*expected uint8"),
        (np.zeros((4, 5, 4), np.uint8), r"photo\[\.\.\., :3\]"),
        (np.zeros((3, 4, 5), np.uint8), "Channels come last"),
        (np.zeros((2, 4, 5, 3), np.uint8), "as a list"),
        (np.zeros(5, np.uint8), "expected uint8"),
        (np.zeros((0, 5, 3), np.uint8), "empty"),
    ],
)
def test_arrays_that_are_no_photos(array, words):
    with pytest.raises(PhotoError, match=words):
        read_photo(array)


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_truncated_jpeg(tmp_path, share):
    data = jpeg((300, 200))
    (tmp_path / "cut.jpg").write_bytes(data[: int(len(data) * share)])
    with pytest.raises(PhotoError, match=r"cut\.jpg.*(cut short|cannot be read)"):
        read_photo(tmp_path / "cut.jpg")


def test_damaged_png(tmp_path):
    data = io.BytesIO()
    Image.fromarray(gradient(500, 500)).save(data, "PNG")
    for name, content in (("cut", data.getvalue()[:200]), ("head", data.getvalue()[:20])):
        (tmp_path / f"{name}.png").write_bytes(content)
        with pytest.raises(PhotoError, match=f"{name}.png"):
            read_photo(tmp_path / f"{name}.png")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty file"),
        (b"<!DOCTYPE html>", "not an image.*<!DOCTYPE"),
        (b"\0\0\0\x18ftypheic....", "HEIC"),
    ],
)
def test_not_an_image(tmp_path, content, words):
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(PhotoError, match=rf"a\.jpg.*{words}"):
        read_photo(tmp_path / "a.jpg")


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(PhotoError, match=r"none\.jpg does not exist"):
        read_photo(tmp_path / "none.jpg")
    with pytest.raises(PhotoError, match="is a folder"):
        read_photo(tmp_path)


def test_too_many_pixels(tmp_path, monkeypatch):
    Image.new("1", (300, 200)).save(tmp_path / "large.png")
    for module in (photos, pillow_images):
        monkeypatch.setattr(module, "MAX_PIXELS", 59_999)
    for photo in (tmp_path / "large.png", Image.new("L", (300, 200)), np.zeros((200, 300), np.uint8)):
        with pytest.raises(PhotoError, match="The limit is"):
            read_photo(photo)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)  # Pillow's own alarm
    with pytest.raises(PhotoError, match=r"large\.png has too many pixels"):
        read_photo(tmp_path / "large.png")


# --- other things than paths, images and arrays ---


def test_an_opened_file_and_bytes_are_read():
    data = jpeg()
    assert read_photo(io.BytesIO(data)).shape == read_photo(data).shape == (48, 64, 3)


@pytest.mark.parametrize(
    ("photo", "words"),
    [
        (None, "Got None"),
        (["a.jpg"], r"Got \['a.jpg'\]"),
        ("https://example.org/a.jpg", "is an address, not a file. Download it"),
    ],
)
def test_what_is_no_photo_is_named(photo, words):
    with pytest.raises(PhotoError, match=words):
        read_photo(photo)


def test_want_of_memory_and_decoders_that_fail_are_errors_of_the_photo(tmp_path, monkeypatch):
    (tmp_path / "a.jpg").write_bytes(jpeg())
    for error, words in (
        (MemoryError(), "needs more memory"),
        (AssertionError("odd"), "damaged or cut short: odd"),
    ):
        monkeypatch.setattr(Image.Image, "load", lambda self, error=error: raise_(error))
        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self, error=error: raise_(error))
        with pytest.raises(PhotoError, match=rf"a\.jpg.*{words}"):
            read_photo(tmp_path / "a.jpg")


def raise_(error):
    raise error
