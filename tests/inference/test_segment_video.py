"""`segment_video`: the files of a result, a run that is kept or stopped, and damage that is said again."""

import io
import json
import zipfile

import numpy as np
import pytest
from fake_video_segmenter import FakeVideoSegmenter
from PIL import Image
from video_files import contents, draw, write_video

from corrclip_jax.inference.video import Span, VideoStopped, segment_video
from corrclip_jax.io.files import OutputError
from corrclip_jax.io.own_files import ForeignFileError
from corrclip_jax.io.video_files import VideoError

CLASSES = ["dark", ["bright", "light"]]


def test_a_video_is_labelled_and_its_result_kept(tmp_path):
    path = write_video(tmp_path / "a.mp4", audio="aac", turned=(90,))
    out, segmenter, steps = tmp_path / "out", FakeVideoSegmenter(), []
    result = segment_video(
        segmenter, path, CLASSES, out, on_frame=lambda done, total, compiled: steps.append((done, total))
    )
    assert [file.name for file in result.paths] == [
        "a.overlay.mp4",
        "a.labels.mkv",
        "a.preview.jpg",
        "a.video.json",
    ]
    assert (result.frames, result.damage, result.before) == (8, None, False)
    assert steps == [(number, 8) for number in range(1, 9)]
    given, overlay, labels = (contents(file) for file in (path, *result.paths[:2]))
    assert (overlay.times, overlay.matrix, overlay.audio) == (given.times, given.matrix, given.audio)
    found = np.stack([frame.to_ndarray(format="gray") for frame in labels.frames])
    assert (found == [frame.to_ndarray(format="rgb24")[..., 0] > 127 for frame in given.frames]).mean() > 0.99
    content = json.loads(result.paths[-1].read_text())
    assert (content["width"], content["height"], content["frames"], content["rate"]) == (64, 96, 8, 25)
    assert content["classes"][1]["names"] == ["bright", "light"]
    assert content["classes"][1]["pixels"] == (found == 1).sum()
    assert result.shares["bright"] == pytest.approx((found == 1).mean())
    again = segment_video(segmenter, path, CLASSES, out)
    assert (again.before, again.frames, again.shares) == (True, 8, result.shares)
    assert segmenter.frames == 8
    segment_video(segmenter, path, CLASSES, out, span=Span(every=4))
    assert segmenter.frames == 10
    assert contents(out / "a.overlay.mp4").times == given.times[::4]


@pytest.mark.parametrize("content", [b'{"classes": [', b"[]", b'{"classes": []}'])
def test_a_damaged_description_of_an_earlier_result_is_named(tmp_path, content):
    path, out = write_video(tmp_path / "a.mkv", 2), tmp_path / "out"
    result = segment_video(FakeVideoSegmenter(), path, CLASSES, out)
    result.paths[-1].write_bytes(content)
    with pytest.raises(
        OutputError, match=r"a\.video\.json is damaged or changed.*--overwrite makes it again"
    ):
        segment_video(FakeVideoSegmenter(), path, CLASSES, out)
    assert not segment_video(FakeVideoSegmenter(), path, CLASSES, out, overwrite=True).before


def test_followed_regions_are_written_with_their_ids(tmp_path):
    path = write_video(tmp_path / "a.mkv", 3)
    result = segment_video(FakeVideoSegmenter(), path, CLASSES, tmp_path / "out", track=True)
    assert [file.name for file in result.paths][:3] == ["a.overlay.mkv", "a.labels.mkv", "a.regions.mkv"]
    regions, labels = (contents(file) for file in (result.paths[2], result.paths[1]))
    for one, two in zip(regions.frames, labels.frames, strict=True):
        assert (one.to_ndarray(format="rgb24")[..., 2] == two.to_ndarray(format="gray")).all()


def test_labels_as_images_with_the_times_of_their_frames(tmp_path):
    path = write_video(tmp_path / "a.mp4", 6)
    span = Span(0.08, None, 2)
    result = segment_video(FakeVideoSegmenter(), path, CLASSES, tmp_path / "out", labels="png", span=span)
    with zipfile.ZipFile(result.paths[1]) as archive:
        assert archive.read("times.csv").decode().splitlines() == [
            "file,seconds",
            "000000.png,0.080000",
            "000002.png,0.160000",
        ]
        labels = np.asarray(Image.open(io.BytesIO(archive.read("000000.png"))))
    assert (labels == (draw(2)[..., 0] > 127)).mean() > 0.97


def test_a_damaged_video_says_so_on_every_run(tmp_path):
    path = write_video(tmp_path / "a.mp4", 30, header_first=True)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    segmenter = FakeVideoSegmenter()
    for before in (False, True):
        result = segment_video(segmenter, path, CLASSES, tmp_path / "out")
        assert result.before == before
        assert 0 < result.frames < 30
        assert "frame" in result.damage
    assert len(contents(result.paths[0]).times) == result.frames


def test_a_run_that_is_stopped_leaves_no_files_behind(tmp_path):
    path = write_video(tmp_path / "a.mp4", audio="aac")
    with pytest.raises(VideoStopped):
        segment_video(FakeVideoSegmenter(), path, CLASSES, tmp_path / "out", stop=lambda: True)
    assert [file.name for file in (tmp_path / "out").iterdir()] == []


def test_what_would_be_replaced_or_cannot_be_read_is_named(tmp_path):
    path, out = write_video(tmp_path / "a.mp4", 2), tmp_path / "out"
    out.mkdir()
    (out / "a.labels.mkv").write_text("mine")
    with pytest.raises(ForeignFileError, match=r"a\.labels\.mkv"):
        segment_video(FakeVideoSegmenter(), path, CLASSES, out)
    path.write_text("no video")
    with pytest.raises(VideoError, match=r"a\.mp4"):
        segment_video(FakeVideoSegmenter(), path, CLASSES, tmp_path / "other")
    with pytest.raises(ValueError, match="later than the start"):
        segment_video(FakeVideoSegmenter(), path, CLASSES, out, span=Span(3, 2))


def test_an_error_of_the_model_or_the_disk_ends_the_run(tmp_path):
    class Full(FakeVideoSegmenter):
        def stream(self, *arguments, **named):
            for number, result in super().stream(*arguments, **named):
                yield number, MemoryError("no room") if number == 3 else result

    path, out = write_video(tmp_path / "a.mp4", audio="aac"), tmp_path / "out"
    with pytest.raises(MemoryError, match="no room"):
        segment_video(Full(), path, CLASSES, out)
    assert not list(out.glob("a.*"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError):
        segment_video(FakeVideoSegmenter(), path, CLASSES, tmp_path / "file")
