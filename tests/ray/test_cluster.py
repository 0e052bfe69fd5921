"""A cluster of two actors on this machine: labels of one process, one row an image, an actor that is killed."""

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from command_line import assert_refused, corrclip, plain
from PIL import Image
from small_models import small_model

import corrclip_jax
from corrclip_jax.cli.runs import segment_ray
from corrclip_jax.inference.segmenter import Segmenter
from corrclip_jax.ray import cluster
from corrclip_jax.ray.rows import decode_labels
from corrclip_jax.runtime import extras

CLASSES = "cat, grass, sky; cloud"
SIZES = [(60, 90), (58, 88), (60, 90), (56, 90)]  # of one program, which three actors compile


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(small_model(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number in range(12):
        rng = np.random.default_rng(number)
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        height, width = SIZES[number % 4]
        coarse.resize((width, height), Image.Resampling.NEAREST).save(folder / f"{number:02d}.png")
    whole = (folder / "07.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "page.jpg").write_bytes(b"<!DOCTYPE html>")
    return folder


def command(*arguments):
    return [sys.executable, "-c", "from corrclip_jax.cli import app; app()", *map(str, arguments)]


def kill_first_actor(parts):
    """Kill an actor once a part is there, which may be while it works or waits."""
    deadline = time.monotonic() + 120
    while not list(parts.glob("part-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            name = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if name.startswith(b"ray::MapWorker(MapBatches(WriteParts))"):
            os.kill(int(process.name), signal.SIGKILL)
            return


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.skipif(sys.platform != "linux", reason="finds the actors in /proc")
def test_two_actors_one_of_which_is_killed_give_the_labels_of_one_process(photos, model, tmp_path):
    out = tmp_path / "out"
    options = ("-c", CLASSES, "-m", model, "--regions", "none", "--engine", "ray", "--actors", 2, "--json")
    root = str(Path(corrclip_jax.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": root}
    killer = threading.Thread(target=kill_first_actor, args=(out,), daemon=True)
    killer.start()
    run = subprocess.run(
        command("segment", photos, *options, "-o", out), env=environment, capture_output=True, text=True
    )
    assert run.returncode == 1, run.stderr
    report = json.loads(run.stdout)
    assert (report["photos"], report["done_before"], len(report["failed"])) == (12, 0, 2)
    assert [Path(line.split(" is ")[0]).name for line in sorted(report["failed"])] == ["cut.png", "page.jpg"]
    rows = [row for part in out.glob("*.parquet") for row in pq.read_table(part).to_pylist()]
    assert sorted(row["key"] for row in rows) == sorted(str(photo) for photo in photos.iterdir())
    found = {row["key"]: row for row in rows}
    paths = sorted(str(photo) for photo in photos.glob("[01]*.png"))
    expected = Segmenter(model, regions="none")(paths, ["cat", "grass", ["sky", "cloud"]])
    for path, one in zip(paths, expected, strict=True):
        assert found[path]["error"] is None
        assert np.array_equal(decode_labels(found[path]), one.labels)
    assert not list(out.glob(".*")), "no partial file is left"


def test_what_is_refused(photos, tmp_path, monkeypatch):
    options = ("-c", CLASSES, "-m", "tiny", "-o", tmp_path / "out")
    assert_refused(corrclip("segment", photos, *options, "--actors", 2), "--actors needs --engine ray")
    assert_refused(corrclip("segment", "s3://b/a", *options), "s3://b/a is an address.*--engine ray")
    assert_refused(corrclip("segment", photos, "-c", "a", "-o", "s3://b/out"), "s3://b/out is an address")
    on_ray = (*options, "--engine", "ray")
    files = ("--write", "files")
    assert_refused(
        corrclip("segment", "s3://b/a", *on_ray, *files), "s3://b/a is none: --write parquet takes it"
    )
    assert_refused(corrclip("segment", photos, *on_ray, *files, "--row-labels", "rle"), "for --write parquet")
    assert_refused(corrclip("segment", photos, *on_ray, "--dtype", "auto"), "say nothing of --engine ray")
    assert_refused(corrclip("segment", photos, *on_ray, "--format", "coco"), "--format is for files")
    assert_refused(corrclip("segment", photos, *on_ray, "--regions", photos), "must be a source of regions")
    assert_refused(corrclip("segment", photos, *on_ray, "-o", photos), "holds the images")
    assert_refused(corrclip("segment", tmp_path / "gone", *on_ray), "gone does not exist")
    found = extras.find_spec
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "ray" else found(name))
    assert_refused(corrclip("segment", photos, *on_ray), re.escape("pip install 'corrclip-jax[ray]'"))


@pytest.mark.parametrize(
    ("machines", "actors", "devices", "expected"),
    [
        ([{"CPU": 8}], None, None, "1 actor of 8 CPU"),
        ([{"CPU": 8}], 2, None, "2 actors of 4 CPU"),
        ([{"CPU": 8}, {"CPU": 8}], None, None, "2 actors of 8 CPU"),
        ([{"CPU": 8, "GPU": 4}, {"CPU": 4}], None, None, "4 actors of 1 GPU"),
        ([{"CPU": 8, "GPU": 4}], None, 0.5, "8 actors of 0.5 GPU"),
        ([{"CPU": 8, "TPU": 4}, {"CPU": 8, "TPU": 4}], None, None, "2 actors of 4 TPU"),
        ([{"CPU": 2}], 3, None, "3 actors of 1 CPU each do not fit: the cluster has room for 2"),
        ([{"CPU": 8, "GPU": 1}], 2, None, "2 actors of 1 GPU each do not fit"),
        ([{"CPU": 3, "GPU": 1}], None, 2.0, "actors of 2 GPU each do not fit: the cluster has room for 0"),
    ],
)
def test_devices_are_shared_among_actors(machines, actors, devices, expected, monkeypatch):
    class Ray:
        @staticmethod
        def nodes():
            return [{"Alive": True, "Resources": one} for one in machines] + [
                {"Alive": False, "Resources": {}}
            ]

    monkeypatch.setitem(sys.modules, "ray", Ray)
    if "fit" in expected:
        with pytest.raises(cluster.ClusterError, match=expected):
            cluster.share(actors, devices)
    else:
        assert str(cluster.share(actors, devices)) == expected


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_an_address_where_nothing_answers_is_refused_soon(scheme, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"{scheme}127.0.0.1:{server.getsockname()[1]}"
        cluster._check_answer(address)
    words = f"cannot reach the cluster {address}: .*--address"
    with pytest.raises(cluster.ClusterError, match=words), cluster.cluster(address):
        pass
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:99999")
    with pytest.raises(cluster.ClusterError, match="99999: Port out of range"), cluster.cluster():
        pass


@pytest.mark.parametrize("address", ["auto", "local", "anyscale://a:1"])
def test_other_addresses_are_left_to_ray(address):
    cluster._check_answer(address)


def test_failures_are_named_up_to_a_number(capsys, monkeypatch):
    monkeypatch.setattr(segment_ray, "_NAMED", 2)
    failed = {f"{name}.png": f"{name}.png is damaged." for name in "abc"}
    with pytest.raises(Exception, match="1"):
        segment_ray._report(["d.png"], failed, [], 3, 7, "out")
    text = plain(capsys.readouterr().err)
    assert "1 of 7 photos segmented, 3 done before -> out" in text
    assert "b.png is damaged" in text
    assert "1 more photos failed" in text
    assert "c.png" not in text


def test_an_error_of_ray_is_one_line():
    error = RuntimeError("ray::f()\n  File x\n\nValueError: wrong\n")
    assert cluster.last_line(error) == "RuntimeError: ValueError: wrong"
    assert io.StringIO(cluster.last_line(error)).readlines()[1:] == []
