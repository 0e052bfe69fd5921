"""SLIC: against NumPy by the book and scikit-image's, and what holds of every result."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage
from skimage.color import rgb2lab
from skimage.measure import label as pieces_of
from skimage.segmentation import slic

from corrclip_jax.config import SLICConfig
from corrclip_jax.datasets.scenes.generate import val_scene
from corrclip_jax.regions.components import components
from corrclip_jax.regions.slic import _plan, cielab, superpixels


@functools.cache
def program(config):
    return jax.jit(functools.partial(superpixels, config))


def run(images, sizes=None, **settings):
    return np.asarray(program(SLICConfig(**settings))(images, sizes))


connected = jax.jit(components, static_argnums=1)


def textured(height, width, seed=0):
    """Coarse patches under noise: many islands to merge."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 200, (-(-height // 12), -(-width // 15), 3)).repeat(12, 0).repeat(15, 1)
    return (coarse[:height, :width] + rng.integers(0, 56, (height, width, 3))).astype(np.uint8)


def three_colours():
    image = np.zeros((48, 64, 3), np.uint8)
    image[:20, :37], image[20:, :37], image[20:, 37:] = (200, 30, 30), (30, 200, 30), (30, 30, 200)
    return image


CANVAS = (97, 96)
IMAGES = {
    "wide": textured(60, 90),
    "tall": textured(97, 31, 1),
    "row": textured(1, 40, 2),
    "column": textured(40, 1, 3),
    "noise": np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8),
    "flat": np.full((40, 60, 3), 77, np.uint8),
    "three colours": three_colours(),
    "canvas": textured(*CANVAS, 4),
}


def run_on_canvas(names, **settings):
    """The maps [H, W] of these images side by side in a padded batch, on a canvas of noise; one program each."""
    canvas = np.random.default_rng(1).integers(0, 256, (len(names), *CANVAS, 3), dtype=np.uint8)
    for slot, name in zip(canvas, names, strict=True):
        height, width = IMAGES[name].shape[:2]
        slot[:height, :width] = IMAGES[name]
    sizes = [IMAGES[name].shape[:2] for name in names]
    return dict(zip(names, run(canvas, np.int32(sizes), **settings), strict=True))


@functools.cache
def superpixels_of_all(**settings):
    """The superpixels of each of `IMAGES`, without the canvas."""
    found = run_on_canvas(IMAGES, **settings)
    return {name: maps[tuple(map(slice, IMAGES[name].shape[:2]))] for name, maps in found.items()}


