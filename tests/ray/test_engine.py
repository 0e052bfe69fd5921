"""The command with --engine ray, its chunks run in this process: files and rows of one process, resumed by key."""

import json
from contextlib import nullcontext

import numpy as np
import pyarrow.parquet as pq
import pytest
from command_line import corrclip, plain
from fake_segmenter import FakeSegmenter
from PIL import Image

from corrclip_jax.inference import segmenter
from corrclip_jax.ray import cluster
from corrclip_jax.ray.rows import decode_labels

OPTIONS = ("-c", "dark, bright", "--regions", "none", "-m", "tiny", "--json")
ON_RAY = ("--engine", "ray", "--actors", 2)


class Brightness(FakeSegmenter):
    """A stand-in that labels by brightness and records the sizes that it is given."""

    expected = ()

    def expect_sizes(self, sizes):
        Brightness.expected = sorted(sizes)

    def stream(self, photos, classes, *, regions=None, on_start=lambda indices, compiles: None):
        yield from super().stream(photos, classes, regions=regions, on_start=on_start)


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    def run_chunks(chunks, worker, arguments, actors):
        workers = [worker(*arguments) for _ in range(actors.number)]
        for index, chunk in enumerate(chunks):
            yield workers[index % len(workers)]({"chunk": [chunk]})

    monkeypatch.setattr(segmenter, "Segmenter", Brightness)
    monkeypatch.setattr("corrclip_jax.cli.runs.segment.Segmenter", Brightness)
    monkeypatch.setattr(cluster, "cluster", lambda address: nullcontext())
    monkeypatch.setattr(cluster, "share", lambda actors, devices: cluster.Actors(actors, 1))
    monkeypatch.setattr(cluster, "run_chunks", run_chunks)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(10):
        pixels = np.random.default_rng(seed).integers(0, 256, (12 + seed % 3, 18, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{seed}.png")
    (folder / "bad.png").write_bytes(b"no image")
    Image.fromarray(np.full((9, 9), 300, np.uint16)).save(folder / "deep.png")
    return folder


def content(out, name):
    """A result without what differs from run to run."""
    data = (out / name).read_bytes()
    if not name.endswith(".json"):
        return data
    found = json.loads(data)
    del found["seconds"]
    return found


def test_files_are_those_of_one_process_and_either_engine_continues(photos, tmp_path):
    local, ray = tmp_path / "local", tmp_path / "ray"
    by_local = corrclip("segment", photos, *OPTIONS, "-o", local)
    by_ray = corrclip("segment", photos, *OPTIONS, *ON_RAY, "--write", "files", "-o", ray)
    assert by_local.exit_code == by_ray.exit_code == 1, by_ray.output
    names = sorted(path.name for path in local.iterdir() if not path.name.startswith("."))
    assert names == sorted(path.name for path in ray.iterdir() if not path.name.startswith("."))
    assert len(names) == 3 * 11
    assert all(content(local, name) == content(ray, name) for name in names)
    first, second = json.loads(by_local.stdout), json.loads(by_ray.stdout)
    assert first["failed"] == second["failed"]
    assert [one["shares"] for one in first["photos"]] == [one["shares"] for one in second["photos"]]
    (ray / "3.png").unlink()
    again = json.loads(corrclip("segment", photos, *OPTIONS, "-o", ray).stdout)
    assert (len(again["photos"]), again["done_before"]) == (1, 10)
    (ray / "4.png").unlink()
    again = corrclip("segment", photos, *OPTIONS, *ON_RAY, "--write", "files", "-o", ray)
    assert json.loads(again.stdout)["done_before"] == 10


@pytest.mark.parametrize("labels", ["png", "rle"])
def test_rows_are_continued_by_key(photos, tmp_path, labels):
    out = tmp_path / "out"
    options = (photos, *OPTIONS, *ON_RAY, "--row-labels", labels, "-o", out)
    first = corrclip("segment", *options)
    assert first.exit_code == 1, first.output
    assert (json.loads(first.stdout)["photos"], json.loads(first.stdout)["done_before"]) == (11, 0)
    assert "bad.png is not an image" in plain(first.stderr)
    assert len(Brightness.expected) == 11, "programs are planned from the sizes of all images"
    rows = {row["key"]: row for part in out.glob("*.parquet") for row in pq.read_table(part).to_pylist()}
    assert sorted(rows) == sorted(str(photo) for photo in photos.iterdir())
    with Image.open(photos / "4.png") as image:
        bright = np.asarray(image)[..., 0] > 127
    assert np.array_equal(decode_labels(rows[str(photos / "4.png")]), bright)
    (photos / "4.png").rename(photos / "11.png")
    Image.new("RGB", (18, 12)).save(photos / "bad.png")
    again = corrclip("segment", *options)
    assert again.exit_code == 0, again.output
    assert (json.loads(again.stdout)["photos"], json.loads(again.stdout)["done_before"]) == (2, 10)
    assert "1 image failed before: made again" in plain(again.stderr)
    assert len(Brightness.expected) == 12, "of those that are done, too"
    done = corrclip("segment", *options)
    assert (done.exit_code, json.loads(done.stdout)["done_before"]) == (0, 12)
    other = corrclip("segment", photos, "-c", "a, b", *OPTIONS[2:], *ON_RAY, "-o", out)
    assert other.exit_code == 2
    assert "made with other classes" in plain(other.stderr)


def test_notes_are_in_the_rows(photos, tmp_path):
    corrclip("segment", photos / "deep.png", *OPTIONS, *ON_RAY, "-o", tmp_path / "out")
    corrclip("segment", photos / "deep.png", *OPTIONS, "-o", tmp_path / "local")
    (part,) = (tmp_path / "out").glob("*.parquet")
    (row,) = pq.read_table(part).to_pylist()
    assert row["notes"] == content(tmp_path / "local", "deep.json")["notes"]


def test_an_error_of_all_images_is_one_line(photos, tmp_path, monkeypatch):
    def missing(model, **options):
        raise FileNotFoundError("the weights of tiny are missing.")

    monkeypatch.setattr(segmenter, "Segmenter", missing)

    def run_chunks(chunks, worker, arguments, actors):
        found = worker(*arguments)({"chunk": [chunks[0]]})
        raise cluster.ClusterError(found["error"][0])
        yield

    monkeypatch.setattr(cluster, "run_chunks", run_chunks)
    result = corrclip("segment", photos, *OPTIONS, *ON_RAY, "-o", tmp_path / "out")
    assert result.exit_code == 1
    assert "Error: the weights of tiny are missing." in plain(result.stderr)
    assert json.loads(result.stdout)["failed"] == ["the weights of tiny are missing."]


@pytest.mark.parametrize("write", ["parquet", "files"])
def test_a_cluster_that_cannot_be_reached_ends_the_command(write, photos, tmp_path, monkeypatch):
    def unreachable(address):
        raise cluster.ClusterError(f"Ray cannot reach the cluster {address}.")

    monkeypatch.setattr(cluster, "cluster", unreachable)
    options = (*OPTIONS, *ON_RAY, "--write", write, "--address", "there:1")
    result = corrclip("segment", photos, *options, "-o", tmp_path / "out")
    assert result.exit_code == 2
    assert not result.stdout
    assert plain(result.stderr).splitlines()[-1] == "Error: Ray cannot reach the cluster there:1."
    assert not list((tmp_path / "out").glob("*"))
