"""End of a video file: whether the file holds all that its header or its index announce. Needs PyAV.

What can be seen depends on the container. MP4, MOV, Matroska, WebM, AVI and WMV state sizes; a transport stream
consists of packets of one size, Y4M of frames of one size; FLV repeats the size of its last tag. MPEG program
streams, MXF and raw streams announce nothing.
"""

import os
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

from corrclip_jax.io.video_files import clock

_LEAST_GAP = Fraction(1, 10)  # seconds; lengths in headers are not more exact
_SEGMENT, _EBML = 0x18538067, 0x1A45DFA3  # ids of Matroska's top elements
_UNKNOWN_SIZE = (1 << 56) - 1
_ASF_PROPERTIES = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")


def missing_end(path: Path, container: Any, stream: Any, last: Mapping[int, Any]) -> str | None:
    """What is announced and was not there after a file was read to its end; None if nothing is known to be missing.

    Args:
      path: of the file.
      container: PyAV's.
      stream: of the video.
      last: the last packet of every stream, by its index.
    """
    names = container.format.name.split(",")
    size = path.stat().st_size
    packet = last.get(stream.index)
    with path.open("rb") as file:
        if "yuv4mpegpipe" in names:
            announced = _whole_frames(file, size, packet)
        else:
            announced = _announced_size(file, names, size)
    if announced is not None and size < announced:
        return f"it announces {announced:,} bytes and has {size:,}"
    if "mp4" in names:
        return _by_index(stream, packet)
    if "matroska" in names or "flv" in names:
        return _by_duration(container, stream, last)
    return None


def _announced_size(file: BinaryIO, names: list[str], size: int) -> int | None:
    """Bytes that a file of this format must have at least; None where that is not known."""
    if "mp4" in names:
        return _boxes_end(file, size)
    if "matroska" in names:
        return _segment_end(file)
    if "avi" in names:
        return _riff_end(file, size)
    if "mpegts" in names:
        return _whole_packets(file, size)
    if "flv" in names:
        return _flv_end(file, size)
    if "asf" in names:
        return _asf_size(file)
    return None


def _boxes_end(file: BinaryIO, size: int) -> int:
    """Where the last box of an MP4 or MOV file ends."""
    end = 0
    while end + 8 <= size:
        file.seek(end)
        header = file.read(16)
        length = int.from_bytes(header[:4], "big")
        if length == 1:
            length = int.from_bytes(header[8:16], "big")
        if length < 8:  # 0: up to the end of the file
            return size
        end += length
    return end


def _segment_end(file: BinaryIO) -> int | None:
    """Where a Matroska file's segment ends; unknown for one that was being written when its program was killed."""
    for _ in range(8):
        number, length = _variable(file, keep_mark=True), _variable(file)
        if number is None or length is None or length >= _UNKNOWN_SIZE or number not in (_SEGMENT, _EBML):
            return None
        if number == _SEGMENT:
            return file.tell() + length
        file.seek(length, os.SEEK_CUR)
    return None


def _variable(file: BinaryIO, *, keep_mark: bool = False) -> int | None:
    """EBML's number of variable length at the file's position; of ids the mark of the length is a part."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    length = 9 - first[0].bit_length()
    value = first[0] if keep_mark else first[0] & ((1 << (8 - length)) - 1)
    rest = file.read(length - 1)
    value = (value << 8 * len(rest)) | int.from_bytes(rest, "big")
    return _UNKNOWN_SIZE if not keep_mark and value == (1 << 7 * length) - 1 else value


def _riff_end(file: BinaryIO, size: int) -> int | None:
    """Where the last RIFF list of an AVI file ends."""
    end = 0
    while end + 8 <= size:
        file.seek(end)
        header = file.read(8)
        length = int.from_bytes(header[4:], "little")
        if header[:4] != b"RIFF" or not length:
            return None if end == 0 else end
        end += 8 + length + length % 2
    return end


def _whole_packets(file: BinaryIO, size: int) -> int | None:
    """The size rounded up to whole packets of a transport stream, which begin with 0x47."""
    start = file.read(5)
    for packet, at in ((188, 0), (192, 4)):
        if start[at : at + 1] == b"\x47":
            return -(-size // packet) * packet
    return None


def _whole_frames(file: BinaryIO, size: int, packet: Any) -> int | None:
    """The size rounded up to whole frames of a Y4M file, each after a line of six bytes."""
    if packet is None:
        return None
    header, frame = len(file.readline()), len(b"FRAME\n") + packet.size
    return header + -(-(size - header) // frame) * frame


def _asf_size(file: BinaryIO) -> int | None:
    """The size that the file properties of a WMV file state."""
    header = file.read(1 << 16)
    at = header.find(_ASF_PROPERTIES)
    return None if at < 0 else int.from_bytes(header[at + 40 : at + 48], "little") or None


def _flv_end(file: BinaryIO, size: int) -> int | None:
    """A byte more than there is where the last four bytes of an FLV file are not the size of its last tag."""
    file.seek(max(0, size - 4))
    tag = int.from_bytes(file.read(4), "big")
    if 11 <= tag <= size - 4:
        file.seek(size - 4 - tag + 1)
        if int.from_bytes(file.read(3), "big") == tag - 11:
            return size
    return size + 1


def _by_index(stream: Any, packet: Any) -> str | None:
    """The index of an MP4 file stands before or after the pictures and lists all of them."""
    entries = stream.index_entries
    if not len(entries):
        return None
    end = entries[-1].timestamp
    if packet is not None and packet.dts >= end:
        return None
    return f"its index lists {len(entries)} frames"


def _by_duration(container: Any, stream: Any, last: Mapping[int, Any]) -> str | None:
    if not container.duration:
        return None
    announced = Fraction(container.duration, 1_000_000)
    ends = [(one.pts if one.pts is not None else one.dts) + (one.duration or 0) for one in last.values()]
    read = max(
        (end * one.time_base for end, one in zip(ends, last.values(), strict=True)), default=Fraction(0)
    )
    gap = max(_LEAST_GAP, Fraction(3, 2) / (stream.average_rate or 25))
    return f"its header announces {clock(float(announced))}" if read < announced - gap else None
