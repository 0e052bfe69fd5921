"""Results as objects of other libraries."""

import sys
import types
import warnings

import numpy as np
import pytest

from corrclip_jax.inference.segmentation import Segmentation
from corrclip_jax.runtime import extras
from corrclip_jax.runtime.extras import MissingExtraError

CLASSES = (("background",), ("cat", "kitten"), ("dog",))


@pytest.fixture
def result():
    labels = np.zeros((4, 6), np.int32)
    labels[1:3, 2:6] = 1
    labels[3, 0] = 2
    chances = np.full((3, 2, 3), 0.25, np.float16)
    return Segmentation(
        np.zeros((4, 6, 3), np.uint8), labels, np.ones((4, 6), np.float32), labels * 7, CLASSES, 0.1, False, None,
        chances,
    )  # fmt: skip


def test_an_array_of_the_labels(result):
    assert np.array_equal(np.asarray(result), result.labels)
    assert np.asarray(result, np.uint8).dtype == np.uint8
    assert np.asarray(result) is result.labels
    assert np.array_equal(np.asarray(result.to_pil()), result.labels)


def test_supervision(result):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it works without OpenCV
        import supervision
    found = result.to_supervision()
    assert isinstance(found, supervision.Detections) and len(found) == 2
    assert found.xyxy.tolist() == [[2, 1, 6, 3], [0, 3, 1, 4]]
    assert np.array_equal(found.mask, [result.mask("cat"), result.mask("dog")])
    assert found.class_id.tolist() == [1, 2] and found.confidence.tolist() == [0.25, 0.25]
    assert found.data["class_name"].tolist() == ["cat", "dog"]
    assert found.data["region"].tolist() == [7, 14]
    assert found.area.tolist() == [8, 1]
    assert len(result.to_supervision("class", background=True)) == 3
    empty = Segmentation(*(getattr(result, name)[:1] for name in ("photo", "labels", "scores", "regions")),
                         CLASSES, 0.1, False)  # fmt: skip
    assert len(empty.to_supervision()) == 0


def test_fiftyone_gets_relative_boxes_and_masks_within_them(result, monkeypatch):
    """FiftyOne brings a database; its label classes are stood in for by their documented fields."""
    fields = types.SimpleNamespace
    monkeypatch.setitem(sys.modules, "fiftyone", types.SimpleNamespace(Detection=fields, Detections=fields))
    monkeypatch.setattr(extras, "find_spec", lambda name: True)
    cat, dog = result.to_fiftyone().detections
    assert cat.label == "cat" and cat.bounding_box == [2 / 6, 1 / 4, 4 / 6, 2 / 4]
    assert cat.mask.shape == (2, 4) and cat.mask.all() and cat.confidence == 0.25
    assert (dog.label, dog.region) == ("dog", 14)


def test_a_missing_library_is_named_with_the_command_that_installs_it(result, monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"python -m pip install supervision\.$"):
        result.to_supervision()
    with pytest.raises(MissingExtraError, match=r"python -m pip install fiftyone\.$"):
        result.to_fiftyone()
