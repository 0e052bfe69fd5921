"""`corrclip segment` on videos: options, videos that fail beside others, mixed inputs, a missing extra."""

import json

import pytest
from command_line import assert_refused, corrclip, plain
from fake_video_segmenter import FakeVideoSegmenter
from video_files import contents, write_video

from corrclip_jax.cli.runs.segment_videos import find_videos
from corrclip_jax.cli.shared.video_options import VideoOptions
from corrclip_jax.inference import segmenter as segmenter_module
from corrclip_jax.runtime import extras


@pytest.fixture(autouse=True)
def fake(monkeypatch):
    monkeypatch.setattr(segmenter_module, "Segmenter", FakeVideoSegmenter)


def segment(*arguments):
    return corrclip("segment", *arguments, "-c", "dark, bright", "-m", "tiny", "--regions", "slic")


def test_a_folder_of_videos_with_one_that_is_none(tmp_path):
    videos, out = tmp_path / "videos", tmp_path / "out"
    videos.mkdir()
    write_video(videos / "a.mp4", 10)
    cut = write_video(videos / "b.mkv", 30)
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    (videos / "c.mov").write_text("a text")
    for run in range(2):
        result = segment(videos, "--out", out, "--json", "--track")
        assert result.exit_code == 1, result.output
        content = json.loads(result.stdout)
        assert [one["done_before"] for one in content["videos"]] == [run == 1] * 2
        damaged, broken = content["failed"]
        assert "b.mkv" in damaged and "is missing: the file ends early" in damaged
        assert "c.mov is not a video" in broken
    assert len(contents(out / "a.overlay.mp4").times) == 10
    result = segment(videos / "a.mp4", "--out", out, "--from", "0.1", "--to", "0:00:00.3", "--every", 2)
    assert result.exit_code == 0, result.output
    assert "1 of 1 videos segmented" in plain(result.stderr)
    assert len(contents(out / "a.overlay.mp4").times) == 3


def test_what_will_not_do_is_refused(tmp_path):
    clip, photo = write_video(tmp_path / "a.mp4", 2), tmp_path / "b.png"
    photo.write_bytes(b"x")
    out = ("--out", tmp_path / "out")
    assert_refused(segment(clip, photo, *out), r"a\.mp4 is a video, and .*b\.png is none .*two runs")
    assert_refused(segment(tmp_path, "--every", 2, *out), "two runs")
    assert_refused(segment(clip, "--format", "coco", *out), "--format is not for videos")
    result = segment(clip, "--probability-points", 48, *out)
    assert_refused(result, "--probability-points is not for videos")
    assert_refused(segment(clip, "--from", "1m", *out), "--from: a time is given in seconds or as hh:mm:ss")
    assert_refused(segment(clip, "--from", "3", "--to", "2", *out), "--to must be later than --from")
    assert_refused(segment(photo.with_name("no.mp4"), *out), r"no\.mp4 does not exist")
    result = corrclip("segment", clip, "-c", "a, b", "-m", "tiny", "--regions", "none", "--track", *out)
    assert_refused(result, "--track follows regions")


def test_a_video_among_the_photos_of_a_folder_does_not_stop_them(tmp_path, capsys):
    (tmp_path / "a.mp4").write_bytes(b"")
    (tmp_path / "b.mov").write_bytes(b"")
    (tmp_path / "c.jpg").write_bytes(b"x")
    assert find_videos([tmp_path], tmp_path / "out", False, VideoOptions()) == []
    said = " ".join(capsys.readouterr().err.split())
    assert "a.mp4 and 1 more: videos beside photos are left out. Segment them in a run of their own" in said


def test_results_are_no_inputs_and_replace_none(tmp_path):
    clip = write_video(tmp_path / "12:30.mp4", 2)
    assert segment(clip, "--out", tmp_path).exit_code == 0
    result = segment(clip, tmp_path / "12:30.overlay.mp4", tmp_path / "12:30.labels.mkv", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "12:30.overlay.mp4 is left out" in plain(result.stderr)
    assert "1 of 1 videos segmented, 1 of them before" in plain(result.stderr)
    other = tmp_path / "a.overlay.mp4"
    clip.rename(tmp_path / "a.mp4")
    write_video(other, 1)
    assert_refused(
        segment(tmp_path / "a.mp4", other, "--out", tmp_path), r"a\.overlay\.mp4 would replace a video"
    )


def test_a_missing_extra_is_one_line(tmp_path, monkeypatch):
    clip = write_video(tmp_path / "a.mp4", 1)
    found = extras.find_spec
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "av" else found(name))
    assert_refused(segment(clip), r"videos need av: python -m pip install 'corrclip-jax\[video\]'")
