"""Connected components and the removal of small ones, against scikit-image and SAM's own steps."""

import jax
import numpy as np
import pytest
from skimage.measure import label

from corrclip_jax.regions.components import components, remove_small


def spiral(side: int) -> np.ndarray:
    """One path, a pixel wide, round and round to the middle."""
    mask = np.zeros((side, side), bool)
    y, x, dy, dx = 0, 0, 0, 1
    mask[y, x] = True
    while True:
        for _ in range(2):
            ahead = y + 2 * dy, x + 2 * dx
            inside = 0 <= y + dy < side and 0 <= x + dx < side
            taken = 0 <= ahead[0] < side and 0 <= ahead[1] < side and mask[ahead]
            if inside and not taken and not mask[y + dy, x + dx]:
                break
            dy, dx = dx, -dy
        else:
            return mask
        y, x = y + dy, x + dx
        mask[y, x] = True


def masks() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    kinds = {f"noise-{share}": rng.random((33, 47)) < share for share in (0.1, 0.3, 0.45, 0.7)}
    checks = np.indices((9, 12)).sum(0) % 2 == 0  # joined across corners
    none, full = np.zeros((5, 4), bool), np.ones((5, 4), bool)
    return kinds | {"checks": checks, "none": none, "full": full, "spiral": spiral(41), "row": full[:1]}


@pytest.mark.parametrize("kind", masks())
def test_components_are_scikit_images(kind):
    mask = masks()[kind]
    found = np.asarray(jax.jit(components, static_argnums=1)(mask, 8))
    wanted = label(mask, connectivity=2)
    assert (found[~mask] == mask.size).all()
    pairs = np.unique(np.stack([found[mask], wanted[mask]]), axis=1)
    assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]
    for number in np.unique(found[mask]):
        assert number == np.flatnonzero(found == number)[0]


def by_the_book(mask: np.ndarray, min_area: int) -> tuple[np.ndarray, bool]:
    """SAM's two steps: small pieces of the background are filled, then small pieces of the mask go."""
    holes = label(~mask, connectivity=2)
    small_holes = [i for i in range(1, holes.max() + 1) if (holes == i).sum() < min_area]
    filled = mask | np.isin(holes, small_holes)
    islands = label(filled, connectivity=2)
    sizes = [(islands == i).sum() for i in range(1, islands.max() + 1)]
    large = [i + 1 for i, size in enumerate(sizes) if size >= min_area]
    changed = bool(small_holes) or len(large) < len(sizes)
    if sizes and not large:
        large = [int(np.argmax(sizes)) + 1]
    return np.isin(islands, large), changed


@pytest.mark.parametrize("kind", masks())
@pytest.mark.parametrize("min_area", [1, 4, 30, 10_000])
def test_small_pieces_are_removed_as_sam_removes_them(kind, min_area):
    mask = masks()[kind]
    got, changed = jax.jit(remove_small, static_argnums=1)(mask, min_area)
    wanted, wanted_changed = by_the_book(mask, min_area)
    np.testing.assert_array_equal(got, wanted)
    assert bool(changed) == wanted_changed
