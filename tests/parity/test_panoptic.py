"""Queries to regions, and photos to their networks' input, as transformers' image processors do it."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers.image_transforms import get_size_with_aspect_ratio
from transformers.models.eomt.image_processing_pil_eomt import EomtImageProcessorPil
from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil

from corrclip_jax.config import PanopticConfig
from corrclip_jax.regions.panoptic import find_segments
from corrclip_jax.regions.panoptic_adapter import QueryNetworkAdapter, eomt_resized_extent, preprocess

SIZE, QUERIES, CLASSES = 64, 12, 4
SIDES = {"eomt": SIZE // 4, "mask2former": 24}
PROCESSORS = {
    "eomt": EomtImageProcessorPil(size={"shortest_edge": SIZE, "longest_edge": SIZE}, do_pad=True),
    "mask2former": Mask2FormerImageProcessorPil(size={"height": SIZE, "width": SIZE}),
}
# Wide, square, high, narrow; one that is not resized; one whose longer side becomes 63.
PHOTOS = [(60, 90), (64, 64), (131, 40), (9, 120), (48, 64), (30, 55)]
CANVAS = (131, 120)


def net_of(source: str) -> QueryNetworkAdapter:
    """What the post-processing asks of a network, without one."""
    if source == "eomt":
        return QueryNetworkAdapter(
            SIZE, partial(eomt_resized_extent, image_size=SIZE), lambda x: None, 0.8, SIZE, False
        )
    return QueryNetworkAdapter(SIZE, lambda height, width: (SIZE, SIZE), lambda x: None, 0.5, 384, True)


def logits(source: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Classes and masks as models give them: smooth shapes, some on top of others; scores from low to high."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: SIDES[source], : SIDES[source]] / SIDES[source]
    centre, radius = rng.random((2, QUERIES, 1, 1)), rng.uniform(0.1, 0.3, (QUERIES, 1, 1))
    distance = np.hypot(y - centre[0], (x - centre[1]) * rng.uniform(0.5, 2, (QUERIES, 1, 1)))
    masks = 60 * (radius - distance) + rng.standard_normal((QUERIES, *y.shape))
    classes = rng.standard_normal((QUERIES, CLASSES + 1))
    classes[np.arange(QUERIES), rng.integers(0, CLASSES, QUERIES)] += rng.uniform(2, 9, QUERIES)
    classes[0, CLASSES] += 20
    return classes.astype(np.float32), masks.astype(np.float32)


def published(source: str, classes, masks, size, fuse) -> np.ndarray:
    """The processor's map, its ids as ours: from 1, and 0 for no region."""
    outputs = SimpleNamespace(
        class_queries_logits=torch.tensor(classes)[None], masks_queries_logits=torch.tensor(masks)[None]
    )
    process = PROCESSORS[source].post_process_panoptic_segmentation
    if source == "eomt":
        found = process(outputs, target_sizes=[size], stuff_classes=list(fuse))
        return found[0]["segmentation"].numpy().astype(int) + 1
    found = process(outputs, target_sizes=[size], label_ids_to_fuse=set(fuse))
    return np.maximum(found[0]["segmentation"].numpy().astype(int), 0)


@pytest.mark.parametrize("fuse", [(), (1, 2)], ids=["", "fused"])
@pytest.mark.parametrize("source", PROCESSORS)
def test_regions_are_the_published_ones(source, fuse):
    """Alone with sizes known beforehand, and mapped over photos of sizes that are values, on one canvas."""
    config, net = PanopticConfig(fuse=fuse), net_of(source)
    classes, masks = (
        np.stack(x) for x in zip(*map(partial(logits, source), range(len(PHOTOS))), strict=True)
    )

    def on_canvas(classes, masks, sides):
        return find_segments(net, classes, masks, *CANVAS, config, sides)

    together = jax.jit(jax.vmap(on_canvas))(classes, masks, jnp.array(PHOTOS))
    ids = []
    for index, (height, width) in enumerate(PHOTOS):
        wanted = published(source, classes[index], masks[index], (height, width), fuse)
        ours = np.asarray(together.regions[index])
        assert np.mean(ours[:height, :width] == wanted) > 0.999
        assert not ours[height:].any()
        assert not ours[:, width:].any()
        ids.append(wanted.max())
    assert max(ids) >= 4
    assert min(ids) < max(ids)
    height, width = PHOTOS[0]
    alone = jax.jit(partial(find_segments, net, height=height, width=width, config=config))(
        classes[0], masks[0]
    )
    assert np.mean(np.asarray(alone.regions) == np.asarray(together.regions[0, :height, :width])) > 0.999
    np.testing.assert_array_equal(alone.ids, together.ids[0])


