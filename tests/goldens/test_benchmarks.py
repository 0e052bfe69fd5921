"""Benchmarks against what was collected of them: facts, and small trees of real photos."""

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import corrclip
from evaluation_process import label_by_colour
from PIL import Image
from small_models import small_model
from tests_shared import DATA, GOLDENS

from corrclip_jax.cli.runs import evaluate
from corrclip_jax.datasets.benchmarks import benchmarks, open_benchmark, published_miou
from corrclip_jax.datasets.coco import train_ids
from corrclip_jax.evaluation import scorer

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
            raw = np.array(file)
        assert found.shape == image.shape[:2]
        np.testing.assert_array_equal(found, np.array([by_hand(number, name) for number in range(256)])[raw])
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


def recount(folder: Path, name: str) -> np.ndarray:
    """The matrix of kept predictions, from the files alone."""
    assert DATA
    classes = len(benchmarks()[name].classes)
    patterns = {
        "voc20": "VOC2012/SegmentationClass/{}.png",
        "coco_object": "coco/annotations/val2017/{}_instanceTrainIds.png",
        "cityscapes": "cityscapes/gtFine/val/aachen/{}_gtFine_labelTrainIds.png",
        "vaihingen": "vaihingen/ann_dir/val/{}.png",
    }
    matrix = np.zeros((classes, classes + 1), np.int64)
    for path in sorted((folder / "predictions").iterdir()):
        truth = DATA / "benchmarks" / patterns[name].format(path.stem.removesuffix("_leftImg8bit"))
        raw = np.array(Image.open(truth)).astype(int).ravel()
        labels = np.array(Image.open(path)).astype(int).ravel()
        true = raw - (name in ("voc20", "vaihingen"))
        scored = (raw != 255) & (true >= 0)
        np.add.at(matrix, (true[scored], labels[scored]), 1)
    return matrix


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return small_model(tmp_path_factory.mktemp("model"), sam2=False)


@pytest.mark.parametrize(
    ("name", "pictures"), [("voc20", 2), ("coco_object", 2), ("cityscapes", 1), ("vaihingen", 1)]
)
def test_a_benchmark_runs_and_its_report_is_what_its_predictions_give(
    name, pictures, model, tmp_path, monkeypatch
):
    assert DATA
    monkeypatch.setattr(evaluate, "keep_compiled_programs", lambda: None)
    monkeypatch.setattr(scorer, "make_segment", label_by_colour)  # any predictions will do
    command = [
        "evaluate", name, "--data-root", DATA / "benchmarks", "--model", model,
        "--regions", "none", "--count", pictures, "--out", tmp_path / "out", "--predictions",
    ]  # fmt: skip
    found = corrclip(*command)
    assert found.exit_code == 0, found.output
    content = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    matrix = recount(tmp_path / "out", name)
    assert content["pictures"] == pictures
    assert content["confusion"]["pixels"] == matrix.tolist()
    seen = matrix.sum(1) + matrix[:, :-1].sum(0) > 0
    union = matrix.sum(1) + matrix[:, :-1].sum(0) - np.diagonal(matrix)
    iou = np.diagonal(matrix)[seen] / union[seen]
    assert content["mean_iou"] == pytest.approx(iou.mean(), abs=1e-6)
    true = matrix.sum(1) > 0
    accuracy = np.diagonal(matrix)[true] / matrix.sum(1)[true]
    assert content["mean_accuracy"] == pytest.approx(accuracy.mean(), abs=1e-6)
    assert content["pixel_accuracy"] == pytest.approx(np.trace(matrix) / matrix.sum(), abs=1e-6)
    method = content["settings"]["model"]["method"]
    assert {key: method[key] for key in benchmarks()[name].method} == benchmarks()[name].method
