"""Answers of the web page without Gradio: views, files, messages."""

import base64
import io
import json
import threading

import jax
import numpy as np
import pytest
from brightness_models import BrightnessModels
from fake_segmenter import FakeSegmenter
from PIL import Image

from corrclip_jax.app import models
from corrclip_jax.app.answers import Question, answer
from corrclip_jax.app.models import LoadedModels, choices
from corrclip_jax.app.view import LONGEST, packed_map, view_of
from corrclip_jax.config import Config
from corrclip_jax.hub.embedded import EMBEDDED_FOLDER
from corrclip_jax.hub.presets import PRESETS, available_models
from corrclip_jax.inference.segmentation import Segmentation


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "half dark.png"
    Image.fromarray(np.repeat(np.uint8([[40, 220]]), 32, 1).repeat(48, 0)).save(path)
    return path


def opened(uri):
    return Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


def test_an_answer_has_a_view_and_files_that_other_programs_read(photo, tmp_path):
    said = []
    found = answer(
        Question([photo], "night; dark, day", "tiny"), BrightnessModels(), tmp_path / "out", said.append
    )
    (view,) = found.views
    assert [one["name"] for one in view["classes"]] == ["night", "day"]
    assert [one["share"] for one in view["classes"]] == [0.5, 0.5]
    assert (view["width"], view["height"]) == opened(view["photo"]).size == (64, 48)
    packed = np.asarray(opened(view["map"]))
    assert packed[0, 0].tolist() == [0, 0, 40] and packed[0, -1].tolist() == [1, 0, 220]
    files = {path.name: path for path in found.files}
    assert list(files) == [
        "classes.json", "half dark.png", "instances_default.json", "labelling_config.xml", "tasks.json",
    ]  # fmt: skip
    assert np.asarray(Image.open(files["half dark.png"]))[0, [0, -1]].tolist() == [0, 1]
    assert len(json.loads(files["instances_default.json"].read_text())["annotations"]) == 2
    assert len(json.loads(files["tasks.json"].read_text())[0]["predictions"][0]["result"]) == 2
    assert said[0] == "Loading tiny" and len(said) == 3


def test_photos_are_labelled_together_and_bad_ones_named(photo, tmp_path):
    """Two photos have the same name, as of two cameras."""
    other = tmp_path / "other" / photo.name
    other.parent.mkdir()
    Image.fromarray(np.full((20, 30), 220, np.uint8)).save(other)
    (text := tmp_path / "text.png").write_text("only text\n" * 9)
    said = []
    question = Question([photo, text, other], "night, day", "tiny")
    found = answer(question, BrightnessModels(), tmp_path / "out", said.append)
    assert [(one["name"], one["width"]) for one in found.views] == [(photo.name, 64), (f"2 {photo.name}", 30)]
    assert len(found.failed) == 1 and found.failed[0].startswith("text.png is not an image")
    assert "Labelling 3 of 3" in said[-2]
    files = {path.name: path for path in found.files}
    assert {photo.name, f"2 {photo.name}"} < files.keys()
    coco = json.loads(files["instances_default.json"].read_text())
    assert [(one["file_name"], one["width"]) for one in coco["images"]] == [
        (photo.name, 64),
        (f"2 {photo.name}", 30),
    ]
    tasks = json.loads(files["tasks.json"].read_text())
    assert [one["data"]["image"].rpartition("=")[2] for one in tasks] == [
        "photos/half%20dark.png",
        "photos/2%20half%20dark.png",
    ]


def test_too_many_photos_are_refused(photo, tmp_path):
    with pytest.raises(ValueError, match=r"at most 20 photos at once\. Got 21"):
        answer(Question([photo] * 21, "night, day", "tiny"), BrightnessModels(), tmp_path / "out")


def test_a_model_is_prepared_once_and_questions_wait_for_it(photo, monkeypatch):
    begun, end, said = threading.Event(), threading.Event(), []

    class Slow(FakeSegmenter):
        def __call__(self, photo, classes):
            begun.set()
            assert end.wait(10)

    monkeypatch.setattr(models, "load", lambda name: (Config(name=name), {}))
    monkeypatch.setattr(models, "Segmenter", lambda model, **settings: Slow(model))
    of = LoadedModels()
    work = threading.Thread(target=of.prepare, args=("a", photo, "night, day"))
    work.start()
    assert begun.wait(10) and of.preparing == "a"
    asking = threading.Thread(target=lambda: said.append(of(Question([], "", "a"), said.append)))
    asking.start()
    asking.join(0.2)
    assert said == ["Waiting until a is compiled"]
    end.set()
    asking.join(10)
    work.join(10)
    assert of.preparing is None and len(said) == 2  # the model was not loaded again