def by_the_book(image, segments, compactness, iterations):
    """Clusters before islands are merged, pixel by pixel over the nine cells around, in double precision."""
    height, width = image.shape[:2]
    side = next(s for s in range(1, max(height, width) + 1) if -(-height // s) * -(-width // s) <= segments)
    sy, sx = -(-height // -(-height // side)), -(-width // -(-width // side))
    ny, nx = -(-height // sy), -(-width // sx)
    y, x = np.mgrid[:height, :width]
    weight = compactness * np.sqrt(ny * nx / (height * width))
    points = np.concatenate([rgb2lab(image), weight * np.stack([y, x], -1)], -1).reshape(-1, 5)
    row, column = (y // sy).ravel(), (x // sx).ravel()
    labels = row * nx + column
    for _ in range(iterations + 1):
        counts = np.bincount(labels, minlength=ny * nx)
        sums = np.stack([np.bincount(labels, points[:, i], ny * nx) for i in range(5)], -1)
        centres = sums / np.maximum(counts, 1)[:, None]
        distance = ((points[:, None] - centres) ** 2).sum(-1)
        far = (abs(np.arange(ny * nx) // nx - row[:, None]) > 1) | (
            abs(np.arange(ny * nx) % nx - column[:, None]) > 1
        )
        labels = np.where(far, np.inf, distance).argmin(1)
    return labels.reshape(height, width) + 1


def test_colours_are_cielab():
    image = np.random.default_rng(0).integers(0, 256, (9, 500, 3), dtype=np.uint8)
    np.testing.assert_allclose(jax.jit(cielab)(image), rgb2lab(image), atol=2e-4)


def test_the_clusters_are_those_of_the_method_by_the_book(monkeypatch):
    from corrclip_jax.regions import slic as module

    image = textured(60, 90)
    monkeypatch.setattr(module, "_connect", lambda labels, *_: labels)
    got = np.asarray(superpixels(SLICConfig(segments=24), jnp.asarray(image[None])))[0]
    wanted = by_the_book(image, 24, 10.0, 10)
    assert len(np.unique(wanted)) == 24
    assert (got == wanted).mean() > 0.999


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("settings", [{"segments": 24}, {"segments": 7, "compactness": 0.1}], ids=str)
def test_every_superpixel_is_one_piece_and_ids_have_no_gap(name, settings):
    """Of narrow images, too; noise falls into so many small pieces that one may be left."""
    found = superpixels_of_all(**settings)[name]
    count = found.max()
    assert (name != "noise") < count <= settings["segments"]
    assert np.array_equal(np.unique(found), np.arange(1, count + 1))
    assert pieces_of(found, connectivity=1).max() == count


def test_one_superpixel_and_the_most_there_can_be():
    canvas = textured(8, 16)[None].repeat(2, 0)
    assert (run(canvas[:1], segments=1) == 1).all()
    most, pixel = run(canvas, np.int32([(8, 16), (1, 1)]), segments=128)
    assert np.array_equal(most, np.arange(1, 129).reshape(8, 16))
    assert pixel[0, 0] == pixel.sum() == 1


def test_a_flat_picture_keeps_the_grid():
    found = superpixels_of_all(segments=24)["flat"]
    assert np.array_equal(found, np.arange(1, 25).reshape(4, 6).repeat(10, 0).repeat(10, 1))


def test_sharp_edges_are_followed():
    found = superpixels_of_all(segments=24)["three colours"]
    colours = three_colours().astype(int) @ [1, 256, 65536]
    assert all(len(np.unique(colours[found == id])) == 1 for id in np.unique(found))


def test_a_canvas_changes_nothing_and_stays_outside():
    again = run_on_canvas(IMAGES, segments=24)
    for name, found in run_on_canvas(IMAGES, segments=24).items():
        assert np.array_equal(found, again[name]), "runs repeat"
        height, width = IMAGES[name].shape[:2]
        assert found.sum() == found[:height, :width].sum()
        if name in ("tall", "row", "canvas"):
            alone = run(IMAGES[name][None], segments=24)[0]
            assert (found[:height, :width] == alone).mean() > 0.999


def test_parts_on_one_grid_of_cells_have_the_superpixels_of_the_whole_away_from_their_borders():
    scene = np.concatenate([val_scene(seed).image[40:112, :120] for seed in (0, 1)], axis=1)
    side, canvas = 12, np.zeros((3, *scene.shape), np.uint8)
    for index, left in enumerate((0, 8 * side, 8 * side + 6)):
        canvas[index, :, : 240 - left] = scene[:, left:]
    sizes = np.int32([(72, 240), (72, 240 - 96), (72, 240 - 102)])
    whole, part, shifted = run(canvas, sizes, segments=120, side=side)

    def agreement(part, left):
        inner = np.stack([whole[:, left + 4 * side :], part[:, 4 * side : 240 - left]])
        pairs, counts = np.unique(inner.reshape(2, -1), axis=1, return_counts=True)
        return sum(counts[pairs[0] == one].max() for one in np.unique(pairs[0])) / counts.sum()

    assert agreement(part, 96) >= 0.97
    assert agreement(shifted, 102) < 0.9
    plan = jax.jit(_plan, static_argnums=(1, 2, 3))
    grids = [plan(sizes[0], scene.shape[:2], 120, least) for least in (6, side, 30)]
    assert [int(grid.sy) for grid in grids] == [12, 12, 30], "cells of 6 pixels would be more than 120"


def test_connected_pieces():
    labels = np.random.default_rng(0).integers(0, 2, (41, 41), dtype=np.int32)
    labels[5, :], labels[5:, 40] = 7, 7
    got = np.asarray(connected(labels + 1, 4))
    wanted = pieces_of(labels, connectivity=1, background=-1)
    first = {piece: np.flatnonzero(wanted.ravel() == piece)[0] for piece in np.unique(wanted)}
    assert np.array_equal(got, np.vectorize(first.get)(wanted))


def test_a_spiral_is_one_piece():
    side = 41
    labels = np.zeros((side, side), np.int32)
    y, x, dy, dx = 0, 0, 0, 1
    labels[0, 0] = 1
    for length in (k for n in range(side - 1, 0, -2) for k in (n, n)):
        for _ in range(length):
            y, x = y + dy, x + dx
            labels[np.clip(y, 0, side - 1), np.clip(x, 0, side - 1)] = 1
        dy, dx = dx, -dy
    got = np.asarray(connected(labels + 1, 4))
    assert len(np.unique(got[labels == 1])) == pieces_of(labels, connectivity=1).max()


def edges(labels):
    found = np.zeros(labels.shape, bool)
    found[:-1] |= labels[1:] != labels[:-1]
    found[:, :-1] |= labels[:, 1:] != labels[:, :-1]
    return found


def quality(found, truth):
    """Share of true edges within two pixels of a found one, and under-segmentation error (Neubert, Protzel)."""
    near = ndimage.binary_dilation(edges(found), np.ones((5, 5), bool))
    table = np.zeros((found.max() + 1, truth.max() + 1), int)
    np.add.at(table, (found, truth), 1)
    rest = table.sum(1, keepdims=True) - table
    return (near & edges(truth)).sum() / edges(truth).sum(), np.minimum(table, rest).sum() / found.size


def test_quality_is_that_of_scikit_image():
    ours, theirs, scenes = [], [], [val_scene(index) for index in range(8)]
    sizes = np.int32([scene.image.shape[:2] for scene in scenes])
    canvas = np.zeros((8, *sizes.max(axis=0), 3), np.uint8)
    for slot, scene, (height, width) in zip(canvas, scenes, sizes, strict=True):
        slot[:height, :width] = scene.image
    for scene, found, (height, width) in zip(scenes, run(canvas, sizes, segments=64), sizes, strict=True):
        ours.append(quality(found[:height, :width], scene.instances))
        theirs.append(quality(slic(scene.image, n_segments=64, start_label=1), scene.instances))
    (recall, error), (their_recall, their_error) = np.mean(ours, 0), np.mean(theirs, 0)
    assert recall > their_recall - 0.01
    assert error < their_error + 0.01


@pytest.mark.parametrize(
    ("name", "value"), [("segments", 0), ("iterations", -1), ("compactness", 0.0), ("side", 0)]
)
def test_settings_out_of_range(name, value):
    with pytest.raises(ValueError, match="SLIC needs segments of 1 or more"):
        SLICConfig(**{name: value})
