"""The automatic mask program against transformers' mask-generation pipeline, on synthetic logits and on a model.

The pipeline's own steps are called (`SamImageProcessorPil`); its last wants torchvision, so NMS is written out.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from parity.test_sam1 import CONFIGS, random_torch_model
from skimage.data import astronaut
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from corrclip_jax.config import SAM_AUTOMATIC, Config, SAM1Config, with_fields
from corrclip_jax.conversion.families import convert_state_dict
from corrclip_jax.models.sam.sam1 import resized_extent
from corrclip_jax.regions.crop_layout import count_masks, crop_layers, layer_points
from corrclip_jax.regions.sam_adapter import sam_adapter
from corrclip_jax.regions.sam_crops import LayerMasks, automatic_masks, regions_from_layers
from corrclip_jax.regions.sources import find_regions, score_regions

SIZE = 128  # the side of the networks' input
SMALL = SAM1Config(image_size=SIZE, width=16, layers=1, heads=1, embed_dim=32)
PROCESSOR = SamImageProcessorPil(size={"longest_edge": SIZE}, pad_size={"height": SIZE, "width": SIZE})
# The pipeline drops a mask whose stability is the threshold exactly, SAM's own program keeps it, as we do: 0.95 is
# met by a share of small numbers of pixels, this is not.
SETTINGS = with_fields(SAM_AUTOMATIC, points_per_side=6, stability_threshold=0.95001)


def greedy(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    """torchvision's NMS: kept indices, the highest score first."""
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        low = np.maximum(boxes[i, :2], boxes[kept, :2])
        shared = np.prod(np.maximum(np.minimum(boxes[i, 2:], boxes[kept, 2:]) - low, 0), axis=1)
        union = area[i] + area[kept] - shared
        if not (shared > np.float32(threshold) * union).any():
            kept.append(int(i))
    return kept


def to_masks(rles: list[dict]) -> np.ndarray:
    masks = []
    for rle in rles:
        ends = np.cumsum(rle["counts"])
        flat = np.searchsorted(ends, np.arange(ends[-1]), side="right") % 2 == 1
        masks.append(flat.reshape(rle["size"][::-1]).T)
    return np.stack(masks)


