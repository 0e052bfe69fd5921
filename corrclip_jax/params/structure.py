"""Parameter trees: what a configuration expects, how a tree is checked against it, random parameters."""

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from corrclip_jax.config import (
    CLIPConfig,
    Config,
    NetworkConfig,
    families,
    family_of,
    networks_of,
    with_fields,
)
from corrclip_jax.params import structure_cache
from corrclip_jax.params.trees import differences, shapes_by_path

Params = dict[str, Any]

_CONSTANTS = {"scale": 1.0, "bias": 0.0, "lambda1": 1.0, "attn_mask_probs": 0.0}


@lru_cache(maxsize=32)
def expected_network(config: NetworkConfig) -> Params:
    """The parameter tree of one network as `jax.ShapeDtypeStruct` leaves; nothing is computed.

    Callers share the tree: do not change it.
    """
    network = family_of(config).network()(config, jnp.float32)

    def trace() -> Params:
        key = jax.eval_shape(lambda: jax.random.key(0))
        inputs = [_images(config)]
        if isinstance(config, CLIPConfig):
            inputs.append(jax.ShapeDtypeStruct((1, config.text.context_length), jnp.int32))
        return jax.eval_shape(network.init, key, *inputs)["params"]

    return structure_cache.kept(network, trace)


def expected_params(config: Config) -> Params:
    """The parameter tree of the whole program as `jax.ShapeDtypeStruct` leaves, a subtree a network."""
    return {name: expected_network(network) for name, network in networks_of(config).items()}


def check_params(config: Config, params: Mapping[str, Any], *, region_network: str | None = "all") -> None:
    """Check that a parameter tree is the configuration's.

    Args:
      config: the models.
      params: the tree. Leaves need a `shape` only: arrays, tracers and `jax.ShapeDtypeStruct` will do.
      region_network: the one network of regions that must be there (None: no such network); other networks of
        regions and other backbones than `config.similarity` may be there or not. "all": all networks that the
        configuration has, and no other.

    Raises:
      ValueError: lists every leaf that is missing, left over or of another shape.
    """
    optional: tuple[str, ...] = ()
    if region_network != "all":
        used = (region_network, config.similarity)
        optional = tuple(name for name in families("regions") + families("similarity") if name not in used)
    got = shapes_by_path({name: tree for name, tree in params.items() if name not in optional})
    present = [name for name in optional if getattr(config, name, None) is not None]
    wanted = _expected_shapes(with_fields(config, **dict.fromkeys(present)))
    if wanted != got:
        raise ValueError(
            "params do not fit config; load both from the same model.\n" + differences(wanted, got)
        )


@lru_cache(maxsize=8)
def _expected_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    return shapes_by_path(expected_params(config))


def init_params(config: Config, seed: int = 0) -> Params:
    """Random parameters, for benchmarks and tests: factors 1, biases 0, kernels scaled by their fan-in.

    Drawn with NumPy, which takes a few seconds at full size where Flax's initialisers take minutes, and put on the
    device, which compiles nothing: `jnp.full` and `jnp.asarray` compile a program for each shape.
    """
    rng = np.random.default_rng(seed)

    def draw(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name, parent = (str(part.key) for part in (path[-1], path[-2]))
        if name in _CONSTANTS:
            return jax.device_put(np.full(leaf.shape, _CONSTANTS[name], np.float32))
        deviation = 0.02
        if name == "kernel":
            heads_apart = len(leaf.shape) == 3 and parent != "out"
            deviation = math.prod(leaf.shape[:1] if heads_apart else leaf.shape[:-1]) ** -0.5
        values = rng.random(leaf.shape, np.float32)  # uniform: several times faster than normal
        return jax.device_put((values - np.float32(0.5)) * np.float32(deviation * 12**0.5))

    return jax.tree_util.tree_map_with_path(draw, expected_params(config))


def _images(config: Any) -> jax.ShapeDtypeStruct:
    size = config.vision.image_size if isinstance(config, CLIPConfig) else config.image_size
    return jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
