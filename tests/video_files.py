"""Small videos for tests, and what a video file holds."""

from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.sidedata.sidedata import Type

SIZE = (64, 96)


class Contents(NamedTuple):
    times: list
    size: tuple
    rate: Fraction
    matrix: tuple
    frames: list
    audio: list


def draw(number, size=SIZE):
    """A frame: a gradient that moves, with a red corner."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    picture = np.stack(
        [(2 * columns + 5 * number) % 256, 3 * rows % 256, np.full(size, 20 * number % 256)], -1
    )
    picture[: size[0] // 4, : size[1] // 4] = 255, 0, 0
    return picture.astype(np.uint8)


def write_video(
    path,
    count=8,
    *,
    size=SIZE,
    codec="libx264",
    pixels="yuv420p",
    rate=25,
    ticks=None,
    turned=None,
    audio=None,
    header_first=False,
):
    """Write a video; `ticks` are the frames' times in units of 1/12800 s, `turned` degrees and whether mirrored."""
    options = {"movflags": "faststart"} if header_first else {}
    with av.open(str(path), "w", options=options) as file:
        stream = file.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        if ticks is not None:
            stream.codec_context.time_base = Fraction(1, 12800)
        if turned is not None:
            stream.set_display_rotation(*turned)
        sound = None
        if audio is not None:
            sound = file.add_stream(audio, rate=48000)
            sound.layout = "mono"
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(draw(number, size))
            if ticks is not None:
                frame.pts, frame.time_base = ticks[number], Fraction(1, 12800)
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
        for start in range(0, int(48000 * count / rate), 1024) if sound else ():
            wave = (8000 * np.sin(np.arange(start, start + 1024) / 20)).astype(np.int16)
            frame = av.AudioFrame.from_ndarray(wave[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 48000, start, Fraction(1, 48000)
            file.mux(sound.encode(frame))
        if sound:
            file.mux(sound.encode(None))
    return Path(path)


def contents(path):
    with av.open(str(Path(path).absolute())) as file:
        audio = [
            (packet.pts, packet.time_base, bytes(packet))
            for stream in file.streams.audio
            for packet in file.demux(stream)
            if packet.dts is not None
        ]
    with av.open(str(Path(path).absolute())) as file:
        rate = file.streams.video[0].average_rate
        frames = list(file.decode(video=0))
    first = frames[0]
    data = first.side_data.get(Type.DISPLAYMATRIX)
    matrix = [] if data is None else [bytes(data)]
    times = [frame.pts * frame.time_base for frame in frames]
    return Contents(times, (first.height, first.width), rate, tuple(matrix), frames, audio)
