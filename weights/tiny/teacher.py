"""A small convolutional network that tells shapes: `python weights/tiny/teacher.py --pool POOL --out FOLDER`.

It is not part of the model. It learns shapes in a few minutes, where so small a vision transformer takes hours, and
then shows CLIP, patch by patch, what to look for (`train_clip.py --teacher`).

Texture hides outlines at first. So every instance is painted in its own mean colour to begin with; its texture
comes back bit by bit.
"""

import argparse
import dataclasses
import functools
from pathlib import Path
from typing import NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import loop
import numpy as np
import optax
import pool as pools

from corrclip_jax.datasets.scenes.words import SHAPES
from corrclip_jax.method.windows import CLIP_MEAN, CLIP_STD

PATCH = 4  # pixels a cell of the last three layers, as CLIP's patches
WIDTHS = (32, 64, 128, 128, 128)
# The shares of all steps until texture begins to come back, and until all of it is there.
_PLAIN, _FULL = 0.1, 0.45


class Batch(NamedTuple):
    """B crops with the outline of one thing each, and its shape."""

    images: np.ndarray  # uint8 [B, S, S, 3]
    part: np.ndarray  # bool [B, h, w], on the patch grid
    shape: np.ndarray  # int32 [B], the shape's number


@flax.struct.dataclass
class State:
    """What a checkpoint holds."""

    params: dict
    opt_state: optax.OptState


class Teacher(nn.Module):
    """Five convolutions, of which the second and third halve the picture."""

    @nn.compact
    def __call__(self, images: jax.Array) -> list[jax.Array]:
        """CLIP-normalised images [B, S, S, 3] to the last three layers' outputs [B, S/4, S/4, C]."""
        x, layers = images, []
        for index, width in enumerate(WIDTHS):
            stride = 2 if index in (1, 2) else 1
            x = nn.relu(nn.Conv(width, (3, 3), stride, kernel_init=nn.initializers.he_normal())(x))
            layers.append(x)
        return layers[-3:]


class Classifier(nn.Module):
    """The teacher and what it is trained with: the mean of the last layer over a thing tells its shape."""

    @nn.compact
    def __call__(self, images: jax.Array, part: jax.Array) -> jax.Array:
        """Logits [B, shapes]."""
        *_, last = Teacher(name="teacher")(images)
        share = part / part.sum((1, 2), keepdims=True)
        return nn.Dense(len(SHAPES), name="head")(jnp.einsum("bhw,bhwc->bc", share, last))


@dataclasses.dataclass(frozen=True)
class BatchMaker:
    """`maker(step)` is the batch of a step; other processes call it."""

    folder: Path
    batch: int
    steps: int
    seed: int

    def __call__(self, step: int) -> Batch:
        """Draw crops with things, turned and mirrored, their texture as loud as the step wants it."""
        crops, choice = _load(self.folder)
        texture = float(np.clip((step / self.steps - _PLAIN) / (_FULL - _PLAIN), 0, 1))
        rng = np.random.default_rng([self.seed, step])
        rows = [self._example(rng, crops, int(i), texture) for i in rng.choice(choice, self.batch)]
        return Batch(*map(np.stack, zip(*rows, strict=True)))

    def _example(self, rng: np.random.Generator, crops: pools.Pool, index: int, texture: float):
        image, instances = crops.images[index], crops.instances[index]
        thing = int(rng.integers((crops.things[index, :, 0] >= 0).sum()))
        if texture < 1:
            image = faded(image, instances, texture)
        part = outline(instances == pools.FIRST_THING + thing, PATCH)
        turns, mirrored = int(rng.integers(4)), slice(None, None, -1 if rng.random() < 0.5 else 1)
        image, part = (np.rot90(x, turns)[:, mirrored] for x in (image, part))
        return image, part, np.int32(crops.things[index, thing, 0])


@functools.cache
def _load(folder: Path) -> tuple[pools.Pool, np.ndarray]:
    """All crops, and the numbers of those with things."""
    crops = pools.load_halved(folder, "crops")
    return crops, np.flatnonzero((crops.things[:, :, 0] >= 0).any(1))


def faded(image: np.ndarray, instances: np.ndarray, texture: float) -> np.ndarray:
    """A picture whose instances are painted in their mean colours but for a share `texture` of what they show."""
    ids = instances.reshape(-1)
    counts = np.maximum(np.bincount(ids), 1)
    mean = np.stack([np.bincount(ids, channel) / counts for channel in image.reshape(-1, 3).T], axis=1)
    return (image * texture + mean[instances] * (1 - texture)).astype(np.uint8)


def outline(mask: np.ndarray, patch: int) -> np.ndarray:
    """The patches of which a mask [H, W] fills half, or, where there is none, those that it fills the most."""
    height, width = (n // patch for n in mask.shape)
    filled = mask.reshape(height, patch, width, patch).mean((1, 3))
    return filled >= min(0.5, filled.max())


def make_update(optimiser: optax.GradientTransformation):
    """One step of training."""

    def loss_fn(params: dict, batch: Batch):
        images = (batch.images.astype(jnp.float32) - CLIP_MEAN) / CLIP_STD
        logits = Classifier().apply({"params": params}, images, batch.part)
        right = (logits.argmax(1) == batch.shape).mean()
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch.shape).mean(), right

    def update(state: State, batch: Batch):
        (loss, right), gradients = jax.value_and_grad(loss_fn, has_aux=True)(state.params, batch)
        changes, opt_state = optimiser.update(gradients, state.opt_state, state.params)
        return State(optax.apply_updates(state.params, changes), opt_state), {"loss": loss, "shapes": right}

    return update


def initial_state(optimiser: optax.GradientTransformation, seed: int) -> State:
    """Random weights."""
    images, part = jnp.zeros((1, 28, 28, 3)), jnp.ones((1, 7, 7))
    params = jax.jit(Classifier().init)(jax.random.key(seed), images, part)["params"]
    return State(params, optimiser.init(params))


def main() -> None:
    """Train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    args = parser.parse_args()
    optimiser = loop.adamw(args.rate, args.steps, decay=0.05)
    maker = BatchMaker(args.pool, args.batch, args.steps, args.seed)
    state = initial_state(optimiser, args.seed)
    loop.train(args.out, state, make_update(optimiser), maker, args.steps, args.processes)


if __name__ == "__main__":
    main()
