"""What a score leaves out is said: ignored pixels, classes that no image holds, images without a scored pixel."""

import numpy as np
import pytest

from corrclip_jax.datasets.dataset import Dataset, Example
from corrclip_jax.evaluation import report
from corrclip_jax.evaluation.batch_counts import BatchCounts
from corrclip_jax.evaluation.counts import Counts
from corrclip_jax.evaluation.left_out import left_out, sentences

CLASSES = (("grass",), ("sky", "cloud"))


def counted(*maps, classes=CLASSES, ignored=(255,)):
    """A data set of label maps, and its counts where every prediction is right."""
    data = Dataset(
        "toy", classes, len(maps), lambda index: Example(np.zeros((2, 2, 3), np.uint8), maps[index]),
        left_out=ignored,
    )  # fmt: skip
    counts = Counts.empty(len(maps), 1, len(classes))
    for index, labels in enumerate(maps):
        true = np.array([(labels == k).sum() for k in range(len(classes))])
        matrix = np.pad(np.diag(true), ((0, 0), (0, 1))).astype(np.uint32)
        areas = np.stack([true, true, true]).astype(np.uint32)
        counts.add(
            BatchCounts(
                (index,),
                matrix[None],
                np.zeros((1, len(classes)), int),
                areas[None],
                areas,
                labels.size,
                None,
            )
        )
    return data, counts


def said(data, counts):
    return sentences(left_out(data, counts), data.class_names)


def test_nothing_is_said_where_nothing_is_left_out():
    assert said(*counted(np.array([[0, 1], [1, 0]]))) == []


def test_a_mask_of_0_and_255_is_explained():
    lines = said(*counted(np.array([[0, 255], [0, 0]])))
    assert lines[:2] == ["25.0 % of the pixels are left out (255).", "No image holds: sky."]
    assert "as in masks of 0 and 255" in lines[2]


@pytest.mark.parametrize("ignored", [(255,), (0, 255), ()])
def test_an_image_of_which_no_pixel_is_scored_is_named(ignored):
    data, counts = counted(np.array([[255, 255]]), np.array([[0, 1]]), ignored=ignored)
    numbers = f" ({', '.join(map(str, ignored))})" if ignored else ""
    assert said(data, counts) == [
        f"50.0 % of the pixels are left out{numbers}.", "No pixel is scored in 1 images: 0."
    ]  # fmt: skip


def test_all_pixels_left_out_is_no_score():
    data, counts = counted(np.array([[255, 255]]))
    assert said(data, counts)[0] == "All pixels are left out (255)."
    assert report.build(data, counts, {}, None, {})["mean_iou"] is None


def test_many_classes_that_no_image_holds_are_counted():
    classes = tuple((f"class {index}",) for index in range(30))
    [line] = said(*counted(np.array([[0, 3]]), classes=classes))
    assert line.startswith("No image holds: class 1, class 2, class 4")
    assert line.endswith("and 18 more.")


@pytest.mark.parametrize(("ignored", "hinted"), [((255,), True), ((0, 255), False)])
def test_labels_that_never_hold_the_first_number_may_be_numbered_from_1(ignored, hinted):
    lines = said(*counted(np.array([[1, 1]]), ignored=ignored))
    assert "No image holds: grass." in lines
    assert any("--first-id 1" in line for line in lines) == hinted


def test_no_image_at_all_is_said():
    data, _ = counted(np.array([[0, 1]]))
    assert said(data, Counts.empty(1, 1, 2)) == ["No image was counted."]


def test_the_facts_are_in_every_report():
    data, counts = counted(np.array([[0, 255], [0, 0]]))
    settings = {"model": {"name": "m", "dtype": "float32", "regions": {"points_per_side": 8}, "method":
        dict.fromkeys(("resize_short", "window", "stride", "background_threshold"), 1)},
        "weights_sha256": {}}  # fmt: skip
    hardware = dict.fromkeys(("devices", "device", "platform", "processes", "cpu_cores"), 1)
    details = {"settings": settings, "hardware": hardware, "versions": {}, "regions": "none", "bank": None}
    content = report.build(data, counts, {}, None, details)
    assert content["left_out"] == {
        "share_of_pixels": 0.25, "numbers": [255], "classes": ["sky"], "images": [],
    }  # fmt: skip
    assert "25.0 % of the pixels are left out (255)." in report.markdown(content)
    for source in ("sam1", "sam2", "sam2.1-t", "eomt-s", "slic", "/maps/sam2-files"):
        said = dict(report.facts(content | {"regions": source}))["Regions"]
        assert said == (f"{source}, 8 x 8 points" if source in ("sam1", "sam2", "sam2.1-t") else source)


def test_large_vocabularies_are_also_scored_by_the_papers_rule_which_ignores_the_class_255():
    classes = tuple((str(number),) for number in range(300))
    maps = np.array([[3, 3], [255, 255]]), np.array([[3, 7], [7, 65535]])
    data, counts = counted(*maps, classes=classes, ignored=(65535,))
    counts.unscored[0, 3] = 1  # the pixel without class was taken for class 3
    content = report.build(data, counts, {}, None, {})
    assert content["mean_iou"] == 1
    # 3: three of four; 7: all; 255 is nowhere true any more, and predicted at no other pixel.
    assert content["mmsegmentation_mean_iou"] == pytest.approx((3 / 4 + 1) / 2)
    data, counts = counted(*maps, classes=classes, ignored=(255,))
    assert report.build(data, counts, {}, None, {})["mmsegmentation_mean_iou"] is None
