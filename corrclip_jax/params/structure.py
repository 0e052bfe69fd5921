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
    DINOConfig,
    EoMTConfig,
    Mask2FormerConfig,
    SAM1Config,
    SAM2Config,
    with_fields,
)
from corrclip_jax.models.clip.model import CLIP
from corrclip_jax.models.dino import DINO
from corrclip_jax.models.eomt import EoMT
from corrclip_jax.models.mask2former.model import Mask2Former
from corrclip_jax.models.sam.sam1 import SAM1
from corrclip_jax.models.sam.sam2 import SAM2
from corrclip_jax.params.trees import differences, shapes_by_path

TowerConfig = CLIPConfig | DINOConfig | SAM2Config | SAM1Config | EoMTConfig | Mask2FormerConfig
Params = dict[str, Any]

REGION_TOWERS = ("sam2", "sam1", "eomt", "mask2former")  # what finds regions; a configuration may have none
TOWERS = ("clip", "dino", *REGION_TOWERS)
_CONSTANTS = {"scale": 1.0, "bias": 0.0, "lambda1": 1.0, "attn_mask_probs": 0.0}


@lru_cache(maxsize=32)
def expected_tower(config: TowerConfig) -> Params:
    """The parameter tree of one tower as `jax.ShapeDtypeStruct` leaves; nothing is computed.

    Callers share the tree: do not change it.
    """
    key = jax.eval_shape(lambda: jax.random.key(0))
    match config:
        case CLIPConfig():
            tokens = jax.ShapeDtypeStruct((1, config.text.context_length), jnp.int32)
            shapes = jax.eval_shape(CLIP(config).init, key, _images(config.vision.image_size), tokens)
        case DINOConfig():
            shapes = jax.eval_shape(DINO(config).init, key, _images(config.image_size))
        case SAM2Config():
            shapes = jax.eval_shape(SAM2(config).init, key, _images(config.image_size))
        case SAM1Config():
            shapes = jax.eval_shape(SAM1(config).init, key, _images(config.image_size))
        case EoMTConfig():
            shapes = jax.eval_shape(EoMT(config).init, key, _images(config.image_size))
        case Mask2FormerConfig():
            shapes = jax.eval_shape(Mask2Former(config).init, key, _images(config.image_size))
    return shapes["params"]


def expected_params(config: Config) -> Params:
    """The parameter tree of the whole program as `jax.ShapeDtypeStruct` leaves, a subtree a tower."""
    return {name: expected_tower(tower) for name, tower in towers_of(config).items()}


def towers_of(config: Config) -> dict[str, TowerConfig]:
    """The towers' configurations by name, of those that the configuration has."""
    towers = {name: getattr(config, name) for name in TOWERS}
    return {name: tower for name, tower in towers.items() if tower is not None}


def check_params(config: Config, params: Mapping[str, Any], *, region_tower: str | None = "all") -> None:
    """Check that a parameter tree is the configuration's.

    `region_tower` is the one tower of `REGION_TOWERS` that must be there (None: not one), the others may be there
    or not; "all": all that the configuration has, and no other. Leaves need a `shape` only: arrays, tracers and
    `jax.ShapeDtypeStruct` will do.

    Raises:
      ValueError: lists every leaf that is missing, left over or of another shape.
    """
    free = () if region_tower == "all" else tuple(name for name in REGION_TOWERS if name != region_tower)
    got = shapes_by_path({name: tree for name, tree in params.items() if name not in free})
    wanted = _expected_shapes(with_fields(config, **dict.fromkeys(free)))
    if wanted != got:
        raise ValueError(
            "params do not fit config; load both from the same model.\n" + differences(wanted, got)
        )


@lru_cache(maxsize=8)
def _expected_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    return shapes_by_path(expected_params(config))


def init_params(config: Config, seed: int = 0) -> Params:
    """Random parameters, for benchmarks and tests: factors 1, biases 0, kernels scaled by their fan-in.

    Drawn with NumPy, which takes a few seconds at full size where Flax's initialisers take minutes.
    """
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        name, parent = (str(part.key) for part in (path[-1], path[-2]))
        if name in _CONSTANTS:
            return jnp.full(leaf.shape, _CONSTANTS[name], jnp.float32)
        deviation = 0.02
        if name == "kernel":
            heads_apart = len(leaf.shape) == 3 and parent != "out"
            deviation = math.prod(leaf.shape[:1] if heads_apart else leaf.shape[:-1]) ** -0.5
        values = rng.random(leaf.shape, np.float32)  # uniform: several times faster than normal
        return jnp.asarray((values - np.float32(0.5)) * np.float32(deviation * 12**0.5))

    return jax.tree_util.tree_map_with_path(draw, expected_params(config))


def _images(size: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
