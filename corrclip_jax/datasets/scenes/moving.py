"""Moving scenes with exact truth: things that glide and bounce over a still background, with new noise each frame.

A scene follows from its seed alone. The effect of region tracks is measured on them.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float

from corrclip_jax.datasets.scenes import textures
from corrclip_jax.datasets.scenes.generate import FIRST_THING, SCENE_SIDE, Scene, choose, place
from corrclip_jax.datasets.scenes.words import BACKGROUNDS

_MOVING = 3  # apart from the seeds of the other splits
_SPEED = 3.0  # pixels a frame, at most, along each axis
_RADII = 16.0, 26.0
_MARGIN = 0.15  # of the sides, where things turn back
_GRAIN = 5.0


def moving_scene(
    seed: int, frames: int, size: tuple[int, int] = (SCENE_SIDE, SCENE_SIDE), things: int = 4
) -> Iterator[Scene]:
    """The frames of a scene.

    Args:
      seed: of everything.
      frames: how many.
      size: (height, width) in pixels.
      things: how many there are; a later one passes in front of an earlier one.
    """
    rng = np.random.default_rng([_MOVING, seed])
    area = str(rng.choice(list(BACKGROUNDS)))
    ground = textures.background(rng, area, *size, 1.0)
    light = textures.light(rng, *size)
    chosen = [choose(rng, (area,), "seen") for _ in range(things)]
    radii = rng.uniform(*_RADII, things)
    begin, speed = rng.uniform(0, 1, (things, 2)) * size, rng.uniform(-_SPEED, _SPEED, (things, 2))
    for number in range(frames):
        canvas, instances = ground.copy(), np.ones(size, np.int32)
        for index, thing in enumerate(chosen):
            # The same chance in every frame: angle and paint stay.
            own = np.random.default_rng([_MOVING, seed, index])
            y, x = _bounced(begin[index] + number * speed[index], np.array(size, float))
            placed = place(own, thing, radii[index], (y, x), canvas, 1.0)
            if placed is not None:
                window, cover, paint = placed
                canvas[window] += cover[..., None] * (paint - canvas[window])
                instances[window][cover >= 0.5] = FIRST_THING + index
        grain = np.random.default_rng([_MOVING, seed, things, number]).standard_normal(canvas.shape)
        image = np.clip(canvas * light + _GRAIN * grain, 0, 255).astype(np.uint8)
        yield Scene(image, instances, (area,), tuple(chosen))


def _bounced(place: Float[np.ndarray, "2"], size: Float[np.ndarray, "2"]) -> tuple[float, float]:
    """A place in the picture, reflected at its margins."""
    low, high = _MARGIN * size, (1 - _MARGIN) * size
    span = high - low
    offset = np.abs((place - low + span) % (2 * span) - span)
    y, x = low + offset
    return float(y), float(x)
