"""Sources: images in folders, Parquet files, tars, text files, and at addresses; what is refused."""

import io
import tarfile
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from corrclip_jax.io.photos import PhotoError, read_photo
from corrclip_jax.ray import chunks as module
from corrclip_jax.ray.chunks import chunks, from_text, measure, read_sources, to_text
from corrclip_jax.ray.sources import content_marks, find_sources
from corrclip_jax.ray.storage import StorageError, write_bytes


def encoded(value=0, size=(8, 6)):
    file = io.BytesIO()
    Image.new("RGB", size, (value, 0, 0)).save(file, "PNG")
    return file.getvalue()


def values(found):
    """The red value of each image, as it is read for a `Segmenter`, or the error."""
    passed = from_text(to_text(found.sources))
    assert passed == found.sources
    red = []
    for one in read_sources(passed):
        try:
            red.append(str(one) if isinstance(one, PhotoError) else int(read_photo(one)[0, 0, 0]))
        except PhotoError as error:
            red.append(str(error))
    return red


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "photos"
    (place / "inside").mkdir(parents=True)
    for value, name in enumerate(["a.png", "b.png", "inside/c.png"]):
        (place / name).write_bytes(encoded(value))
    (place / "notes.txt").write_text("mine")
    (place / "._a.png").write_bytes(b"\0")
    return place


def test_a_folder_and_files_in_it(folder):
    found = find_sources([str(folder), str(folder / "a.png")])
    assert [source.key for source in found.sources] == [str(folder / "a.png"), str(folder / "b.png")]
    assert values(found) == [0, 1]
    assert "1 other file (.txt 1)" in found.left_out[0]
    assert len(find_sources([str(folder)], recursive=True).sources) == 3
    before = content_marks(found.sources)
    (folder / "a.png").write_bytes(encoded(9, (9, 9)))
    after = content_marks(find_sources([str(folder)]).sources)
    assert [one == other for one, other in zip(before, after, strict=True)] == [False, True]


def test_what_does_not_exist_beside_what_does(folder):
    found = find_sources([str(folder / "gone.png"), str(folder)])
    assert len(found.sources) == 2
    assert found.problems == [f"{folder / 'gone.png'} does not exist. Give photos, or folders of photos."]
    with pytest.raises(PhotoError, match=r"gone\.png does not exist"):
        find_sources([str(folder / "gone.png")])


@pytest.mark.parametrize("kind", ["bytes", "struct", "only one"])
def test_parquet_with_image_bytes(tmp_path, kind):
    data = [encoded(value) for value in range(5)]
    images = [{"bytes": one, "path": None} for one in data] if kind == "struct" else data
    columns = {"image" if kind != "only one" else "x": images, "label": list(range(5))}
    if kind == "bytes":
        columns["id"] = [f"n{value}" for value in range(5)]
    pq.write_table(pa.table(columns), tmp_path / "t.parquet", row_group_size=2)
    found = find_sources([str(tmp_path)])
    assert values(found) == [0, 1, 2, 3, 4]
    name = str(tmp_path / "t.parquet")
    assert found.sources[3].key == ("n3" if kind == "bytes" else f"{name}#3")
    assert [len(chunk) for chunk in chunks(found.sources, {})] == [2, 2, 1]


def test_parquet_with_nulls_addresses_and_without_images(tmp_path, folder):
    pq.write_table(pa.table({"image": pa.array([encoded(3), None], pa.binary())}), tmp_path / "n.parquet")
    assert values(find_sources([str(tmp_path / "n.parquet")])) == [3, f"{tmp_path}/n.parquet#1 has no image."]
    pq.write_table(pa.table({"url": [str(folder / "b.png")]}), tmp_path / "u.parquet")
    assert values(find_sources([str(tmp_path / "u.parquet")])) == [1]
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "t.parquet")
    (tmp_path / "d.parquet").write_bytes(b"PAR1 no")
    for name, words in (
        ("t", "no column of image bytes.*It has text"),
        ("d", "no Parquet file, or is damaged"),
    ):
        with pytest.raises(StorageError, match=words):
            find_sources([str(tmp_path / f"{name}.parquet")])


