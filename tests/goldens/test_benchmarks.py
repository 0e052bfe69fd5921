"""Benchmarks against what was collected of them: facts, and small trees of real photos."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests_shared import DATA, GOLDENS

from corrclip_jax.datasets.benchmarks import benchmarks, open_benchmark, published_miou
from corrclip_jax.datasets.coco import train_ids

assert DATA
assert GOLDENS
FACTS = json.loads((GOLDENS.parent / "facts" / "benchmarks.json").read_text("utf-8"))


def test_the_table_says_what_the_collected_facts_say():
    for name, fact in FACTS["benchmarks"].items():
        entry = benchmarks()[name]
        assert [list(names) for names in entry.classes] == [
            [" ".join(each.split()) for each in names] for names in fact["classes"]
        ]
        assert entry.method == {key: fact[key] for key in entry.method}
        assert len(entry.method) == 5
        assert (entry.first_id, entry.ignored) == (
            fact["ground_truth_ids_start_at_one"],
            fact["ignore_index"],
        )
    for setting, scores in FACTS["published_miou"].items():
        model, source, *points = setting.split()
        side = int(points[0].split("x")[0]) if points else None
        for name in benchmarks():
            assert published_miou(name, model, source, side) == scores.get(name)


def by_hand(raw: int, name: str) -> int:
    """The class of one number in a label file."""
    if raw == 255 or (raw == 0 and name in ("voc20", "ade20k", "loveda", "vaihingen", "potsdam")):
        return -1
    return raw - (name in ("voc20", "ade20k", "loveda", "vaihingen", "potsdam"))


@pytest.mark.parametrize(
    ("name", "count", "labels"),
    [
        ("voc21", 3, "VOC2012/SegmentationClass/{}.png"),
        ("voc20", 3, "VOC2012/SegmentationClass/{}.png"),
        ("ade20k", 3, "ADEChallengeData2016/annotations/validation/{}.png"),
        ("coco_stuff", 8, "coco/annotations/val2017/{}_labelTrainIds.png"),
        ("coco_object", 8, "coco/annotations/val2017/{}_instanceTrainIds.png"),
        ("cityscapes", 2, "cityscapes/gtFine/val/aachen/{}_gtFine_labelTrainIds.png"),
        ("loveda", 3, "LoveDA/ann_dir/val/{}.png"),
        ("vaihingen", 1, "vaihingen/ann_dir/val/{}.png"),
        ("potsdam", 1, "potsdam/ann_dir/val/{}.png"),
    ],
)
def test_the_real_trees_give_the_class_of_every_pixel(name, count, labels):
    data = open_benchmark(name, DATA / "benchmarks")
    assert data.count == count
    assert "this score is no benchmark score" in data.about
    for index in range(count):
        image, found, _ = data.example(index)
        stem = data.stem(index).removesuffix("_leftImg8bit")
        with Image.open(DATA / "benchmarks" / labels.format(stem)) as file:
            raw = np.array(file).ravel().tolist()
        assert found.shape == image.shape[:2]
        assert found.ravel().tolist() == [by_hand(number, name) for number in raw]
        assert (found >= 0).mean() > 0.15


def test_published_label_files_come_from_their_raw_maps():
    """Raw maps, made back from COCO-Stuff's published label files, give COCO-Object's published ones."""
    used = [id for id in range(182) if id not in (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)]
    back = np.array([*used, *[255] * 85], np.uint8)
    published = sorted((DATA / "benchmarks/coco/annotations/val2017").glob("*_labelTrainIds.png"))
    assert len(published) == 8
    for path in published:
        labels = np.array(Image.open(path))
        raw = back[labels]
        np.testing.assert_array_equal(train_ids(raw, "coco_stuff"), labels)
        objects = Path(str(path).replace("_labelTrainIds", "_instanceTrainIds"))
        np.testing.assert_array_equal(train_ids(raw, "coco_object"), np.array(Image.open(objects)))
