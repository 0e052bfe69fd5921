"""Video reader: upright RGB frames with their exact times, and a description of any damage. Needs PyAV.

with VideoReader("clip.mp4", start=10, end=12.5) as video:
    for frame in video.frames():
        frame.number, frame.time, frame.pixels
    video.damage                                   # None, or what could not be read
"""

import os
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from corrclip_jax.io.display_matrix import IDENTITY, DisplayMatrix
from corrclip_jax.io.video_end import missing_end
from corrclip_jax.io.video_files import VideoError, clock, require_video


class Frame(NamedTuple):
    """A frame of a video.

    Attributes:
      number: from 0 on, counted from the first frame that is read.
      time: seconds since the beginning of the video.
      pts: the presentation time in units of the video's time base, from the beginning of the video.
      duration: in units of the time base; 0 if unknown.
      pixels: upright.
    """

    number: int
    time: float
    pts: int
    duration: int
    pixels: UInt8[np.ndarray, "H W 3"]


class VideoFormat(NamedTuple):
    """What a copy of a video must share with it.

    Attributes:
      width: of stored frames, in pixels; rotation is not applied.
      height: likewise.
      time_base: seconds of a unit of presentation times.
      rate: frames per second; None if unknown. Of a variable rate, the average.
      pixel_aspect: width by height of a pixel; None if unknown.
      matrix: how stored frames are turned.
      colours: FFmpeg's numbers for colour space, primaries and transfer function.
      container: FFmpeg's names of the file's format.
      audio: codecs of the audio streams.
    """

    width: int
    height: int
    time_base: Fraction
    rate: Fraction | None
    pixel_aspect: Fraction | None
    matrix: DisplayMatrix
    colours: tuple[int, int, int]
    container: tuple[str, ...]
    audio: tuple[str, ...]