def test_keys_that_occur_twice(tmp_path):
    pq.write_table(pa.table({"key": ["a", "a"], "image": [encoded(), encoded()]}), tmp_path / "t.parquet")
    with pytest.raises(StorageError, match="keys occur more than once: 'a' and 0 others"):
        find_sources([str(tmp_path)])


def test_tars(tmp_path):
    for shard in range(2):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as archive:
            for name, data in (
                ("0.png", encoded(shard)),
                ("0.json", b"{}"),
                ("._0.png", b""),
                ("d/1.png", encoded(9)),
            ):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    found = find_sources([str(tmp_path)])
    assert [source.key for source in found.sources][:2] == [
        f"{tmp_path}/0.tar/0.png",
        f"{tmp_path}/0.tar/d/1.png",
    ]
    assert values(found) == [0, 9, 1, 9]
    assert [len(chunk) for chunk in chunks(found.sources, {})] == [1, 1, 1, 1]
    (tmp_path / "b.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(StorageError, match=r"b\.tar is no tar"):
        find_sources([str(tmp_path / "b.tar")])


def test_a_list_of_addresses(folder, tmp_path):
    (tmp_path / "list.txt").write_text(
        f"# photos\n{folder}/a.png\nfile://{folder}/b.png\n\n{folder}/gone.png\n"
    )
    found = find_sources([str(tmp_path / "list.txt")])
    assert values(found) == [0, 1, f"{folder}/gone.png does not exist."]


def test_addresses_of_an_object_store(tmp_path):
    fsspec.filesystem("memory").store.clear()
    for value, name in enumerate(["a.png", "b.jpg", "deep/c.png", ".d.png", "e.json"]):
        write_bytes(f"memory://bucket/in/{name}", encoded(value))
    found = find_sources(["memory://bucket/in"])
    assert [source.key for source in found.sources] == [
        "memory://bucket/in/a.png",
        "memory://bucket/in/b.jpg",
    ]
    assert values(found) == [0, 1]
    assert "1 other file (.json 1)" in found.left_out[0]
    assert len(find_sources(["memory://bucket/in"], recursive=True).sources) == 3
    assert values(find_sources(["memory://bucket/in/*.jpg"])) == [1]
    assert values(find_sources(["memory://bucket/in/a.png"])) == [0]
    for place, words in (("memory://bucket/none", "it does not exist"), ("nosuch://x/y", "cannot be opened")):
        with pytest.raises(PhotoError, match=words):
            find_sources([place])


def test_kinds_are_not_mixed(folder):
    with tarfile.open(folder / "x.tar", "w") as archive:
        archive.add(folder / "a.png", "a.png")
    with pytest.raises(
        StorageError, match=r"several kinds: .*a\.png \(images\).*Segment each kind in its own run"
    ):
        find_sources([str(folder)])


def test_sizes_are_read_and_images_of_a_size_go_together(folder, monkeypatch):
    (folder / "wide.png").write_bytes(encoded(0, (30, 6)))
    (folder / "bad.png").write_bytes(b"no")
    found = find_sources([str(folder)], recursive=True)
    sizes = dict(zip([Path(one.key).name for one in found.sources], measure(found.sources), strict=True))
    assert sizes == {"a.png": (6, 8), "b.png": (6, 8), "bad.png": None, "c.png": (6, 8), "wide.png": (6, 30)}
    known = {one.key: size for one, size in zip(found.sources, measure(found.sources), strict=True) if size}
    monkeypatch.setattr(module, "_ROUNDS", 1)
    made = list(chunks(found.sources, known, actors=3))
    assert [[Path(one.key).name for one in chunk] for chunk in made] == [
        ["bad.png", "a.png"],
        ["b.png", "c.png"],
        ["wide.png"],
    ]
    assert np.array_equal(measure(made[2]), [(6, 30)])
