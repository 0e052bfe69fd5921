"""Our window step and whole segmentation against the torch reference, on region maps and sizes of every kind."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest
import reference
import torch
from near_ties import near_ties
from parity.pairs import CLIPSize, DINOSize, assert_close, make_pair
from parity.region_maps import KINDS, PADDING, photo_like

from corrclip_jax.config import MethodConfig
from corrclip_jax.method.branches import window_step
from corrclip_jax.method.segment import make_segment
from corrclip_jax.text.embedding import TextEmbedding

# Sizes of the towers, window, kinds of region maps. Among them: a whole window; multiples of 56 that a patch of 16
# does not divide; as many tokens as the native square on another grid; the published depth's own spatial blocks.
CASES = {
    "b16-b8-336x336": (CLIPSize(layers=6), DINOSize(), (336, 336), ("none", "holes")),
    "l14-b8-112x168": (CLIPSize(layers=7, patch_size=14, quick_gelu=False), DINOSize(), (112, 168), KINDS),
    "b16-b16-56x280": (CLIPSize(layers=5, head_width=32), DINOSize(patch_size=16), (56, 280), KINDS),
    "l14-b8-56x224-same-count": (
        CLIPSize(layers=5, patch_size=14, image_size=112),
        DINOSize(layers=2, image_size=112),
        (56, 224),
        KINDS,
    ),
    "b16-b16-168x112-deep": (
        CLIPSize(layers=12, heads=2),
        DINOSize(layers=2, patch_size=16),
        (168, 112),
        KINDS,
    ),
}


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """A pair, and by kind of region map its pixels, its regions and what our window step makes of them."""
    clip, dino, size, kinds = CASES[request.param]
    pair = make_pair(clip, dino, tmp_path_factory.mktemp(request.param))
    maps = np.stack([KINDS[kind](*size) for kind in kinds])
    pixels = np.where(maps[..., None] == PADDING, 0, photo_like(*size)).astype(np.float32)
    cap = max(len(np.unique(regions)) for regions in maps)
    step = partial(jax.jit(window_step, static_argnums=(0, 4)), pair.config, pair.params)
    ours = jax.tree.map(np.asarray, step(pixels, np.int32(maps), cap))
    windows = [jax.tree.map(lambda x, i=i: np.asarray(x[i]), (pixels, maps, ours)) for i in range(len(maps))]
    return pair, dict(zip(kinds, windows, strict=True))


def test_window_step(case):
    pair, windows = case
    for kind, (pixels, regions, ours) in windows.items():
        window = torch.from_numpy(pixels).permute(2, 0, 1)
        theirs = reference.window_features(pair.clip, pair.dino, window, torch.from_numpy(regions))
        cells = theirs["merged"].numel()
        wanted = theirs["dino_features"].reshape(cells, -1)
        assert_close(f"{kind}: DINO features", ours.similarity_features.reshape(cells, -1), wanted, 1e-5)

        merged = theirs["merged"].flatten().numpy()
        regions = ours.regions.flatten()
        np.testing.assert_array_equal(first_cells(regions), first_cells(merged), f"{kind}: merging")
        np.testing.assert_array_equal(regions == 0, merged == merged.min(), f"{kind}: the rest")

        ties = near_ties(theirs["similarity"], merged)
        assert ties.mean() < 0.05
        assert_close(f"{kind}: attention", ours.attention[~ties], theirs["attention"][~ties])
        wanted = theirs["features"].reshape(cells, -1)
        assert_close(f"{kind}: features", ours.features[~ties], wanted[~ties])
        assert_close(f"{kind}: features where similarities tie", ours.features, wanted, 1e-2)


def test_window_step_in_bfloat16_stays_near(tmp_path):
    clip, dino, size, _ = CASES["b16-b16-56x280"]
    pair = make_pair(clip, dino, tmp_path)
    pixels, regions = photo_like(*size), KINDS["holes"](*size)
    config = dataclasses.replace(pair.config, dtype="bfloat16")
    step = jax.jit(window_step, static_argnums=(0, 4))
    ours = step(config, pair.params, pixels[None], np.int32(regions[None]), 30).features[0]
    theirs = reference.window_features(
        pair.clip, pair.dino, torch.from_numpy(pixels).permute(2, 0, 1), torch.from_numpy(regions)
    )
    wanted = theirs["features"].flatten(0, 1).numpy()
    assert np.median((unit(np.asarray(ours)) * unit(wanted)).sum(-1)) > 0.99


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def first_cells(ids: np.ndarray) -> np.ndarray:
    """For every cell the first cell of its region: equal for two maps that differ in their ids alone."""
    _, first, inverse = np.unique(ids, return_index=True, return_inverse=True)
    return first[inverse]


# --- whole photos ---

SMALL = {"resize_short": 112, "resize_long": 512, "window": 112, "stride": 56}
PHOTOS = {
    "two whole windows": (120, 160, {}),
    "one pixel": (1, 1, SMALL),
    "strip narrower than a window": (40, 1000, SMALL),
    "tower narrower than a patch": (400, 9, SMALL),
    "portrait with a background": (130, 90, {**SMALL, "background_threshold": 0.7}),
}
QUERY_TO_CLASS = np.array([0, 0, 1, 2, 2, 2, 3])


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return make_pair(CLIPSize(layers=5), DINOSize(layers=2), tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def queries(pair):
    """Queries that tell cells apart: what some cells have that the mean cell has not."""
    window = torch.from_numpy(photo_like(112, 112, seed=5)).permute(2, 0, 1)
    features = reference.window_features(
        pair.clip, pair.dino, window, torch.zeros(112, 112, dtype=torch.int64)
    )
    cells = features["features"].flatten(0, 1).numpy()
    cells = unit(cells) - unit(cells).mean(0)
    return unit(cells[np.random.default_rng(0).choice(len(cells), len(QUERY_TO_CLASS), replace=False)])


@pytest.mark.parametrize("name", PHOTOS)
def test_segment(pair, queries, name):
    height, width, changes = PHOTOS[name]
    image = np.clip(120 + 50 * photo_like(height, width), 0, 255).astype(np.uint8)
    kinds = ("holes", "none", "sparse_ids") if changes else ("holes",)  # torch takes long for whole windows
    maps = np.stack([KINDS[kind](height, width) for kind in kinds])
    text = TextEmbedding(jax.device_put(queries), jax.device_put(np.int32(QUERY_TO_CLASS)), 4)
    config = dataclasses.replace(pair.config, method=MethodConfig(**changes, max_regions=30))
    images = np.broadcast_to(image, (len(maps), *image.shape))
    ours = jax.jit(make_segment(config))(pair.params, images, text, regions=np.int32(maps))
    labels, scores = np.asarray(ours.labels), np.asarray(ours.scores)
    for index, regions in enumerate(maps):
        theirs = reference.segment(
            pair.clip,
            pair.dino,
            torch.from_numpy(image),
            torch.from_numpy(regions),
            torch.from_numpy(queries),
            torch.from_numpy(QUERY_TO_CLASS),
            reference.Settings(**changes),
        )
        assert (labels[index] == theirs["labels"].numpy()).mean() >= 0.999
        error = np.abs(scores[index] - theirs["scores"].numpy())
        # Similarities that tie with their mean move the logits of a few cells.
        assert np.quantile(error, 0.99) <= 1e-4
        assert error.max() <= 1e-2
