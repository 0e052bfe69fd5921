"""Similarity: unit-length patch features of windows, by the configured backbone (METHOD.md, section 4).

A new backbone is a family with the role "similarity" (see `config.families`) and a row in `BACKBONES`. Its
configuration has `image_size`, `patch_size`, `width`, `heads` and `mlp_ratio`; its module takes images
[N, h, w, 3] and gives features [N, h // patch_size, w // patch_size, C].
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from corrclip_jax.config import FAMILIES, Config, similarity_network
from corrclip_jax.method.correlation import normalise
from corrclip_jax.models.layers import IMAGENET_MEAN, IMAGENET_STD, run

# As the official implementation takes CLIP's normalisation back; its windows are made with rounded constants.
_CLIP_MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
_CLIP_STD = np.array([0.26862954, 0.26130258, 0.27577711])
_IMAGENET_MEAN, _IMAGENET_STD = np.array(IMAGENET_MEAN), np.array(IMAGENET_STD)


def imagenet_pixels(pixels: Float[Array, "N h w 3"]) -> Float[Array, "N h w 3"]:
    """CLIP-normalised pixels in ImageNet's normalisation."""
    scale = (_CLIP_STD / _IMAGENET_STD).astype(np.float32)
    shift = ((_CLIP_MEAN - _IMAGENET_MEAN) / _IMAGENET_STD).astype(np.float32)
    return pixels * scale[None, None, None] + shift[None, None, None]


BACKBONES: dict[str, Callable[[Float[Array, "N h w 3"]], Float[Array, "N h w 3"]]] = {"dino": imagenet_pixels}
"""By family: CLIP-normalised windows in the normalisation of the backbone."""


def patch_features(
    config: Config, params: Mapping[str, Any], pixels: Float[Array, "N h w 3"]
) -> Float[Array, "N gh gw C"]:
    """Unit-length features of each patch of CLIP-normalised windows, float32.

    Args:
      config: the models; `config.similarity` names the backbone.
      params: the tree of `load`, of which the backbone's subtree is read.
      pixels: CLIP-normalised windows.

    Raises:
      ValueError: where the configuration does not have the backbone.
    """
    name, network = similarity_network(config)
    module = FAMILIES[name].network()(network, jnp.dtype(config.dtype))
    features = run(module, params[name], BACKBONES[name](pixels))
    return normalise(features.astype(jnp.float32))


def patch_size(config: Config) -> int:
    """Side of the backbone's patches, in pixels of a window."""
    return similarity_network(config)[1].patch_size
