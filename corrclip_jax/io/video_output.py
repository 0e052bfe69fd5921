"""Video writer: frames drawn anew beside the audio of their original, and label maps as a lossless video or PNGs.

Needs PyAV. Frames are handed over upright and stored turned as in the original, with its matrix of rotation.
"""

import io
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Integer, UInt8

from corrclip_jax.io.files import OutputError
from corrclip_jax.io.video import Frame, VideoReader, ffmpeg_name, open_input
from corrclip_jax.viz.overlay import label_image

_QUALITY = {"crf": "18", "preset": "veryfast"}
_LOSSLESS = {"level": "3", "slicecrc": "1"}
# Codecs of audio that an MP4 file can hold; all of them fit into Matroska.
_MP4_AUDIO = frozenset({"aac", "ac3", "alac", "eac3", "flac", "mp3", "mp3float", "opus", "libopus"})
# By FFmpeg's number of a colour space: its name in PyAV.
_COLOURS = {1: "ITU709", 5: "ITU601", 6: "ITU601", 9: "BT2020"}
_DEFAULT_RATE = Fraction(25)


FrameWriter: TypeAlias = Callable[[Frame, np.ndarray], None]
"""A function that writes an image or a label map, upright, at the time of a frame."""


def overlay_suffix(video: VideoReader) -> str:
    """The suffix of a video's overlay: that of its container, or of one that can hold its audio."""
    family, audio = video.format.container, set(video.format.audio)
    if "matroska" in family:
        return ".mkv"
    if "mov" in family and video.path.suffix.lower() == ".mov":
        return ".mov"
    return ".mp4" if audio <= _MP4_AUDIO else ".mkv"


@contextmanager
def overlay_writer(path: Path, video: VideoReader, every: int = 1) -> Iterator[FrameWriter]:
    """A file for images of a video's frames: size, times and rotation are the video's, its audio is copied.

    Args:
      path: the file; its suffix is that of `overlay_suffix`.
      video: the original, which is opened once more for its audio.
      every: of so many frames of the video one is written.

    Raises:
      OutputError: if the file cannot be written.
    """
    odd = video.format.width % 2 or video.format.height % 2
    with (
        _opened(path) as container,
        _Encoder(container, "libx264", "yuv444p" if odd else "yuv420p", video, every) as encoder,
        _Audio(container, video) as audio,
    ):
        colours = video.format.colours[0]
        name = _COLOURS.get(colours)
        context = encoder.stream.codec_context
        context.options = _QUALITY
        context.color_range = 1
        if name is not None:
            context.colorspace, context.color_primaries, context.color_trc = video.format.colours

        def write(frame: Frame, pixels: UInt8[np.ndarray, "H W 3"]) -> None:
            encoder.write(frame, pixels, "rgb24", dst_colorspace=name, dst_color_range="MPEG")
            audio.copy(frame.time)

        yield write
        encoder.flush()
        audio.copy(video.end)


@contextmanager
def label_video_writer(path: Path, video: VideoReader, classes: int, every: int = 1) -> Iterator[FrameWriter]:
    """A lossless video (FFV1 in Matroska) whose grey values are labels, of 8 bits, or of 16 for over 256 classes.

    Args:
      path: the file, with the suffix .mkv.
      video: the original.
      classes: how many there are.
      every: of so many frames of the video one is written.

    Raises:
      OutputError: if the file cannot be written.
    """
    pixels, dtype = ("gray", np.uint8) if classes <= 256 else ("gray16le", np.uint16)
    with _opened(path) as container, _Encoder(container, "ffv1", pixels, video, every) as encoder:
        context = encoder.stream.codec_context
        context.options, context.gop_size, context.color_range = _LOSSLESS, 1, 2

        def write(frame: Frame, labels: Integer[np.ndarray, "H W"]) -> None:
            encoder.write(frame, labels.astype(dtype), pixels, dst_color_range="JPEG", src_color_range="JPEG")

        yield write
        encoder.flush()


@contextmanager
def region_video_writer(path: Path, video: VideoReader, every: int = 1) -> Iterator[FrameWriter]:
    """A lossless video (FFV1 in Matroska) of region maps: an id is 65536 red + 256 green + blue of a pixel.

    Arguments and errors are those of `label_video_writer`.
    """
    with _opened(path) as container, _Encoder(container, "ffv1", "bgr0", video, every) as encoder:
        context = encoder.stream.codec_context
        context.options, context.gop_size = _LOSSLESS, 1

        def write(frame: Frame, regions: Integer[np.ndarray, "H W"]) -> None:
            bands = [regions >> shift & 255 for shift in (16, 8, 0)]
            encoder.write(frame, np.stack(bands, -1).astype(np.uint8), "rgb24")

        yield write
        encoder.flush()


