"""SLIC: against NumPy by the book and scikit-image's, and what holds of every result."""

from functools import partial

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


def run(images, sizes=None, **settings):
    config = SLICConfig(**settings)
    return np.asarray(jax.jit(partial(superpixels, config))(jnp.asarray(images), sizes))


def textured(height, width, seed=0):
    """Coarse patches under noise: many islands to merge."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 200, (-(-height // 12), -(-width // 15), 3)).repeat(12, 0).repeat(15, 1)
    return (coarse[:height, :width] + rng.integers(0, 56, (height, width, 3))).astype(np.uint8)


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
    np.testing.assert_allclose(cielab(jnp.asarray(image)), rgb2lab(image), atol=2e-4)


def test_the_clusters_are_those_of_the_method_by_the_book(monkeypatch):
    from corrclip_jax.regions import slic as module

    image = textured(60, 90)
    monkeypatch.setattr(module, "_connect", lambda labels, *_: labels)
    got = np.asarray(superpixels(SLICConfig(segments=24), jnp.asarray(image[None])))[0]
    wanted = by_the_book(image, 24, 10.0, 10)
    assert len(np.unique(wanted)) == 24
    assert (got == wanted).mean() > 0.999


@pytest.mark.parametrize(("size", "segments"), [((60, 90), 64), ((97, 31), 5), ((1, 40), 7), ((40, 1), 64)])
def test_every_superpixel_is_one_piece_and_ids_have_no_gap(size, segments):
    found = run(textured(*size)[None], segments=segments)[0]
    count = found.max()
    assert 1 < count <= segments
    assert np.array_equal(np.unique(found), np.arange(1, count + 1))
    assert pieces_of(found, connectivity=1).max() == count


def test_noise_is_merged_all_the_same():
    noise = np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8)
    found = run(noise[None], segments=25, compactness=0.1)[0]
    assert found.min() == 1
    assert pieces_of(found, connectivity=1).max() == found.max()


def test_one_superpixel_and_the_most_there_can_be():
    image = textured(8, 16)
    assert (run(image[None], segments=1) == 1).all()
    assert np.array_equal(run(image[None], segments=128)[0], np.arange(1, 129).reshape(8, 16))
    assert (run(image[:1, :1][None], segments=128) == 1).all()


def test_a_flat_picture_keeps_the_grid():
    found = run(np.full((1, 40, 60, 3), 77, np.uint8), segments=24)[0]
    assert np.array_equal(found, np.arange(1, 25).reshape(4, 6).repeat(10, 0).repeat(10, 1))


def test_sharp_edges_are_followed():
    image = np.zeros((48, 64, 3), np.uint8)
    image[:20, :37], image[20:, :37], image[20:, 37:] = (200, 30, 30), (30, 200, 30), (30, 30, 200)
    found = run(image[None], segments=20)[0]
    colours = image.astype(int) @ [1, 256, 65536]
    assert all(len(np.unique(colours[found == id])) == 1 for id in np.unique(found))


def test_a_batch_equals_single_images_and_runs_repeat():
    images = np.stack([textured(60, 90, seed) for seed in range(3)])
    together = run(images, segments=32)
    assert np.array_equal(together, run(images, segments=32))
    for image, found in zip(images, together, strict=True):
        assert np.array_equal(run(image[None], segments=32)[0], found)


def test_a_canvas_changes_nothing_and_stays_outside():
    sizes = [(60, 90), (41, 77), (90, 30)]
    canvas = np.random.default_rng(1).integers(0, 256, (3, 90, 96, 3), dtype=np.uint8)
    for index, (height, width) in enumerate(sizes):
        canvas[index, :height, :width] = textured(height, width, index)
    padded = run(canvas, jnp.array(sizes), segments=32)
    for index, (height, width) in enumerate(sizes):
        alone = run(canvas[index : index + 1, :height, :width], segments=32)[0]
        assert (padded[index, :height, :width] == alone).mean() > 0.999
        assert padded[index].sum() == padded[index, :height, :width].sum()


def test_parts_on_one_grid_of_cells_have_the_superpixels_of_the_whole_away_from_their_borders():
    scene = np.concatenate([val_scene(seed).image[40:112, :120] for seed in (0, 1)], axis=1)
    side, canvas = 12, np.zeros((3, *scene.shape), np.uint8)
    for index, left in enumerate((0, 8 * side, 8 * side + 6)):
        canvas[index, :, : 240 - left] = scene[:, left:]
    sizes = jnp.array([[72, 240], [72, 240 - 96], [72, 240 - 102]], jnp.int32)
    whole, part, shifted = run(canvas, sizes, segments=120, side=side)

    def agreement(part, left):
        inner = np.stack([whole[:, left + 4 * side :], part[:, 4 * side : 240 - left]])
        pairs, counts = np.unique(inner.reshape(2, -1), axis=1, return_counts=True)
        return sum(counts[pairs[0] == one].max() for one in np.unique(pairs[0])) / counts.sum()

    assert agreement(part, 96) >= 0.97
    assert agreement(shifted, 102) < 0.9
    grids = [_plan(sizes[0], scene.shape[:2], 120, least) for least in (6, side, 30)]
    assert [int(grid.sy) for grid in grids] == [12, 12, 30], "cells of 6 pixels would be more than 120"


def test_connected_pieces():
    labels = np.random.default_rng(0).integers(0, 2, (40, 60))
    labels[5, :], labels[5:, 59] = 7, 7
    got = np.asarray(jax.jit(components, static_argnums=1)(jnp.asarray(labels) + 1, 4))
    wanted = pieces_of(labels, connectivity=1, background=-1)
    first = {piece: np.flatnonzero(wanted.ravel() == piece)[0] for piece in np.unique(wanted)}
    assert np.array_equal(got, np.vectorize(first.get)(wanted))


def test_a_spiral_is_one_piece():
    side = 41
    labels = np.zeros((side, side), int)
    y, x, dy, dx = 0, 0, 0, 1
    labels[0, 0] = 1
    for length in (k for n in range(side - 1, 0, -2) for k in (n, n)):
        for _ in range(length):
            y, x = y + dy, x + dx
            labels[np.clip(y, 0, side - 1), np.clip(x, 0, side - 1)] = 1
        dy, dx = dx, -dy
    got = np.asarray(components(jnp.asarray(labels) + 1, 4))
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
    ours, theirs = [], []
    for index in range(8):
        scene = val_scene(index)
        ours.append(quality(run(scene.image[None], segments=64)[0], scene.instances))
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
