"""Weights with which a small vision transformer begins as a convolutional network, and learns as fast as one.

What keeps small vision transformers from learning outlines is that they must first find out which patches are
neighbours, and that layer norms make a plain patch as loud as one with an edge. So
  - positions lie in dimensions of their own, sines and cosines, several times louder than what patches show: layer
    norms then divide by nearly the same number everywhere;
  - head h of every block but the last looks at the h-th neighbour of a patch;
  - values and MLPs read and write the other dimensions alone;
  - the patch embedding begins with what patches differ by, all of it equally loud.
All of it is a beginning only: every weight goes on to be learnt.

Shapes: C width, H heads, d head width, p patch size.
"""

import numpy as np

from corrclip_jax.config import CLIPVisionConfig
from corrclip_jax.method.windows import CLIP_MEAN, CLIP_STD

POSITIONS = 32  # dimensions, the first ones
STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0), (1, 1), (-1, -1), (1, -1), (-1, 1))  # down, right
_LOUDNESS = 2.0  # of positions
_QUIET = 0.35  # standard deviation of what patches show
_LEAST_VARIANCE = 0.02  # what differs less is mostly noise


def convolutional(vision: CLIPVisionConfig, images: np.ndarray, seed: int) -> dict:
    """The image tower's tree but for the norms about its blocks and `proj`.

    `images`, uint8 [N, S, S, 3], show what patches differ by.
    """
    rng = np.random.default_rng(seed)
    width, grid = vision.width, vision.image_size // vision.patch_size
    seen = width - POSITIONS
    position = np.zeros((1 + grid * grid, width), np.float32)
    position[0, :POSITIONS] = _LOUDNESS * rng.choice([-1, 1], POSITIONS) / 2**0.5
    position[1:, :POSITIONS] = _LOUDNESS * _sines(grid)
    kernel = np.zeros((vision.patch_size, vision.patch_size, 3, width), np.float32)
    kernel[..., POSITIONS:] = _QUIET * _whitening(images, vision.patch_size, seen)
    blocks = {f"resblocks_{i}": _block(rng, vision, grid) for i in range(vision.layers)}
    for name in ("query", "key"):  # the class token of the last block looks at all patches
        last = blocks[f"resblocks_{vision.layers - 1}"]["attn"][name]
        last["kernel"] = rng.normal(0, width**-0.5, last["kernel"].shape).astype(np.float32)
    return {
        "class_embedding": np.float32(rng.normal(0, _QUIET, width) * (np.arange(width) >= POSITIONS)),
        "positional_embedding": position,
        "conv1": {"kernel": kernel},
        "transformer": blocks,
    }


def _block(rng: np.random.Generator, vision: CLIPVisionConfig, grid: int) -> dict:
    """A block whose heads look at neighbours; its sums add half of what they read to it."""
    width, heads, hidden = vision.width, vision.heads, int(vision.width * vision.mlp_ratio)
    seen = width - POSITIONS
    # What a layer norm leaves of the standard deviation of what patches show.
    loud = POSITIONS * _LOUDNESS**2 / 2
    normed = _QUIET / ((loud + seen * _QUIET**2) / width) ** 0.5

    def reading(*shape: int, gain: float) -> np.ndarray:
        kernel = rng.normal(0, gain * seen**-0.5, (width, *shape)).astype(np.float32)
        kernel[:POSITIONS] = 0
        return kernel

    def writing(*shape: int, gain: float) -> np.ndarray:
        kernel = rng.normal(0, gain * np.prod(shape) ** -0.5, (*shape, width)).astype(np.float32)
        kernel[..., :POSITIONS] = 0
        return kernel

    query, key = _neighbours(vision, grid)
    shape = heads, vision.head_width
    attention = {
        "query": {"kernel": query, "bias": np.zeros(shape, np.float32)},
        "key": {"kernel": key, "bias": np.zeros(shape, np.float32)},
        "value": {"kernel": reading(*shape, gain=1.0), "bias": np.zeros(shape, np.float32)},
        "out": {"kernel": writing(*shape, gain=0.5), "bias": np.zeros(width, np.float32)},
    }
    mlp = {
        "c_fc": {"kernel": reading(hidden, gain=1 / normed), "bias": np.zeros(hidden, np.float32)},
        "c_proj": {"kernel": writing(hidden, gain=normed), "bias": np.zeros(width, np.float32)},
    }
    norms = {
        name: {"scale": np.ones(width, np.float32), "bias": np.zeros(width, np.float32)}
        for name in ("ln_1", "ln_2")
    }
    return {"attn": attention, "mlp": mlp, **norms}


def _rates(grid: int) -> np.ndarray:
    """Radians a patch, [POSITIONS / 4]; periods from a quarter of the tower's grid to twice it."""
    return 2 * np.pi / (grid * np.geomspace(0.25, 2.0, POSITIONS // 4))


def _sines(grid: int) -> np.ndarray:
    """Sines and cosines of row and column, [grid * grid, POSITIONS]."""
    angles = np.arange(grid)[:, None] * _rates(grid)
    one = np.concatenate([np.sin(angles), np.cos(angles)], axis=1)
    y, x = (n.reshape(-1) for n in np.mgrid[:grid, :grid])
    return np.concatenate([one[y], one[x]], axis=1)


def _neighbours(vision: CLIPVisionConfig, grid: int) -> tuple[np.ndarray, np.ndarray]:
    """Kernels [C, H, d] of query and key by which head h of a patch looks at its h-th neighbour.

    A query turns the sines and cosines of a position by the step to the neighbour, the key takes them as they are:
    their product is largest where the two agree. A head reads as many of the shortest periods as it has room for.
    """
    rates = _rates(grid)
    query = np.zeros((vision.width, vision.heads, vision.head_width), np.float32)
    key = np.zeros_like(query)
    for head in range(vision.heads):
        for axis, step in enumerate(STEPS[head % len(STEPS)]):
            for place in range(vision.head_width // 4):
                sine = 2 * axis * len(rates) + place
                pair, out = [sine, sine + len(rates)], 4 * place + 2 * axis
                cos, sin = np.cos(step * rates[place]), np.sin(step * rates[place])
                query[pair, head, out : out + 2] = [[cos, -sin], [sin, cos]]
                key[pair, head, out : out + 2] = np.eye(2)
    return query, key


def _whitening(images: np.ndarray, p: int, width: int) -> np.ndarray:
    """A patch embedding [p, p, 3, width] of unit variance: the largest principal components, about equally loud."""
    patches = patches_of(images, p)
    variances, directions = np.linalg.eigh(patches.T @ patches / len(patches))
    kernel = directions[:, -width:] / np.sqrt(variances[-width:] + _LEAST_VARIANCE)
    count = kernel.shape[1]
    turned = np.linalg.qr(np.random.default_rng(0).standard_normal((width, width)))[0][:count]
    return (kernel @ turned * (width / count) ** 0.5).reshape(p, p, 3, width)


def patches_of(images: np.ndarray, p: int) -> np.ndarray:
    """CLIP's view of uint8 pictures [N, S, S, 3] as patches, [N S / p S / p, p * p * 3]."""
    pixels = ((images - CLIP_MEAN) / CLIP_STD).astype(np.float32)
    side = pixels.shape[1] // p
    return pixels.reshape(-1, side, p, side, p, 3).transpose(0, 1, 3, 2, 4, 5).reshape(-1, p * p * 3)
