"""Videos read and written: times, rotation, size, audio, exact labels, damage, and files that are no videos."""

import os
from pathlib import Path

import numpy as np
import pytest
from video_files import contents, write_video

from corrclip_jax.io.display_matrix import DisplayMatrix
from corrclip_jax.io.video import VideoReader
from corrclip_jax.io.video_files import VideoError, clock, parse_time, videos_in
from corrclip_jax.io.video_output import (
    label_video_writer,
    overlay_suffix,
    overlay_writer,
    region_video_writer,
)

UNEVEN = [0, 512, 700, 1500, 1501, 4000, 9000, 9100]


def copied(path, folder, every=1, classes=8, **span):
    """An overlay of the frames as they are, and random labels; their contents, and the labels as stored."""
    with VideoReader(path, **span) as video:
        overlay = folder / f"overlay{overlay_suffix(video)}"
        stored = []
        with (
            overlay_writer(overlay, video, every) as draw,
            label_video_writer(folder / "labels.mkv", video, classes, every) as keep,
        ):
            for frame in video.frames():
                if frame.number % every == 0:
                    shape = frame.pixels.shape[:2]
                    labels = np.random.default_rng(frame.number).integers(0, classes, shape)
                    draw(frame, frame.pixels)
                    keep(frame, labels)
                    stored.append(video.format.matrix.stored(labels))
        assert video.damage is None
    return contents(overlay), contents(folder / "labels.mkv"), stored


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {"audio": "aac", "ticks": UNEVEN}),
        ("a.mov", {"audio": "pcm_s16le", "turned": (180,)}),
        ("a.mkv", {"audio": "flac", "turned": (270,)}),
        ("mirrored.mp4", {"turned": (90, True)}),
        ("odd.mp4", {"size": (45, 63), "pixels": "yuv444p"}),
        ("a.webm", {"codec": "libvpx", "audio": "libopus"}),
    ],
)
def test_a_copy_has_the_times_size_rotation_and_audio_of_its_original(tmp_path, name, options):
    path = write_video(tmp_path / name, **options)
    given = contents(path)
    overlay, labels, stored = copied(path, tmp_path)
    assert overlay.times == given.times
    assert overlay.size == labels.size == given.size
    assert overlay.matrix == labels.matrix == given.matrix
    assert overlay.audio == given.audio
    assert bool(given.audio) == ("audio" in options)
    if "ticks" not in options:
        assert overlay.rate == given.rate
    for one, two in zip(overlay.frames, given.frames, strict=True):
        assert np.abs(one.to_ndarray(format="rgb24").astype(int) - two.to_ndarray(format="rgb24")).mean() < 4
    assert np.abs(np.array(labels.times, float) - np.array(given.times, float)).max() <= 0.00051
    for frame, expected in zip(labels.frames, stored, strict=True):
        assert (frame.to_ndarray(format="gray") == expected).all()
        assert (frame.to_ndarray(format="rgb24") == expected[..., None]).all()


def test_frames_of_a_turned_video_stand_upright(tmp_path):
    path = write_video(tmp_path / "a.mp4", 1, turned=(90,))
    with VideoReader(path) as video:
        frame = next(video.frames())
    assert frame.pixels.shape == (96, 64, 3)
    red = frame.pixels[..., 0].astype(int) - frame.pixels[..., 1] > 150
    assert red[
        -20:, :12
    ].all()  # the upper left corner, a quarter turned counter-clockwise, is the lower left one


def test_all_eight_matrices_are_undone():
    image = np.arange(12).reshape(3, 4)
    one = 1 << 16
    for a, b in ((one, 0), (-one, 0), (0, one), (0, -one)):
        for c, d in ((0, one), (0, -one)) if a else ((one, 0), (-one, 0)):
            matrix = DisplayMatrix((a, b, 0, c, d, 0, 0, 0, 1 << 30))
            assert (matrix.stored(matrix.upright(image)) == image).all()
            assert matrix.upright(image).shape == ((3, 4) if a else (4, 3))


def test_more_than_256_classes_take_16_bits(tmp_path):
    path = write_video(tmp_path / "a.mp4", 2)
    _, labels, stored = copied(path, tmp_path, classes=300)
    assert max(map(np.max, stored)) > 256
    for frame, expected in zip(labels.frames, stored, strict=True):
        assert (frame.to_ndarray(format="gray16le") == expected).all()


def test_region_ids_of_24_bits_come_back(tmp_path):
    path = write_video(tmp_path / "a.mp4", 2, turned=(270,))
    ids = np.random.default_rng(0).integers(0, 1 << 24, (96, 64), dtype=np.int32)
    with VideoReader(path) as video, region_video_writer(tmp_path / "regions.mkv", video) as follow:
        for frame in video.frames():
            follow(frame, ids)
    with VideoReader(tmp_path / "regions.mkv") as video:
        for frame in video.frames():
            assert (frame.pixels @ np.array([65536, 256, 1]) == ids).all()


