"""Parts of rows: written once, continued by key, never doubled; other settings and foreign files are refused."""

import os

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from corrclip_jax.inference.segmentation import Segmentation
from corrclip_jax.io.files import OutputError
from corrclip_jax.io.own_files import value_digest
from corrclip_jax.io.photos import PhotoError, read_photo
from corrclip_jax.ray.chunks import to_text
from corrclip_jax.ray.parts import WriteParts, begin, look
from corrclip_jax.ray.segment_images import SegmentImages
from corrclip_jax.ray.sources import find_sources

CLASSES = ["dark", "bright"]
MADE = {"classes": "1", "model": "fake", "bands": None}


class Brightness(SegmentImages):
    """Labels by brightness, and records what it labels."""

    def __init__(self):
        super().__init__("fake", CLASSES)
        self.did = []

    def results(self, photos):
        for index, photo in enumerate(photos):
            self.did.append(photo.name)
            try:
                pixels = read_photo(photo)
            except PhotoError as error:
                yield index, error, []
                continue
            labels = (pixels[..., 0] > 127).astype(np.int32)
            scores = labels.astype(np.float32)
            yield (
                index,
                Segmentation(pixels, labels, scores, labels, (("dark",), ("bright",)), 0.1, False),
                [],
            )


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(6):
        Image.new("RGB", (6, 4), (number * 50, 0, 0)).save(folder / f"{number}.png")
    (folder / "3.png").write_bytes(b"no image")
    return folder


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return str(tmp_path / "out")


def run(photos, out, *, made=MADE, most=99, overwrite=False):
    """Do at most so many chunks of two; the names of what was done, and the notes."""
    standing = look(out, find_sources([str(photos)]).sources, made, overwrite=overwrite)
    begin(out, made, [[name] for name in CLASSES], {})
    segment = Brightness()
    write = WriteParts(out, value_digest(made), segment)
    starts = range(0, len(standing.todo), 2)
    errors = []
    for start in list(starts)[:most]:
        batch = {"chunk": [to_text(standing.todo[start : start + 2])]}
        found = write(batch)
        assert write(batch) == found, "a chunk that is given again is not done again"
        errors += [error for error in found["error"] if error]
    return segment.did, standing.notes, errors


def rows(out):
    found = [row for file in sorted(out_files(out)) for row in pq.read_table(file).to_pylist()]
    return {row["key"].rpartition("/")[2]: row for row in found}, len(found)


def out_files(out):
    import pathlib

    return pathlib.Path(out).glob("*.parquet")


def test_a_killed_run_does_only_what_is_missing(photos, out):
    assert run(photos, out, most=2)[0] == ["0.png", "1.png", "2.png", "3.png"]
    did, notes, errors = run(photos, out)
    assert did == ["3.png", "4.png", "5.png"], "what failed is tried again"
    assert notes == ["1 image failed before: made again."]
    assert len(errors) == 1
    found, number = rows(out)
    assert number == len(found) == 6
    assert [name for name, row in found.items() if row["error"]] == ["3.png"]
    assert sorted(found) == [f"{number}.png" for number in range(6)]
    assert found["5.png"]["shares"] == [0.0, 1.0]


def test_changed_new_and_mended_images(photos, out):
    run(photos, out)
    Image.new("RGB", (6, 4)).save(photos / "3.png")
    Image.new("RGB", (9, 4)).save(photos / "5.png")
    Image.new("RGB", (9, 4)).save(photos / "7.png")
    did, notes, errors = run(photos, out)
    assert did == ["3.png", "5.png", "7.png"]
    assert notes == [
        "1 image failed before: made again.",
        "1 image changed since labelled: made again.",
    ]
    assert not errors
    found, number = rows(out)
    assert number == len(found) == 7
    assert (found["5.png"]["width"], found["5.png"]["shares"]) == (9, [1.0, 0.0])
    assert run(photos, out) == ([], [], [])


def test_the_content_of_an_image_counts_not_its_size_and_time(photos, out):
    assert run(photos, out)[0] == [f"{number}.png" for number in range(6)]
    os.utime(photos / "4.png", (1, 1))
    before = (photos / "5.png").stat()
    changed = bytearray((photos / "5.png").read_bytes())
    changed[-1] ^= 1
    (photos / "5.png").write_bytes(changed)
    os.utime(photos / "5.png", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert run(photos, out)[0] == ["3.png", "5.png"]


def test_other_settings_are_refused_or_replace_all(photos, out):
    run(photos, out)
    other = {**MADE, "model": "other", "classes": "2"}
    with pytest.raises(OutputError, match=r"other classes, model\. Choose another folder"):
        run(photos, out, made=other)
    assert len(run(photos, out, made=other, overwrite=True)[0]) == 6
    assert rows(out)[1] == 6
    assert run(photos, out, made=other)[0] == ["3.png"]


def test_foreign_and_damaged_files(photos, out):
    run(photos, out)
    damaged = sorted(out_files(out))[0]
    damaged.write_bytes(damaged.read_bytes()[:100])
    notes = run(photos, out)[1]
    assert any("is damaged: its images are made again" in note for note in notes)
    assert rows(out)[1] == len(rows(out)[0]) == 6
    (damaged.parent / "mine.parquet").write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"mine\.parquet was not written by this program"):
        run(photos, out, overwrite=True)
    (damaged.parent / "mine.parquet").unlink()
    (damaged.parent / "_corrclip.json").unlink()
    with pytest.raises(OutputError, match=r"part-\w+\.parquet was not written by this program"):
        run(photos, out)


def test_parts_that_hold_an_image_twice_are_mended(photos, out):
    run(photos, out)
    part = sorted(out_files(out))[0]
    (part.parent / "part-0123456789abcdef.parquet").write_bytes(part.read_bytes())
    assert rows(out)[1] > 6
    run(photos, out)
    assert rows(out)[1] == len(rows(out)[0]) == 6


def test_an_error_of_all_images_ends_the_run(photos, out):
    class Broken(Brightness):
        def results(self, photos):
            raise FileNotFoundError("the weights are missing")
            yield

    write = WriteParts(out, "", Broken())
    chunk = to_text(find_sources([str(photos)]).sources)
    assert write({"chunk": [chunk]}) == {"key": [""], "error": ["the weights are missing"]}
    assert not list(out_files(out))