def test_the_view_of_a_large_photo_is_smaller_and_keeps_its_labels():
    labels = np.repeat(np.arange(300, dtype=np.int32), 10)[None].repeat(2, 0)
    names = tuple((f"class {n}",) for n in range(300))
    photo = np.zeros((*labels.shape, 3), np.uint8)
    view = view_of(Segmentation(photo, labels, np.ones(labels.shape, np.float32), labels, names, 0.1, False))
    assert (view["width"], view["height"]) == (LONGEST, 1)
    packed = np.asarray(opened(view["map"])).astype(int)
    assert np.unique(packed[..., 0] + 256 * packed[..., 1]).tolist() == list(range(300))
    assert (packed[..., 2] == 255).all()


def test_the_map_rounds_probabilities_and_holds_labels_over_255():
    packed = packed_map(np.int32([[3, 259]]), np.float32([[0.5, 1.5]]))
    assert packed.tolist() == [[[3, 0, 128], [3, 1, 255]]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no photo yet"),
        (b"", "photo.png is an empty file"),
        (b"only text\n" * 9, "photo.png is not an image of a known kind"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "photo.png"),
    ],
)
def test_a_file_that_is_no_photo_is_named_as_the_user_knows_it(content, message, tmp_path):
    path = None if content is None else tmp_path / "photo.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as raised:
        photos = [] if path is None else [path]
        answer(Question(photos, "cat, dog", "tiny"), BrightnessModels(), tmp_path / "out")
    assert str(tmp_path) not in str(raised.value)


def test_a_photo_of_too_many_pixels_is_refused_by_its_header(tmp_path):
    Image.new("1", (10_000, 10_000)).save(path := tmp_path / "huge.png")
    with pytest.raises(
        ValueError, match=r"huge\.png has 10000 x 10000 pixels\. This page takes 25 megapixels"
    ):
        answer(Question([path], "cat, dog", "tiny"), BrightnessModels(), tmp_path / "out")


@pytest.mark.parametrize(
    ("classes", "message"),
    [("", "no classes"), ("cat, cat", "keep one"), (", ".join(map(str, range(1001))), "at most 1,000")],
)
def test_unusable_classes_are_explained(classes, message, photo, tmp_path):
    with pytest.raises(ValueError, match=message):
        answer(Question([photo], classes, "tiny"), BrightnessModels(), tmp_path / "out")


def test_a_photo_too_large_for_the_memory_is_said_and_other_faults_are_not_hidden(photo, tmp_path):
    def failing(error):
        def label(photo, classes):
            raise error

        return lambda question, say: label

    question = Question([photo], "cat, dog", "tiny")
    with pytest.raises(ValueError, match="half dark"):
        answer(
            question,
            failing(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")),
            tmp_path / "out",
        )
    with pytest.raises(ZeroDivisionError):
        answer(question, failing(ZeroDivisionError()), tmp_path / "out")


def test_models_are_loaded_once_for_all_settings_and_the_last_one_is_kept(monkeypatch):
    loaded, made = [], []

    def load(name):
        loaded.append(name)
        return Config(name=name), {}

    def segmenter(model, **settings):
        made.append((model[0].name, *settings.values()))
        return FakeSegmenter(model)

    monkeypatch.setattr(models, "load", load)
    monkeypatch.setattr(models, "Segmenter", segmenter)
    of = LoadedModels()
    first = of(Question([], "", "a"), str)
    assert of(Question([], "", "a"), str) is first
    of(Question([], "", "a", threshold=0.3), str)
    of(Question([], "", "b", points=16), str)
    assert loaded == ["a", "b"]
    assert made == [("a", 0.0, 8), ("a", 0.3, 8), ("b", 0.0, 16)]


def test_the_embedded_models_come_last_and_a_given_model_first(tmp_path, monkeypatch):
    monkeypatch.setenv("CORRCLIP_HOME", str(tmp_path))
    assert choices() == ["tiny", "tiny-v2"]
    converted = [model._replace(converted=True) for model in available_models()]
    monkeypatch.setattr(models, "available_models", lambda: converted)
    assert choices() == [*PRESETS, "tiny", "tiny-v2"]
    assert choices(str(EMBEDDED_FOLDER))[0] == str(EMBEDDED_FOLDER)
    assert choices("tiny")[0] == "tiny" and choices("tiny").count("tiny") == 1
