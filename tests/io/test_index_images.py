"""The numbers of label files and region maps are those that are stored, whatever Pillow shows them as."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from corrclip_jax.datasets.label_files import LabelError, read_ids
from corrclip_jax.io.region_maps import RegionError, read_regions

GREY, PALETTE = 0, 3  # of PNG
WHITE_IS_ZERO, BLACK_IS_ZERO, INDEXED = 0, 1, 3  # of TIFF
NUMBERS = np.array([[0, 1, 2, 3, 200], [65535, 15, 1, 0, 3]])
DEPTHS = (1, 2, 4, 8, 16)
# Pillow opens others with bits in reversed order, too, but has no decoder for them.
READ_REVERSED = {WHITE_IS_ZERO: (1, 2, 4), BLACK_IS_ZERO: (1, 2, 4, 8), INDEXED: (8,)}


def numbers_of(bits):
    return NUMBERS % (1 << bits)


def packed(numbers, bits, order=">"):
    if bits == 16:
        return [row.astype(f"{order}u2").tobytes() for row in numbers]
    digits = [(row[:, None] >> np.arange(bits)[::-1] & 1).astype(np.uint8).ravel() for row in numbers]
    return [np.packbits(row).tobytes() for row in digits]


def write_png(path, numbers, bits, kind=GREY):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = numbers.shape
    colours = chunk(b"PLTE", bytes(range(3 * (1 << bits)))) if kind == PALETTE and bits < 8 else b""
    if kind == PALETTE and bits == 8:
        colours = chunk(b"PLTE", bytes(768))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0))
        + colours
        + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in packed(numbers, bits))))
        + chunk(b"IEND", b"")
    )


def write_tiff(path, numbers, bits, photometric, *, order="<", reverse=False, compress=False, extra=()):
    height, width = numbers.shape
    data = b"".join(packed(numbers, bits, order))
    if reverse:
        data = bytes(int(f"{byte:08b}"[::-1], 2) for byte in data)
    data = zlib.compress(data) if compress else data
    after = 8 + len(data) + len(data) % 2
    colours = struct.pack(f"{order}{3 << bits}H", *range(3 << bits)) if photometric == INDEXED else b""
    tags = {
        256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, bits), 259: (3, 1, 8 if compress else 1),
        262: (3, 1, photometric), 266: (3, 1, 2 if reverse else 1), 273: (4, 1, 8), 277: (3, 1, 1),
        278: (4, 1, height), 279: (4, 1, len(data)), **dict(extra),
    }  # fmt: skip
    if colours:
        tags[320] = (3, 3 << bits, after)
    found = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", after + len(colours))
    found += data + bytes(len(data) % 2) + colours + struct.pack(f"{order}H", len(tags))
    for tag, (kind, count, value) in sorted(tags.items()):
        found += struct.pack(f"{order}HHI", tag, kind, count)
        found += struct.pack(f"{order}I" if kind == 4 or count > 1 else f"{order}H2x", value)
    path.write_bytes(found + bytes(4))


def write_bmp(path, row, bits, greys):
    row += bytes(-len(row) % 4)
    palette = b"".join(bytes([grey, grey, grey, 0]) for grey in greys)
    start = 54 + len(palette)
    sizes = struct.pack("<IiiHHIIiiII", 40, 4, 1, 1, bits, 0, len(row), 0, 0, len(greys), 0)
    path.write_bytes(b"BM" + struct.pack("<IHHI", start + len(row), 0, 0, start) + sizes + palette + row)


@pytest.mark.parametrize(
    ("bits", "kind"), [*((bits, GREY) for bits in DEPTHS), *((bits, PALETTE) for bits in DEPTHS if bits < 16)]
)
def test_png(tmp_path, bits, kind):
    wanted = numbers_of(bits)
    write_png(tmp_path / "a.png", wanted, bits, kind)
    assert np.array_equal(read_ids(tmp_path / "a.png"), wanted)
    assert np.array_equal(read_regions(tmp_path / "a.png", *wanted.shape), wanted)


TIFFS = [
    (bits, photometric, options)
    for bits in DEPTHS
    for photometric in (WHITE_IS_ZERO, BLACK_IS_ZERO, INDEXED)
    for options in ({}, {"order": ">"}, {"reverse": True}, {"compress": True})
    # Pillow opens no others of 16 bits.
    if bits < 16
    or (photometric == BLACK_IS_ZERO and "reverse" not in options)
    or (photometric == WHITE_IS_ZERO and not options)
]


@pytest.mark.parametrize(("bits", "photometric", "options"), TIFFS)
def test_tiff(tmp_path, bits, photometric, options):
    wanted = numbers_of(bits)
    write_tiff(tmp_path / "a.tif", wanted, bits, photometric, **options)
    if "reverse" in options and bits not in READ_REVERSED[photometric]:
        with pytest.raises(LabelError, match=r"a\.tif is no label file: Pillow cannot read its pixels"):
            read_ids(tmp_path / "a.tif")
        return
    assert np.array_equal(read_ids(tmp_path / "a.tif"), wanted)
    (tmp_path / "a.png").write_bytes((tmp_path / "a.tif").read_bytes())
    assert np.array_equal(read_regions(tmp_path / "a.png", *wanted.shape), wanted)


def test_a_negative_number_of_8_bits_is_none_above_127(tmp_path):
    signed = [(339, (3, 1, 2))]
    write_tiff(tmp_path / "a.tif", np.array([[5, 127]]), 8, BLACK_IS_ZERO, extra=signed)
    assert read_ids(tmp_path / "a.tif").tolist() == [[5, 127]]
    write_tiff(tmp_path / "a.tif", np.array([[5, 255]]), 8, BLACK_IS_ZERO, extra=signed)
    with pytest.raises(LabelError, match=r"a\.tif holds the numbers -1 to 5"):
        read_ids(tmp_path / "a.tif")


@pytest.mark.parametrize(
    ("bits", "row", "greys"),
    [
        (8, bytes([0, 1, 2, 3]), range(256)),
        (8, bytes([0, 1, 2, 3]), range(255, -1, -1)),
        (4, bytes([0x01, 0x23]), range(0, 256, 17)),
    ],
)
def test_bmp(tmp_path, bits, row, greys):
    write_bmp(tmp_path / "a.bmp", row, bits, greys)
    assert read_ids(tmp_path / "a.bmp").tolist() == [[0, 1, 2, 3]]


def test_what_does_not_keep_numbers_is_refused(tmp_path):
    write_bmp(tmp_path / "greys.bmp", bytes([0x01, 0x23]), 4, range(16))
    write_bmp(tmp_path / "mask.bmp", bytes([0, 1, 1, 0]), 8, (0, 255))
    grey = Image.fromarray(np.full((8, 8), 3, np.uint8))
    grey.save(tmp_path / "jpeg.png", "JPEG")
    grey.save(tmp_path / "jpeg.tif", compression="jpeg")
    for name, words in {
        "greys.bmp": "Pillow misreads a BMP of this palette",
        "mask.bmp": "Pillow misreads a BMP of this palette",
        "jpeg.png": "JPEG does not keep numbers exactly: save them as PNG",
        "jpeg.tif": "TIFF compressed as JPEG does not keep",
    }.items():
        with pytest.raises(LabelError, match=rf"{name} is no label file: {words}"):
            read_ids(tmp_path / name)
    with pytest.raises(RegionError, match=r"jpeg\.png is no index map: JPEG does not keep numbers"):
        read_regions(tmp_path / "jpeg.png", 8, 8)