def pipeline(
    logits: list, iou: list, photo: np.ndarray, settings
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masks, scores and boxes as the pipeline gives them, from [points, K, m, m] logits of each crop."""
    crops, _, images, _ = PROCESSOR.generate_crop_boxes(
        photo, SIZE, settings.crop_layers, settings.crop_overlap, settings.points_per_side
    )
    rles, scores, boxes = [], [], []
    for crop, image, mask, score in zip(crops, images, logits, iou, strict=True):
        sides = image.shape[-2:]
        full = PROCESSOR.post_process_masks(
            [torch.tensor(mask)], [sides], [resized_extent(*sides, image_size=SIZE)], binarize=False
        )
        found = PROCESSOR.filter_masks(
            full[0], torch.tensor(score), photo.shape[:2], crop,
            settings.iou_threshold, settings.stability_threshold,
        )  # fmt: skip
        rles += found[0]
        scores.append(found[1].numpy())
        boxes.append(found[2].numpy())
    scores, boxes = np.concatenate(scores), np.concatenate(boxes).astype(np.float32)
    kept = greedy(boxes, scores, settings.nms_threshold)
    return to_masks(rles)[kept], scores[kept], boxes[kept]


def synthetic(crops: int, points: int, masks: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits [crops, points, masks, 32, 32] of sharp and blurred ellipses, and predicted IoUs."""
    rng = np.random.default_rng(seed)
    shape = (crops, points, masks, 1, 1)
    x, y = np.meshgrid(*[(np.arange(32) + 0.5) / 32] * 2)
    cx, cy, sx, sy = (rng.uniform(low, high, shape) for low, high in [(0, 1)] * 2 + [(0.04, 0.5)] * 2)
    sharpness = rng.choice([4, 60, 120, 400], shape)
    logits = sharpness * (np.exp(-(((x - cx) / sx) ** 2) - ((y - cy) / sy) ** 2) - 0.5)
    return logits.astype(np.float32), rng.uniform(0.84, 1.0, shape[:3]).astype(np.float32)


# Every layout of crops with one mask a point and with three, and with a wide and a tall photo.
LAYOUTS = {
    "wide-one-mask": (96, 150, 0, False),
    "tall-three-masks": (180, 97, 0, True),
    "wide-crops-three-masks": (96, 150, 1, True),
    "tall-crops-one-mask": (180, 97, 1, False),
    "wide-two-layers-one-mask": (96, 150, 2, False),
    "tall-two-layers-three-masks": (180, 97, 2, True),
}


@pytest.mark.parametrize(("height", "width", "crop_layers_", "multimask"), LAYOUTS.values(), ids=LAYOUTS)
def test_the_masks_are_the_pipelines(height, width, crop_layers_, multimask):
    settings = with_fields(SETTINGS, multimask=multimask, crop_layers=crop_layers_)
    photo = np.zeros((height, width, 3), np.uint8)
    layers = crop_layers(height, width, settings)
    logits, iou = synthetic(
        sum(len(layer.boxes) for layer in layers), 36, 3 if multimask else 1, crop_layers_
    )
    masks, scores, boxes = pipeline(list(logits), list(iou), photo, settings)
    assert 3 < len(masks) < logits[..., 0, 0].size / 2

    ends = np.cumsum([len(layer.boxes) for layer in layers])[:-1]
    flat = (x.reshape(len(x), -1, *x.shape[3:]) for x in (logits, iou))
    found = [
        LayerMasks(*map(jnp.asarray, parts)) for parts in zip(*(np.split(x, ends) for x in flat), strict=True)
    ]
    sam = sam_adapter(Config(sam1=SMALL, regions=settings), {})
    run = jax.jit(partial(regions_from_layers, sam, layers, height=height, width=width, config=settings))
    regions, facts = jax.tree.map(np.asarray, run(found=found))

    kept = np.flatnonzero(facts.keep)
    kept = kept[np.argsort(-iou.ravel()[kept], kind="stable")]
    assert len(facts.keep) == count_masks(settings)
    np.testing.assert_array_equal(iou.ravel()[kept], scores)
    np.testing.assert_array_equal(facts.boxes[kept], boxes)
    np.testing.assert_array_equal(facts.areas[kept], masks.sum((1, 2)))
    painted = np.zeros((height, width), int)
    for rank, index in enumerate(sorted(range(len(masks)), key=lambda i: masks[i].sum()), start=1):
        painted[masks[index]] = rank
    np.testing.assert_array_equal(regions, painted)


@pytest.mark.parametrize("crop_layers_", [0, 1, 2])
def test_crops_and_points_are_the_pipelines(crop_layers_):
    photo = np.zeros((93, 151, 3), np.uint8)
    settings = with_fields(SETTINGS, crop_layers=crop_layers_)
    crops, points, _, _ = PROCESSOR.generate_crop_boxes(photo, SIZE, crop_layers_, points_per_crop=6)
    layers = crop_layers(93, 151, settings)
    np.testing.assert_array_equal(np.concatenate([layer.boxes for layer in layers]), crops)
    ours = [layer_points(layer, partial(resized_extent, image_size=SIZE)) for layer in layers]
    np.testing.assert_allclose(np.concatenate(ours), points[0].transpose(0, 1), rtol=1e-6)


def test_fewer_points_in_smaller_crops():
    settings = with_fields(SETTINGS, points_per_side=8, crop_layers=2, crop_points_downscale=2)
    assert [layer.points_per_side for layer in crop_layers(200, 200, settings)] == [8, 4, 2]
    assert count_masks(settings) == 3 * (64 + 4 * 16 + 16 * 4)
    with pytest.raises(ValueError, match=r"crop layer 2 .* with 0 points a side.*crop_points_downscale, 3"):
        crop_layers(200, 200, with_fields(settings, crop_points_downscale=3))


@pytest.fixture(scope="module")
def whole():
    """A small SAM in torch and here, which finds something: thresholds that random weights pass."""
    config = CONFIGS["windows"]
    model = random_torch_model(config)
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    params = jax.device_put(convert_state_dict("sam1", state, config))
    regions = with_fields(
        SETTINGS,
        iou_threshold=-10.0,
        stability_threshold=0.5,
        stability_offset=0.01,
        nms_threshold=1.0,
        crop_layers=1,
        points_per_side=4,
    )
    return model, Config(sam2=None, sam1=config, regions=regions), params


def test_a_model_from_photo_to_regions(whole):
    model, config, params = whole
    side = config.sam1.image_size
    photo = astronaut()[:260:2, :400:2]
    processor = SamImageProcessorPil(size={"longest_edge": side}, pad_size={"height": side, "width": side})
    crops, points, images, labels = processor.generate_crop_boxes(photo, side, 1, points_per_crop=4)
    masks, scores, boxes = [], [], []
    for i, (crop, image) in enumerate(zip(crops, images, strict=True)):
        pixels = processor(images=image, input_data_format="channels_first", return_tensors="pt")
        with torch.no_grad():
            out = model(
                pixel_values=pixels["pixel_values"].float(),
                input_points=points[:, :, i : i + 1].float(),
                input_labels=labels[:, :, i : i + 1],
            )
        full = processor.post_process_masks(
            [out.pred_masks[0]],
            [image.shape[-2:]],
            [pixels["reshaped_input_sizes"][0].tolist()],
            binarize=False,
        )
        found = processor.filter_masks(full[0], out.iou_scores[0], photo.shape[:2], crop, -10.0, 0.5, 0, 0.01)
        masks, scores = masks + found[0], [*scores, found[1].numpy()]
        boxes.append(found[2].numpy())
    scores, boxes = np.concatenate(scores), np.concatenate(boxes).astype(np.float32)
    kept = greedy(boxes, scores, 1.0)
    assert len(kept) > 20
    wanted = to_masks(masks)[kept]
    painted = np.zeros(photo.shape[:2], int)
    for rank, index in enumerate(sorted(range(len(kept)), key=lambda i: wanted[i].sum()), start=1):
        painted[wanted[index]] = rank
    regions, facts, _ = jax.jit(partial(automatic_masks, config))(params, jnp.asarray(photo[None]))
    assert int(facts.keep.sum()) == len(kept)
    assert (np.asarray(regions[0]) == painted).mean() > 0.999


# Of one size without a canvas, and of two sizes.
PHOTOS = np.stack([astronaut()[:90:2, :160:2], astronaut()[200:290:2, 100:260:2]])
MIXED = [PHOTOS[0], astronaut()[200:312:2, 100:202:2]]


@pytest.fixture(scope="module")
def one_layer(whole):
    """Of `PHOTOS`, looked at as a whole: the masks, the source's regions and scores, and those of two regions."""
    _, config, params = whole
    config = with_fields(config, regions={"crop_layers": 0})
    few = with_fields(config, method={"max_regions": 2})

    @jax.jit
    def run(params, photos):
        scored = score_regions(config, {"sam1": params}, photos)
        return automatic_masks(config, params, photos), scored, find_regions(few, {"sam1": params}, photos)

    return config, params, jax.tree.map(np.asarray, run(params, PHOTOS))


def test_the_source_is_this_program_within_its_cap(one_layer):
    config, params, ((wanted, facts, iou), (maps, scores), (regions, cap)) = one_layer
    assert facts.keep.sum(axis=1).min() > 2
    np.testing.assert_array_equal(maps, wanted)
    best = int(np.argmax(np.where(facts.keep[0], iou[0], -np.inf)))
    np.testing.assert_allclose(scores["predicted_iou"][0, facts.rank[0, best]], iou[0, best], rtol=1e-5)
    assert scores["stability_score"].shape == (2, count_masks(config.regions) + 1)
    assert (cap, regions.max()) == (3, 2)
    with pytest.raises(ValueError, match=r"config\.sam1 is None"):
        find_regions(with_fields(config, sam1=None), {"sam1": params}, jax.device_put(PHOTOS))


@pytest.mark.parametrize(
    ("settings", "compared"), [({}, 0), ({"min_area": 2, "multimask": False}, 1)], ids=["", "small masks"]
)
def test_photos_on_one_canvas_have_the_regions_they_have_without_it(one_layer, settings, compared):
    """Without it, one photo is looked at for each of the settings: each size is another program."""
    config, params, (_, (without, _), _) = one_layer
    config = with_fields(config, regions=settings)
    canvas = np.full((3, 60, 80, 3), 77, np.uint8)
    for slot, photo in zip(canvas, MIXED, strict=False):
        slot[: photo.shape[0], : photo.shape[1]] = photo
    sizes = np.array([photo.shape[:2] for photo in MIXED] + [(0, 0)])
    find = partial(jax.jit(partial(find_regions, config)), {"sam1": params})
    together = np.array(find(canvas, sizes)[0])
    for place, (regions, photo) in enumerate(zip(together, MIXED, strict=False)):
        height, width = photo.shape[:2]
        assert len(np.unique(regions[:height, :width])) > 3
        if place == compared:
            wanted = find(photo[None], None)[0][0] if settings else without[0]
            assert (regions[:height, :width] == wanted).mean() > 0.99
        regions[:height, :width] = 0
        assert not regions.any()
    assert not together[2].any()
