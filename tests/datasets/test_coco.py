"""COCO-Stuff's raw maps become the label files of two benchmarks."""

import numpy as np
import pytest
from PIL import Image

from corrclip_jax.datasets.benchmarks import benchmarks
from corrclip_jax.datasets.coco import prepare_file, train_ids
from corrclip_jax.datasets.label_files import LabelError

# COCO's category ids (raw id plus one) of some things and stuff, and their names in our class lists.
SOME = {
    1: "people", 10: "traffic light", 13: "stop sign", 27: "backpack", 44: "bottle", 46: "wine glass",
    67: "dining table", 70: "toilet", 72: "tv", 84: "book", 90: "toothbrush", 92: "banner", 120: "fog",
    123: "furniture-other", 182: "wood",
}  # fmt: skip


def test_category_ids_become_the_classes_of_their_names():
    stuff = [names[0] for names in benchmarks()["coco_stuff"].classes]
    objects = benchmarks()["coco_object"].classes
    for category, name in SOME.items():
        raw = np.array([[category - 1]])
        as_stuff, as_object = (int(train_ids(raw, kind)[0, 0]) for kind in ("coco_stuff", "coco_object"))
        assert stuff[as_stuff].replace(" ", "") == name.replace(" ", "")
        if category > 90:
            assert as_object == 0
        else:
            assert name.replace(" ", "") in [each.replace(" ", "") for each in objects[as_object]]


def test_nothing_is_left_out_of_stuff_and_background_of_objects():
    raw = np.array([[255]])
    assert train_ids(raw, "coco_stuff")[0, 0] == 255
    assert train_ids(raw, "coco_object")[0, 0] == 0


def test_every_class_has_exactly_one_raw_id():
    known = np.array([[id for id in range(182) if id not in (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)]])
    assert sorted(train_ids(known, "coco_stuff").ravel().tolist()) == list(range(171))
    assert np.bincount(train_ids(known, "coco_object").ravel())[1:].tolist() == [1] * 80


@pytest.mark.parametrize("id", [11, 90, 182, 254, 256])
def test_ids_that_coco_stuff_does_not_use_are_refused(id):
    with pytest.raises(ValueError, match=f"raw maps hold no {id}"):
        train_ids(np.array([[0, id]]), "coco_stuff")


def test_files_are_written_once_and_under_the_published_names(tmp_path):
    raw, out = tmp_path / "raw" / "000000000139.png", tmp_path / "out"
    raw.parent.mkdir()
    Image.fromarray(np.array([[0, 181, 255]], np.uint8)).save(raw)
    assert prepare_file(raw, "coco_stuff", out)
    assert not prepare_file(raw, "coco_stuff", out)
    with Image.open(out / "000000000139_labelTrainIds.png") as image:
        assert np.array(image).tolist() == [[0, 170, 255]]
    assert prepare_file(raw, "coco_object", out)
    with Image.open(out / "000000000139_instanceTrainIds.png") as image:
        assert np.array(image).tolist() == [[1, 0, 0]]
    Image.fromarray(np.array([[200]], np.uint8)).save(raw)
    with pytest.raises(LabelError, match=r"000000000139\.png: COCO-Stuff's raw maps hold no 200"):
        prepare_file(raw, "coco_stuff", tmp_path / "new")
