"""Photos drawn for tests: a gradient in each channel, and PNGs of 16 bits, which Pillow cannot write."""

import struct
import zlib

import numpy as np


def gradient(height=6, width=9):
    y, x = np.mgrid[:height, :width]
    return np.stack(
        [y * 255 // max(height - 1, 1), x * 255 // max(width - 1, 1), (x + y) * 7 % 256], -1
    ).astype(np.uint8)


def png_16_bit(colour):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colour)
    header = struct.pack(">IIBBBBB", colour.shape[1], colour.shape[0], 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
