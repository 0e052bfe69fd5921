"""A SAM 2 small enough for tests, and random weights for any size."""

import jax
import jax.numpy as jnp
import numpy as np

from corrclip_jax.config import SAM2Config
from corrclip_jax.models.sam.sam2 import SAM2

SMALL = SAM2Config(
    image_size=64, width=8, heads=1, stages=(1, 1, 2, 1), global_blocks=(3,), window_sizes=(8, 4, 6, 3),
    background_size=(3, 3), embed_dim=32, decoder_heads=4, decoder_mlp_width=48, mask_channels=8,
)  # fmt: skip


def random_params(config: SAM2Config, seed: int = 0) -> dict:
    """Weights that keep activations near one, biases and norms that are not the identity."""
    rng = np.random.default_rng(seed)
    image = jax.ShapeDtypeStruct((1, config.image_size, config.image_size, 3), jnp.float32)
    shapes = jax.eval_shape(SAM2(config).init, jax.random.key(0), image)["params"]

    def draw(path, leaf):
        noise = rng.standard_normal(leaf.shape).astype(np.float32)
        match path[-1].key:
            case "scale":
                return jax.device_put(1 + 0.1 * noise)
            case "kernel":
                return jax.device_put(noise / np.sqrt(np.prod(leaf.shape[:-1])))
            case _:
                return jax.device_put(0.1 * noise)

    return jax.tree_util.tree_map_with_path(draw, shapes)
