"""Colours of backgrounds and things, painted from noise: float32 RGB 0..255.

`scale` is the number of pixels of one scene unit, so that a larger picture shows the same texture, larger.
"""

import numpy as np
from jaxtyping import Float
from PIL import Image

_COLOURS = {
    "red": (205, 38, 40), "orange": (242, 135, 25), "yellow": (243, 218, 50), "green": (38, 150, 62),
    "blue": (38, 78, 210), "purple": (140, 52, 170), "white": (243, 243, 240), "black": (30, 28, 32),
}  # fmt: skip


def noise(
    rng: np.random.Generator, height: int, width: int, cell_y: float, cell_x: float
) -> Float[np.ndarray, "{height} {width}"]:
    """Smooth noise of about unit size whose bumps are `cell_y` by `cell_x` pixels."""
    rows, columns = int(height / cell_y) + 2, int(width / cell_x) + 2
    grid = Image.fromarray(rng.standard_normal((rows, columns), dtype=np.float32))
    box = (0.0, 0.0, width / cell_x, height / cell_y)
    return np.asarray(grid.resize((width, height), Image.Resampling.BICUBIC, box=box))


def _paint(base: tuple[int, int, int], tone: np.ndarray) -> np.ndarray:
    """A colour made lighter or darker pixel by pixel; a tone of 1 is 12 % of full brightness."""
    return np.asarray(base, np.float32) + (30 * tone)[..., None].astype(np.float32)


