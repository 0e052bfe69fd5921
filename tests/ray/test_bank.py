"""Builds of banks by actors, here in this process: the bank of one process, errors, and what is refused."""

import numpy as np
import pytest
import ray
from bank_process import FakeExtractor
from command_line import assert_refused, corrclip
from PIL import Image

from corrclip_jax.bank.errors import BankError
from corrclip_jax.bank.folder import DESCRIPTION, KEYS, REGIONS, read_images
from corrclip_jax.bank.unfinished import Unfinished
from corrclip_jax.inference import bank, bank_build
from corrclip_jax.ray import bank as on_cluster
from corrclip_jax.ray.cluster import Actors, ClusterError


class Method:
    def __init__(self, function):
        self.function = function

    def remote(self, *arguments):
        return lambda: self.function(*arguments)


class Actor:
    """A handle of an actor that works when its results are asked for."""

    def __init__(self, worker):
        self.worker = worker

    def __getattr__(self, name):
        return Method(getattr(self.worker, name))


class Remote:
    def __init__(self, kind):
        self.kind = kind

    def options(self, **options):
        assert options == {"max_restarts": 3, "max_task_retries": 3, "num_cpus": 1}
        return self

    def remote(self, arguments):
        return Actor(self.kind(arguments))


@pytest.fixture
def actors(monkeypatch):
    """Actors without processes; of several tasks the one that was begun last is done first."""
    seen = []

    def features(model, **options):
        extractor = FakeExtractor(model)
        seen.append(extractor)
        return extractor

    monkeypatch.setattr(ray, "remote", Remote)
    monkeypatch.setattr(ray, "get", lambda task: task())
    monkeypatch.setattr(ray, "wait", lambda tasks: (tasks[-1:], tasks[:-1]))
    monkeypatch.setattr(bank, "bank_features", features)
    return seen


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(70):
        pixels = np.full((8, 8, 3), number, np.uint8)
        pixels[0, 0] = number % 4
        Image.fromarray(pixels).save(folder / f"{number:02d}.png")
    (folder / "09.png").write_bytes((folder / "09.png").read_bytes()[:60])
    return folder


def built(photos, out, extractor):
    return bank_build.build([photos], out, extractor)


def content(out):
    files = (file for name in (KEYS, REGIONS, "values/main") for file in sorted((out / name).rglob("*")))
    return {str(file.relative_to(out)): file.read_bytes() for file in files if file.is_file()}


def test_the_bank_is_that_of_one_process_in_whatever_order_parts_are_done(actors, photos, tmp_path):
    one = built(photos, tmp_path / "one", FakeExtractor("fake"))
    features = on_cluster._ClusterFeatures(Actors(3, 1), {"model": "fake"})
    many = built(photos, tmp_path / "many", features)
    assert (many.added, many.without_regions) == (one.added, one.without_regions)
    assert many.unreadable.keys() == one.unreadable.keys() == {str(photos / "09.png")}
    assert content(tmp_path / "many") == content(tmp_path / "one")
    assert read_images(tmp_path / "many", many.description) == read_images(tmp_path / "one", one.description)
    assert sum(bool(extractor.seen) for extractor in actors) == 3, "each actor has worked"


def test_an_error_leaves_the_parts_that_are_done_and_either_engine_continues(
    actors, photos, tmp_path, monkeypatch
):
    out = tmp_path / "bank"

    def stop(done, total):
        if done > 16:  # more than a part
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bank_build.build(
            [photos], out, on_cluster._ClusterFeatures(Actors(2, 1), {"model": "fake"}), progress=stop
        )
    plan = Unfinished(out).read()
    left = Unfinished(out).todo(plan)
    assert 0 < len(left) < len(plan.parts)
    other = on_cluster._ClusterFeatures(Actors(2, 1), {"model": "other"})
    with pytest.raises(BankError, match="interrupted build with other backbone"):
        built(photos, out, other)
    rest = FakeExtractor("fake")
    built(photos, out, rest)
    assert 0 < len(rest.seen) < 69
    assert (out / DESCRIPTION).is_file()

    def fails(task):
        raise ray.exceptions.RayTaskError("f", "Traceback", BankError("no weights"))

    monkeypatch.setattr(ray, "get", fails)
    with pytest.raises(BankError, match=r"^no weights$"):
        on_cluster._ClusterFeatures(Actors(1, 1), {"model": "fake"})

    def dies(task):
        raise ray.exceptions.RayActorError

    monkeypatch.setattr(ray, "get", dies)
    with pytest.raises(ClusterError, match="Ray gave up: "):
        on_cluster._ClusterFeatures(Actors(1, 1), {"model": "fake"})


def test_options_of_the_command(photos, tmp_path, monkeypatch):
    asked = {}

    def build(images, out, model, **options):
        asked.update(options)
        raise BankError("seen")

    monkeypatch.setattr(on_cluster, "build_bank_on_cluster", build)
    command = ("bank", "build", photos, "--out", tmp_path / "bank", "--model", "tiny-v2")
    assert_refused(corrclip(*command, "--actors", 2), "--actors needs --engine ray")
    assert_refused(corrclip(*command, "--engine", "ray", "--distributed"), "choose one")
    assert_refused(corrclip(*command, "--engine", "ray", "--dtype", "auto"), "say nothing of --engine ray")
    assert_refused(corrclip(*command, "--engine", "ray", "--actors", 2, "--address", "auto"), "seen")
    assert (asked["actors"], asked["address"], asked["devices"]) == (2, "auto", None)
    assert "distributed" not in asked