@pytest.mark.parametrize("source", PROCESSORS)
def test_what_decides_at_the_edge(source):
    """A share must exceed its threshold; a query of low score, or whose best class is "nothing", is not there."""
    masks = np.full((3, SIDES[source], SIDES[source]), -30, np.float32)
    masks[0, :, :] = 30
    masks[1, : SIDES[source] // 2] = 31
    masks[2] = 40
    classes = np.zeros((3, CLASSES + 1), np.float32)
    classes[0, 1], classes[1, 2], classes[2, CLASSES] = 8, 9, 10
    for share, there in ((0.5, False), (0.4999, True)):
        config = PanopticConfig(overlap_threshold=share)
        found = find_segments(net_of(source), jnp.asarray(classes), jnp.asarray(masks), SIZE, SIZE, config)
        assert (np.asarray(found.ids) == [there, 1 + there, 0]).all()
        expected = np.zeros((SIZE, SIZE), int)
        expected[: SIZE // 2], expected[SIZE // 2 :] = 1 + there, there
        assert (np.asarray(found.regions) == expected).mean() > 0.9
    strict = PanopticConfig(threshold=0.9999)
    assert not find_segments(
        net_of(source), jnp.asarray(classes), jnp.asarray(masks), SIZE, SIZE, strict
    ).ids.any()


@pytest.mark.parametrize("size", [64, 640, 1280])
def test_the_sides_in_eomts_input_are_the_published_ones(size):
    """Known beforehand or values: halves, a float that falls one pixel short, photos that are left as they are."""
    rng = np.random.default_rng(0)
    photos = np.concatenate([rng.integers(1, 2100, (3000, 2)), rng.integers(1, 60, (500, 2)), PHOTOS])
    static = np.array([eomt_resized_extent(*map(int, photo), size) for photo in photos])
    traced = jax.jit(jax.vmap(lambda x: jnp.stack(eomt_resized_extent(x[0], x[1], size))))(
        jnp.asarray(photos)
    )
    np.testing.assert_array_equal(traced, static)
    wanted = np.array([get_size_with_aspect_ratio(tuple(map(int, photo)), size, size) for photo in photos])
    works = (wanted.min(axis=1) > 0) & (wanted.max(axis=1) <= size)
    np.testing.assert_array_equal(static[works], wanted[works])
    assert (static.max(axis=1) == size - 1).mean() > 0.01
    assert static.min() >= 1
    assert static.max() <= size


@pytest.mark.parametrize("source", PROCESSORS)
def test_inputs_are_the_published_ones(source):
    rng, net = np.random.default_rng(0), net_of(source)
    canvas = rng.integers(0, 256, (len(PHOTOS), *CANVAS, 3), dtype=np.uint8)
    on_canvas = jax.jit(jax.vmap(lambda image, sides: preprocess(net, image[None], sides)[0]))
    together = np.asarray(on_canvas(canvas, jnp.array(PHOTOS)))
    for index, (height, width) in enumerate(PHOTOS):
        photo = canvas[index, :height, :width]
        wanted = PROCESSORS[source](images=photo, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)
        levels = np.abs(together[index] - wanted) * 255 * 0.225
        assert levels.max() < 1.1  # one grey level, and that only where Pillow's fixed point lies between two
        if height <= width:  # Pillow 13 takes tall photos rows first, and rounds in between
            assert (levels > 0.01).mean() < 0.02
    height, width = PHOTOS[2]
    alone = preprocess(net, jnp.asarray(canvas[2:3, :height, :width]))[0]
    assert np.abs(np.asarray(alone) - together[2]).max() < 1e-5