def _blend(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> np.ndarray:
    a, b, weight = (np.asarray(x, np.float32) for x in (a, b, weight))
    return a + (b - a) * weight[..., None]


def _rows(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None]


def _grass(rng: np.random.Generator, h: int, w: int, s: float) -> np.ndarray:
    blades = 0.75 * noise(rng, h, w, 3.5 * s, 1.2 * s) + 0.5 * noise(rng, h, w, 25 * s, 25 * s)
    return _paint((88, 138, 58), blades) + [6, 0, -6] * noise(rng, h, w, 12 * s, 12 * s)[..., None]


def _sky(rng: np.random.Generator, h: int, w: int, s: float) -> np.ndarray:
    y, _ = _rows(h, w)
    blue = _blend(
        np.array([92, 155, 225.0]), np.array([165, 205, 240.0]), np.broadcast_to(y / max(h, 1), (h, w))
    )
    clouds = noise(rng, h, w, 14 * s, 30 * s) + 0.5 * noise(rng, h, w, 6 * s, 11 * s)
    return _blend(blue, np.array([240, 243, 247.0]), np.clip(clouds - 0.4, 0, 1) * 0.85)


def _water(rng: np.random.Generator, h: int, w: int, s: float) -> np.ndarray:
    waves = 0.65 * noise(rng, h, w, 2.5 * s, 12 * s) + 0.35 * noise(rng, h, w, 9 * s, 25 * s)
    return _blend(
        _paint((35, 105, 135), waves), np.array([185, 225, 230.0]), np.clip(waves - 0.9, 0, 1) * 0.7
    )


def _sand(rng: np.random.Generator, h: int, w: int, s: float) -> np.ndarray:
    grain = 0.3 * noise(rng, h, w, 1.1 * s, 1.1 * s) + 0.35 * noise(rng, h, w, 6 * s, 20 * s)
    return _paint((214, 186, 135), grain)


def _brick(rng: np.random.Generator, h: int, w: int, s: float) -> np.ndarray:
    y, x = _rows(h, w)
    tall, long = 8 * s, 18 * s
    y, x = y + rng.uniform(0, tall), x + rng.uniform(0, long)
    row = (y // tall).astype(int)
    x = x + (row % 2) * (long / 2)
    column = (x // long).astype(int)
    tones = rng.standard_normal((row.max() + 1, column.max() + 1))[row, column]
    wall = _paint((165, 80, 62), 0.5 * tones + 0.2 * noise(rng, h, w, 1.2 * s, 1.2 * s))
    mortar = (y % tall < 1.4 * s) | (x % long < 1.4 * s)
    return _blend(wall, np.array([190, 180, 168.0]), mortar)


def _wood(rng: np.random.Generator, h: int, w: int, s: float) -> np.ndarray:
    y, _ = _rows(h, w)
    plank = rng.uniform(13, 19) * s
    y = y + rng.uniform(0, plank)
    tones = rng.standard_normal(int((h + plank) / plank) + 2)[(y // plank).astype(int)]
    grain = 0.45 * noise(rng, h, w, 1.3 * s, 30 * s) + 0.3 * noise(rng, h, w, 4 * s, 50 * s) + 0.35 * tones
    return _blend(
        _paint((158, 110, 66), grain), np.array([70, 45, 25.0]), np.broadcast_to(y % plank < 1.3 * s, (h, w))
    )


def _snow(rng: np.random.Generator, h: int, w: int, s: float) -> np.ndarray:
    drifts = noise(rng, h, w, 14 * s, 28 * s)
    glint = noise(rng, h, w, 1.0 * s, 1.0 * s)
    return _paint((228, 234, 243), 0.3 * drifts + 0.1 * glint) + [-4, 0, 3] * drifts[..., None]


def _road(rng: np.random.Generator, h: int, w: int, s: float) -> np.ndarray:
    y, x = _rows(h, w)
    asphalt = _paint(
        (98, 98, 101), 0.45 * noise(rng, h, w, 1.1 * s, 1.1 * s) + 0.25 * noise(rng, h, w, 30 * s, 30 * s)
    )
    line = (np.abs(y - rng.uniform(0, h)) < 1.6 * s) & ((x + rng.uniform(0, 30 * s)) % (30 * s) < 17 * s)
    return _blend(asphalt, np.array([215, 212, 200.0]), line)


_PAINTERS = {
    "grass": _grass, "sky": _sky, "water": _water, "sand": _sand, "brick": _brick, "wood": _wood, "snow": _snow,
    "road": _road,
}  # fmt: skip


def background(
    rng: np.random.Generator, name: str, height: int, width: int, scale: float
) -> Float[np.ndarray, "{height} {width} 3"]:
    """A whole picture of one background, its colour a little different each time."""
    painted = _PAINTERS[name](rng, height, width, scale)
    return (painted * rng.uniform(0.88, 1.1) + rng.uniform(-9, 9, 3)).astype(np.float32)


def material(
    rng: np.random.Generator,
    name: str,
    colour: str,
    side: int,
    centre: tuple[float, float],
    radius: float,
    angle: float,
    scale: float,
) -> Float[np.ndarray, "{side} {side} 3"]:
    """A square of a thing's surface; patterns follow the thing's `angle` (radians) about `centre` (y, x)."""
    base = np.asarray(_COLOURS[colour], np.float32) * rng.uniform(0.9, 1.06) + rng.uniform(-10, 10, 3)
    base = np.clip(base, 0, 255).astype(np.float32)
    # The second tone is the same colour in shade, so that the colour's name stays true.
    other = base * 0.52 if colour != "black" else base + 62
    y, x = _rows(side, side)
    y, x = y - centre[0], x - centre[1]
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    period = rng.uniform(5.5, 8.5) * scale
    if name == "striped":
        pattern = _edge(np.sin(2 * np.pi * u / period), period)
    elif name == "checked":
        pattern = _edge(np.sin(np.pi * u / period) * np.sin(np.pi * v / period), period)
    elif name == "dotted":
        pattern = _edge(np.cos(2 * np.pi * u / period) + np.cos(2 * np.pi * v / period) - 0.75, period)
    elif name == "shiny":
        distance = np.hypot(x + 0.35 * radius, y + 0.35 * radius) / radius
        glow = np.clip(1 - distance / 0.75, 0, 1) ** 1.3
        rim = np.clip(distance - 0.75, 0, 1) * 0.45
        return _blend(
            _blend(np.broadcast_to(base, (side, side, 3)), np.zeros(3), rim), np.full(3, 252.0), glow
        )
    else:
        pattern = 0.12 * np.broadcast_to(v / radius, (side, side))
    return _blend(base, other, pattern).astype(np.float32)


def light(rng: np.random.Generator, height: int, width: int) -> Float[np.ndarray, "{height} {width} 1"]:
    """Uneven light: a smooth factor about 1."""
    cell = max(height, width) / 2
    field = np.clip(noise(rng, height, width, cell, cell), -2, 2)
    return (rng.uniform(0.88, 1.06) + rng.uniform(0.03, 0.11) * field)[..., None].astype(np.float32)


def _edge(wave: np.ndarray, period: float) -> np.ndarray:
    """A wave to a pattern of 0 and 1 with edges about a pixel wide."""
    return np.clip(wave * period / 4 + 0.5, 0, 1)