class VideoReader:
    """An open video.

    Attributes:
      path: its file.
      start: seconds; the first frame is the first one at or after this time.
      end: seconds; frames from this time on are not read. None for all.
      format: of its frames.
      origin: seconds between the file's time 0 and the beginning of the video.
      shift: what is subtracted from the frames' presentation times in a copy, in units of the time base: 0, or the
        first frame's time if the video is read from a later time on.
    """

    def __init__(self, path: str | os.PathLike, start: float = 0.0, end: float | None = None):
        """Open a video and read its first frame.

        Args:
          path: its file.
          start: seconds from the beginning; frames before are left out.
          end: seconds from the beginning; frames from there on are left out.

        Raises:
          VideoError: if it cannot be read, is no video, cannot be decoded, or has no frame in this time.
          MissingExtraError: if PyAV is not installed.
        """
        require_video("videos")
        self.path, self.start, self.end = Path(path), start, end
        self._damage: list[str] = []
        self._count, self._was_last = 0, False
        self._last_time: float | None = None
        self._last_packets: dict[int, Any] = {}
        try:
            with self.path.open("rb") as file:
                if not file.read(1):
                    raise VideoError(f"{path} is empty (0 bytes).")
        except OSError as error:
            raise VideoError(f"{path} cannot be read: {error.strerror or error}.") from error
        self._container: Any = None
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._container is not None:
            self._container.close()
            self._container = None

    @property
    def expected(self) -> int | None:
        """About how many frames there will be, for a progress bar; None if unknown."""
        if not self.start and self.end is None and self._stream.frames:
            return int(self._stream.frames)
        if self.format.rate is None or (self._seconds is None and self.end is None):
            return None
        end = min(one for one in (self._seconds, self.end) if one is not None)
        return max(1, round((end - self.start) * self.format.rate))

    @property
    def damage(self) -> str | None:
        """What could not be read, None if nothing is known to be missing; complete once all frames are read."""
        if self._was_last and not self._damage:
            missing = missing_end(self.path, self._container, self._stream, self._last_packets)
            if missing:
                self._damaged(f"is missing: the file ends early ({missing})")
        return f"{self.path}: {self._damage[0]}" if self._damage else None

    def frames(self) -> Iterator[Frame]:
        """The frames, in the order of presentation; to be called once. What cannot be decoded is left out."""
        shape = self.format.width, self.format.height
        last = None
        for stored, pts in self._frames:
            if (stored.width, stored.height) != shape:
                self._damaged(f"is {stored.width} x {stored.height}, those before {shape[0]} x {shape[1]}")
                return
            pts = pts if last is None or pts > last else last + 1
            last = pts
            pixels = self.format.matrix.upright(self._rgb(stored))
            yield Frame(self._count, self._time(pts), pts - self._zero, stored.duration or 0, pixels)
            self._count += 1

    def _rgb(self, stored: Any) -> np.ndarray:
        import av

        try:
            return stored.to_ndarray(format="rgb24")
        except av.FFmpegError as error:
            kind = stored.format.name
            raise VideoError(
                f"{self.path} has pixels ({kind}) that cannot be read: {_reason(error)}."
            ) from error

    def _begin(self) -> None:
        import av

        try:
            self._open()
            self._frames = self._seek_and_decode()
            first = next(self._frames, None)
        except av.FFmpegError as error:
            raise VideoError(f"{self.path} is not a video, or is damaged: {_reason(error)}.") from error
        if first is None:
            raise VideoError(self._nothing())
        self._frames = chain([first], self._frames)
        frame, stream = first[0], self._stream
        self.shift = first[1] - self._zero if self.start else 0
        self.format = VideoFormat(
            frame.width,
            frame.height,
            stream.time_base,
            stream.average_rate or stream.guessed_rate,
            stream.sample_aspect_ratio or None,
            _matrix(frame),
            (int(frame.colorspace), int(frame.color_primaries), int(frame.color_trc)),
            tuple(self._container.format.name.split(",")),
            tuple(one.codec_context.name for one in self._container.streams.audio if one.codec_context),
        )

    def _open(self) -> None:
        import av

        self.close()
        self._container = open_input(self.path)
        streams = [one for one in self._container.streams.video if not _is_cover(one)]
        if not streams:
            kinds = sorted({one.type for one in self._container.streams})
            raise VideoError(f"{self.path} has no video: {', '.join(kinds) or 'nothing'} only.")
        self._stream = streams[0]
        if self._stream.codec_context is None:
            raise VideoError(f"{self.path} has a video of a codec that PyAV cannot decode.")
        start = self._container.start_time
        if start is None:
            self.origin = Fraction((self._stream.start_time or 0) * self._stream.time_base)
        else:
            self.origin = Fraction(start, av.time_base)
        self._zero = round(self.origin / self._stream.time_base)
        duration = self._container.duration
        self._seconds = None if duration is None else duration / av.time_base

    def _time(self, pts: int) -> float:
        """Seconds since the beginning of the video."""
        return float((pts - self._zero) * self._stream.time_base)

    def _damaged(self, what: str) -> None:
        """Record damage where the next frame should be."""
        if not self._damage:
            at = "" if self._last_time is None else f", after {clock(self._last_time)},"
            self._damage.append(f"frame {self._count}{at} {what}")

    def _seek_and_decode(self) -> Iterator[tuple[Any, int]]:
        """Frames from `start` on. Where a container cannot seek exactly, it is decoded from the beginning."""
        import av

        if self.start > 0:
            try:
                target = self._zero + int(self.start / self._stream.time_base)
                self._container.seek(target, stream=self._stream)
                frames = self._decode()
                first = next(frames, None)
                if first is not None and self._time(first[1]) <= self.start and not self._damage:
                    yield from self._in_time(chain([first], frames))
                    return
            except av.FFmpegError:
                pass  # as where the first frame found is too late, or lacks those that it depends on
            self._damage.clear()
            self._last_packets.clear()
            self._open()
        yield from self._in_time(self._decode())

    def _in_time(self, frames: Iterator[tuple[Any, int]]) -> Iterator[tuple[Any, int]]:
        # Times given as text are no multiples of the time base.
        slack = min(float(self._stream.time_base) / 2, 5e-4)
        for frame, pts in frames:
            time = self._time(pts)
            if self.end is not None and time >= self.end - slack:
                return
            self._last_time = time
            if time >= self.start - slack:
                yield frame, pts
            else:
                self._damage.clear()
        self._was_last = True

    def _decode(self) -> Iterator[tuple[Any, int]]:
        import av

        step = 1
        if rate := self._stream.average_rate or self._stream.guessed_rate:
            step = max(1, round(1 / (rate * self._stream.time_base)))
        following = self._zero
        for packet in self._packets():
            try:
                frames = packet.decode()
            except av.FFmpegError as error:
                self._damaged(f"cannot be decoded ({_reason(error)})")
                continue
            for frame in frames:
                if frame.is_corrupt or packet.is_corrupt:
                    self._damaged("is damaged")
                pts = following if frame.pts is None else frame.pts
                following = pts + (frame.duration or step)
                yield frame, pts

    def _packets(self) -> Iterator[Any]:
        """Packets of the video; the last, an empty packet, flushes the decoder."""
        import av

        packets = self._container.demux()
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError as error:
                self._damaged(f"is missing: the file ends early ({_reason(error)})")
                packet = None
            if packet is None:
                return
            if packet.dts is not None:
                self._last_packets[packet.stream_index] = packet
            if packet.stream_index == self._stream.index:
                yield packet

    def _nothing(self) -> str:
        if self._damage:
            return f"{self.path} has no frame that can be decoded: {self._damage[0]}."
        if self._last_time is None:
            return f"{self.path} has no frames."
        end = "the end" if self.end is None else clock(self.end)
        length = "" if self._seconds is None else f"; it is {clock(self._seconds)} long"
        return f"{self.path} has no frame from {clock(self.start)} to {end}{length}."


def ffmpeg_name(path: Path) -> str:
    """The name of a file for FFmpeg, to which "12:30.mp4" would be an address of the protocol "12"."""
    return os.fspath(path.absolute())


def open_input(path: Path) -> Any:
    """PyAV's container of a file to read, whatever bytes its metadata hold."""
    import av

    # PyAV 18 refuses metadata that are not UTF-8 unless told otherwise; later versions have no such option.
    options = {"metadata_errors": "replace"} if av.__version__.startswith("18.") else {}
    return av.open(ffmpeg_name(path), **options)


def _is_cover(stream: Any) -> bool:
    from av.stream import Disposition

    return bool(stream.disposition & Disposition.attached_pic)


def _matrix(frame: Any) -> DisplayMatrix:
    from av.sidedata.sidedata import Type

    data = frame.side_data.get(Type.DISPLAYMATRIX)
    return IDENTITY if data is None else DisplayMatrix(tuple(np.frombuffer(bytes(data), np.int32).tolist()))


def _reason(error: Any) -> str:
    return str(error.strerror or error)
