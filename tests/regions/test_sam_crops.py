"""SAM's crops of photos in a padded batch: they lie where they lie in each photo alone, and find the same."""

from functools import partial

import jax
import numpy as np
import pytest
from small_models import SAM1

from corrclip_jax.config import SAM_AUTOMATIC, Config, with_fields
from corrclip_jax.params.structure import init_params
from corrclip_jax.regions.crop_layout import crop_layers
from corrclip_jax.regions.sam_adapter import sam_adapter
from corrclip_jax.regions.sam_crops import LayerMasks, automatic_masks, regions_from_layers

SETTINGS = with_fields(SAM_AUTOMATIC, crop_layers=2)


@pytest.mark.parametrize("overlap", [512 / 1500, 0.0, 0.7])
def test_boxes_that_are_values_are_those_of_the_photo_alone(overlap):
    settings = with_fields(SETTINGS, crop_overlap=overlap)
    canvas = (1100, 1400)
    rng = np.random.default_rng(0)
    edges = [canvas, (4, 4), (4, 1400), (1100, 5)]
    small, large = rng.integers(4, [80, 120], (80, 2)), rng.integers(4, canvas, (40, 2))
    sizes = np.concatenate([edges, small, large]).astype(np.int32)

    def boxes_of(sides):
        return [layer.boxes for layer in crop_layers(*canvas, settings, sides)]

    found = jax.jit(jax.vmap(boxes_of))(sizes)
    rooms = [layer.shape for layer in crop_layers(*canvas, settings)]
    for index, (height, width) in enumerate(sizes.tolist()):
        layers = crop_layers(height, width, settings)
        for boxes, layer, room in zip(found, layers, rooms, strict=True):
            np.testing.assert_array_equal(boxes[index], layer.boxes)
            assert layer.shape[0] <= room[0]
            assert layer.shape[1] <= room[1]


CANVAS = (121, 163)
SMALL = with_fields(
    SETTINGS,
    iou_threshold=-10.0,  # random weights pass
    stability_threshold=0.5,
    stability_offset=1e-3,
    nms_threshold=1.0,
    multimask=False,
    crop_layers=1,
    points_per_side=4,
    crop_points_downscale=2,
)


def test_masks_of_crops_lie_where_they_lie_in_the_photo_alone():
    settings = with_fields(SMALL, min_area=4)
    sam = sam_adapter(Config(sam1=SAM1, regions=settings), {})
    rng = np.random.default_rng(1)
    x, y = np.meshgrid(*[(np.arange(16) + 0.5) / 16] * 2)
    found = []
    for crops, points in ((1, 16), (4, 4)):
        cx, cy = rng.uniform(0.2, 0.8, (2, crops, points, 1, 1))
        logits = 40 * (np.exp(-(((x - cx) / 0.15) ** 2) - ((y - cy) / 0.2) ** 2) - 0.5)
        iou = rng.uniform(0.5, 1.0, (crops, points))
        found.append(LayerMasks(*map(jax.device_put, (np.float32(logits), np.float32(iou)))))

    def run(side, sides=None):
        layers = crop_layers(*side, settings, sides)
        return regions_from_layers(sam, layers, found, *side, settings)

    on_canvas = jax.jit(partial(run, CANVAS))
    height, width = 112, 102
    regions, facts = jax.tree.map(np.array, on_canvas(np.array([height, width])))
    wanted, wanted_facts = jax.jit(partial(run, (height, width)))()
    assert np.asarray(wanted_facts.keep)[16:].sum() > 3
    np.testing.assert_array_equal(regions[:height, :width], wanted)
    for got, want in zip(facts, wanted_facts, strict=True):
        np.testing.assert_array_equal(got, want)
    regions[:height, :width] = 0
    assert not regions.any()


@pytest.mark.slow
def test_photos_on_one_canvas_have_the_regions_they_have_alone():
    """One is smaller than the canvas both ways, one has less pixels a side than crops, one none."""
    config = Config(sam2=None, sam1=SAM1, regions=SMALL)
    rng = np.random.default_rng(3)
    params = jax.tree.map(
        lambda x: jax.device_put(np.float32(np.asarray(x) + 0.3 * rng.standard_normal(x.shape))),
        init_params(Config(sam2=None, sam1=SAM1))["sam1"],
    )
    sizes = [(112, 102), (3, 1), (0, 0)]
    canvas = np.full((len(sizes), *CANVAS, 3), 77, np.uint8)
    for slot, (height, width) in zip(canvas, sizes, strict=True):
        coarse = rng.integers(0, 256, (16, 21, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
        slot[:height, :width] = coarse[:height, :width]
    run = jax.jit(partial(automatic_masks, config))
    maps, facts, iou = jax.tree.map(np.array, run(params, canvas, np.int32(sizes)))
    wanted_map, wanted, wanted_iou = run(params, canvas[:1, :112, :102])
    assert np.sum(wanted.keep) > 3
    np.testing.assert_array_equal(maps[0, :112, :102], wanted_map[0])
    np.testing.assert_array_equal(facts.keep[0], wanted.keep[0])
    np.testing.assert_array_equal(facts.boxes[0], wanted.boxes[0])
    np.testing.assert_allclose(iou[0], wanted_iou[0], atol=1e-5)
    np.testing.assert_allclose(facts.stability[0], wanted.stability[0], atol=1e-5)
    maps[0, :112, :102], maps[1, :3, :1] = 0, 0
    assert not maps.any()
    assert np.isfinite(iou).all()
