"""Sine embeddings of the cells' positions, which pixel decoder and transformer add to their maps."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

_TEMPERATURE = 10000


def sine_positions(height: int, width: int, channels: int) -> Float[Array, "{height} {width} {channels}"]:
    """One half of the channels for the row, then one for the column: sines and cosines in turn.

    A side is 2 pi long, whatever its number of cells; the first cell is at one cell's length.
    """
    rows = jnp.asarray(_waves(height, channels // 2))[:, None]
    columns = jnp.asarray(_waves(width, channels // 2))
    shape = (height, width, channels // 2)
    # Put together in the program, whose constants are then two vectors and no map.
    return jnp.concatenate([jnp.broadcast_to(rows, shape), jnp.broadcast_to(columns, shape)], axis=-1)


def _waves(size: int, channels: int) -> Float[np.ndarray, "size channels"]:
    position = np.arange(1, size + 1, dtype=np.float32) / np.float32(size + 1e-6) * np.float32(2 * np.pi)
    channel = np.arange(channels)
    period = np.float32(_TEMPERATURE) ** (2 * (channel // 2) / channels).astype(np.float32)
    angle = position[:, None] / period
    return np.where(channel % 2, np.cos(angle), np.sin(angle))