@contextmanager
def label_images_writer(path: Path, class_names: Sequence[str]) -> Iterator[FrameWriter]:
    """A ZIP archive of label maps as PNGs, 000000.png for the first frame, and their times in times.csv.

    Raises:
      OutputError: if the file cannot be written.
    """
    times = ["file,seconds"]
    try:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:

            def write(frame: Frame, labels: Integer[np.ndarray, "H W"]) -> None:
                name, data = f"{frame.number:06d}.png", io.BytesIO()
                label_image(labels, class_names).save(data, "PNG")
                archive.writestr(name, data.getvalue())
                times.append(f"{name},{frame.time:.6f}")

            yield write
            archive.writestr("times.csv", "\n".join(times) + "\n")
    except OSError as error:
        raise OutputError(f"Cannot write {path.parent}: {error.strerror or error}.") from error


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A container for writing; errors of FFmpeg, which knows no file but this one by its name, are named."""
    import av

    container = None
    try:
        container = av.open(ffmpeg_name(path), "w")
        yield container
        container.close()
    except av.FFmpegError as error:
        reason = error.strerror or error
        raise OutputError(f"Cannot write a video to {path.parent}: {reason}.") from error
    finally:
        if container is not None:
            with suppress(av.FFmpegError):
                container.close()


class _Encoder(AbstractContextManager):
    """The video stream of a file, with the times, the size and the rotation of another video."""

    def __init__(self, container: Any, codec: str, pixels: str, video: VideoReader, every: int):
        shape = video.format
        self._container, self._video, self._every, self._pixels = container, video, every, pixels
        self.stream = container.add_stream(codec, rate=(shape.rate or _DEFAULT_RATE) / every)
        self.stream.width, self.stream.height, self.stream.pix_fmt = shape.width, shape.height, pixels
        context = self.stream.codec_context
        context.time_base = shape.time_base
        if shape.pixel_aspect:
            context.sample_aspect_ratio = shape.pixel_aspect
        self.stream.set_display_matrix(shape.matrix.values)

    def __exit__(self, *error: Any) -> None:
        """Nothing is left to do: the container closes the stream."""

    def write(self, frame: Frame, pixels: np.ndarray, layout: str, **colours: Any) -> None:
        """Encode an upright image of a layout that PyAV knows, as "rgb24"."""
        import av

        shape = self._video.format
        stored = av.VideoFrame.from_ndarray(shape.matrix.stored(pixels), format=layout)
        image = stored.reformat(format=self._pixels, **colours)
        image.pts, image.time_base = frame.pts - self._video.shift, shape.time_base
        image.duration = frame.duration * self._every
        self._container.mux(self.stream.encode(image))

    def flush(self) -> None:
        """Write what the encoder holds."""
        self._container.mux(self.stream.encode(None))


class _Audio(AbstractContextManager):
    """The audio of a video, copied packet by packet into another file as far as its pictures are."""

    def __init__(self, container: Any, video: VideoReader):
        self._out, self._video, self._waiting = container, video, None
        self._begin = video.shift * video.format.time_base + video.origin
        self._streams: dict[int, Any] = {}
        self._in: Any = None
        if video.format.audio:
            self._in = open_input(video.path)
            for stream in self._in.streams.audio:
                if stream.codec_context:
                    self._streams[stream.index] = container.add_stream_from_template(stream)
            self._packets = self._demux()

    def __exit__(self, *error: Any) -> None:
        if self._in is not None:
            self._in.close()

    def copy(self, until: float | None) -> None:
        """Copy the packets up to a time in seconds since the beginning of the video; all that are left for None."""
        while self._streams:
            packet = self._waiting or next(self._packets, None)
            self._waiting = packet
            if packet is None:
                return
            if until is not None and float(packet.pts * packet.time_base - self._video.origin) >= until:
                return
            self._waiting = None
            shift = round(self._begin / packet.time_base)
            packet.pts -= shift
            packet.dts -= shift
            packet.stream = self._streams[packet.stream_index]
            self._out.mux(packet)

    def _demux(self) -> Iterator[Any]:
        """Packets of audio from the first frame's time on; where the file is damaged, those before."""
        import av

        try:
            for packet in self._in.demux(list(self._in.streams.audio)):
                if packet.dts is None or packet.pts is None or packet.stream_index not in self._streams:
                    continue
                if not self._video.shift or packet.pts * packet.time_base >= self._begin:
                    yield packet
        except av.FFmpegError:
            return  # the reader of the pictures finds the same damage, and says so