def test_from_to_and_every_choose_frames_and_audio(tmp_path):
    path = write_video(tmp_path / "a.mp4", 20, audio="aac")
    given = contents(path)
    overlay, _, _ = copied(path, tmp_path, every=3, start=0.2, end=0.6)
    assert overlay.times == [time - given.times[5] for time in given.times[5:15:3]]
    heard = [data for pts, base, data in given.audio if 0.2 <= pts * base < 0.6]
    assert [data for _, _, data in overlay.audio] == heard
    first = next(pts * base for pts, base, _ in given.audio if pts * base >= 0.2)
    assert float(overlay.audio[0][0] * overlay.audio[0][1]) == pytest.approx(float(first) - 0.2, abs=1e-3)
    with VideoReader(path, 0.2, 0.6) as video:
        assert [round(25 * frame.time) for frame in video.frames()] == list(range(5, 15))
        assert video.damage is None
    with pytest.raises(VideoError, match=r"no frame from 0:00:09.00 to the end; it is 0:00:00.8\d long"):
        VideoReader(path, 9.0)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {"header_first": True}),
        ("a.mkv", {}),
        ("a.avi", {"codec": "mpeg4"}),
        ("a.ts", {}),
        ("a.flv", {}),
        ("a.wmv", {"codec": "wmv2"}),
    ],
)
def test_a_truncated_file_gives_what_is_there_and_says_so(tmp_path, name, options):
    path = write_video(tmp_path / name, 30, **options)
    with VideoReader(path) as video:
        assert sum(1 for _ in video.frames()) == 30
        assert video.damage is None
    data = path.read_bytes()
    for length in (2 * len(data) // 3 + 1, len(data) - 1):
        path.write_bytes(data[:length])
        with VideoReader(path) as video:
            assert 0 < sum(1 for _ in video.frames()) <= 30
            assert str(path) in video.damage
            assert "frame" in video.damage


def test_a_raw_file_that_ends_within_a_frame_is_noticed(tmp_path):
    path = tmp_path / "a.y4m"
    data = b"YUV4MPEG2 W16 H8 F25:1 C420jpeg\n" + 5 * (b"FRAME\n" + bytes(16 * 8 * 3 // 2))
    for end, damaged in ((None, False), (-1, True)):
        path.write_bytes(data[:end])
        with VideoReader(path) as video:
            assert sum(1 for _ in video.frames()) == 4 + (not damaged)
            assert bool(video.damage) == damaged


def test_garbage_within_a_video_is_noticed(tmp_path):
    path = write_video(tmp_path / "a.mkv", 40)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 300] = np.random.default_rng(0).bytes(300)
    path.write_bytes(data)
    with VideoReader(path) as video:
        assert sum(1 for _ in video.frames()) < 40
        assert "frame" in video.damage


def test_files_that_are_no_videos_are_named(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"")
    with pytest.raises(VideoError, match="is empty"):
        VideoReader(path)
    path.write_text("a text")
    with pytest.raises(VideoError, match=r"a\.mp4 is not a video, or is damaged"):
        VideoReader(path)
    write_video(tmp_path / "b.mp4", 1, audio="aac")
    import av

    with av.open(str(tmp_path / "b.mp4")) as given, av.open(str(path), "w") as file:
        stream = file.add_stream_from_template(given.streams.audio[0])
        for packet in given.demux(audio=0):
            if packet.dts is not None:
                packet.stream = stream
                file.mux(packet)
    with pytest.raises(VideoError, match="has no video: audio only"):
        VideoReader(path)
    with pytest.raises(VideoError, match=r"c\.mp4 cannot be read: No such file"):
        VideoReader(tmp_path / "c.mp4")


def test_any_name_of_a_file_is_read_and_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path(os.fsdecode(b"\xff"))
    folder.mkdir()
    path = folder / "12:30 %d.mp4"
    write_video("a.mp4", 2, audio="aac").rename(path)
    overlay, labels, _ = copied(path, folder)
    assert len(overlay.times) == len(labels.times) == 2
    assert overlay.audio


def test_metadata_may_be_in_any_encoding(tmp_path):
    path = write_video(tmp_path / "a.mp4", 2, audio="aac")
    data = path.read_bytes()
    assert b"Lavf" in data  # the name of the writing program
    path.write_bytes(data.replace(b"Lavf", b"\xe9avf"))
    overlay, _, _ = copied(path, tmp_path)
    assert len(overlay.times) == 2


def test_times_as_text():
    assert [parse_time(text) for text in ("90", "1:30", "0:01:30.5", ".5")] == [90, 90, 90.5, 0.5]
    assert clock(3690.5) == "1:01:30.50"
    for text in ("1:90", "-1", "1m", "", "1:2:3:4"):
        with pytest.raises(ValueError, match="hh:mm:ss"):
            parse_time(text)


def test_videos_of_a_folder_are_those_of_users(tmp_path):
    from corrclip_jax.io.own_files import OwnFiles

    for name in ("b.MP4", "a.mkv", "._a.mkv", "photo.jpg", "in/c.mp4", "out/d.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    with OwnFiles(tmp_path).writing(["a.overlay.mp4"], {}) as (file,):
        file.write_text("x")
    assert [path.name for path in videos_in(tmp_path)] == ["a.mkv", "b.MP4"]
    found = videos_in(tmp_path, recursive=True, out=tmp_path / "out")
    assert sorted(path.name for path in found) == ["a.mkv", "b.MP4", "c.mp4"]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.avi"])
def test_reading_from_a_time_gives_the_frames_that_reading_all_gives(tmp_path, name):
    path = write_video(tmp_path / name, 50, codec="mpeg4" if name == "a.avi" else "libx264")
    with VideoReader(path) as video:
        expected = [frame for frame in video.frames() if 1.3 <= frame.time < 1.5]
    with VideoReader(path, 1.3, 1.5) as video:
        found = list(video.frames())
        assert video.damage is None
    assert [frame.time for frame in found] == [frame.time for frame in expected]
    for one, two in zip(found, expected, strict=True):
        assert (one.pixels == two.pixels).all()
