"""Photos and region maps of every kind the method can meet, made from seeds."""

from collections.abc import Callable

import numpy as np
import torch

# The id of the padding that the windows of a narrow picture get: one beyond all others.
PADDING = 2**31 - 1


def patchwork(height: int, width: int, count: int, seed: int = 0) -> np.ndarray:
    """`count` regions 1 .. count, each the surroundings of a random point."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(size=(count, 2)) * (height, width)
    y, x = np.mgrid[:height, :width] + 0.5
    distance = (y[..., None] - points[:, 0]) ** 2 + (x[..., None] - points[:, 1]) ** 2
    return 1 + distance.argmin(-1)


def photo_like(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth colours and some noise, about as large as normalised pixels: neighbours are alike, as in photos."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.standard_normal((1, 3, height // 28 + 2, width // 28 + 2)))
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    noise = 0.2 * rng.standard_normal((height, width, 3))
    return (smooth[0].permute(1, 2, 0).numpy() + noise).astype(np.float32)


def none(height: int, width: int) -> np.ndarray:
    return np.zeros((height, width), int)


def only_one(height: int, width: int) -> np.ndarray:
    return np.full((height, width), 3)


def one(height: int, width: int) -> np.ndarray:
    regions = none(height, width)
    regions[height // 4 : -height // 5, width // 3 :] = 1
    return regions


def full(height: int, width: int) -> np.ndarray:
    return patchwork(height, width, 7)


def holes(height: int, width: int) -> np.ndarray:
    regions = patchwork(height, width, 12, seed=1)
    regions[height // 3 : height // 2, width // 4 : width // 2] = 0
    regions[patchwork(height, width, 5, seed=2) == 3] = 0
    return regions


def many(height: int, width: int) -> np.ndarray:
    return patchwork(height, width, 150, seed=3) % 120


def sparse_ids(height: int, width: int) -> np.ndarray:
    """Ids with gaps, too large to be exact in float32."""
    ids = np.array([0, 5, 900, 40_000, 2**24 + 1, 2**24 + 2, 2**31 - 2])
    return ids[patchwork(height, width, 20, seed=4) % len(ids)]


def specks(height: int, width: int) -> np.ndarray:
    """Single pixels, of which grids meet few and never the only 0, on a few regions."""
    regions = patchwork(height, width, 6, seed=5) + 10
    regions[5::9, 3::7] = 1
    regions[7, 7] = 0
    return regions


def stripes(height: int, width: int) -> np.ndarray:
    """Regions as narrow as a cell of DINO, of which CLIP's coarser grid loses every other one."""
    return np.broadcast_to(np.arange(width) // 8 % 30, (height, width)).copy()


def padded(height: int, width: int) -> np.ndarray:
    regions = holes(height, width)
    regions[:, :13], regions[:, -14:] = PADDING, PADDING
    return regions


KINDS: dict[str, Callable[[int, int], np.ndarray]] = {
    make.__name__: make
    for make in (none, only_one, one, full, holes, many, sparse_ids, specks, stripes, padded)
}
