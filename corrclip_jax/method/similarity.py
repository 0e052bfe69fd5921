"""Similarity: patch features of windows or of whole images, by the configured backbone (METHOD.md, sections 4, 9).

A new backbone is a family with the role "similarity" (see `config.families`) and a row in `BACKBONES`. Its
configuration has `image_size`, `patch_size`, `width`, `heads` and `mlp_ratio`; its module takes images
[B, h, w, 3] and gives features [B, h // patch_size, w // patch_size, C]. For images of different sizes in one call
it takes `grids` [B, 2], the rows and columns of patches that are each image's own.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from corrclip_jax.config import FAMILIES, Config, similarity_network
from corrclip_jax.method.correlation import normalise
from corrclip_jax.models.layers import IMAGENET_MEAN, IMAGENET_STD, normalise_channels, run
from corrclip_jax.ops import resize
from corrclip_jax.ops.integers import divide, quotient
from corrclip_jax.ops.loops import map_chunks

# Of pixels 0..1. The official implementation takes CLIP's normalisation back by these, though its windows are made
# with rounded constants.
_CLIP_MEAN, _CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Backbone(NamedTuple):
    """What pixels a backbone takes.

    Attributes:
      mean, std: its normalisation of pixels 0..1.
      whole_patches: whether a whole image is resized to a number of whole patches; else pixels beyond the last
        whole one are left out.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    whole_patches: bool = True


_IMAGENET = Backbone(IMAGENET_MEAN, IMAGENET_STD)
BACKBONES: dict[str, Backbone] = {
    "dino": _IMAGENET,
    "radio": Backbone(_CLIP_MEAN, _CLIP_STD),
    "dinov2": _IMAGENET,
    "dinov3": _IMAGENET,
    "pe": Backbone((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), whole_patches=False),
}
"""The pixels of the backbones by family."""


def renormalise(pixels: Float[Array, "N h w 3"], backbone: Backbone) -> Float[Array, "N h w 3"]:
    """CLIP-normalised pixels in the normalisation of a backbone."""
    mean, std, clip_mean, clip_std = map(np.array, (backbone.mean, backbone.std, _CLIP_MEAN, _CLIP_STD))
    scale = (clip_std / std).astype(np.float32)
    shift = ((clip_mean - mean) / std).astype(np.float32)
    return pixels * scale[None, None, None] + shift[None, None, None]


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
    name, module = _module(config)
    features = run(module, params[name], renormalise(pixels, BACKBONES[name]))
    return normalise(features.astype(jnp.float32))


def dense_features(
    config: Config,
    params: Mapping[str, Any],
    images: UInt8[Array, "B H0 W0 3"],
    sizes: Int[Array, "B 2"] | None = None,
    at_once: int = 1,
) -> Float[Array, "B fh fw C"]:
    """Features of each patch of whole images, not normalised, float32.

    Args:
      config: the models; `config.similarity` names the backbone.
      params: the tree of `load`, of which the backbone's subtree is read.
      images: RGB.
      sizes: height and width of each image, for a padded batch; features beyond `feature_grid` have no meaning.
      at_once: how many images go through the network together.

    Raises:
      ValueError: where the configuration does not have the backbone.
    """
    name, module = _module(config)
    backbone = BACKBONES[name]

    def features(batch: tuple[Array, ...]) -> Array:
        pixels = jax.vmap(lambda image, *size: _input_pixels(config, image, *size))(*batch)
        grids = [jax.vmap(lambda size: jnp.stack(feature_grid(config, size)))(batch[1])] if batch[1:] else []
        pixels = normalise_channels(pixels, backbone.mean, backbone.std)
        return run(module, params[name], pixels, *grids).astype(jnp.float32)

    return map_chunks(features, (images,) if sizes is None else (images, sizes), at_once)


def feature_grid(config: Config, size: tuple[Any, ...] | Int[Array, "2"]) -> tuple[Any, Any]:
    """Rows and columns of the patches of a whole image of a size (height, width), numbers or traced values."""
    patch = patch_size(config)
    rows, columns = (quotient(side, patch) for side in _input_sides(config, size))
    return rows, columns


def padded_grid(config: Config, shape: tuple[int, ...]) -> tuple[int, int]:
    """The most rows and columns of patches of images in arrays of a shape (height, width)."""
    limit = config.method.similarity_side
    patch = patch_size(config)
    rows, columns = (_whole_patches(side if limit is None else min(side, limit), patch) for side in shape[:2])
    return rows, columns


def _input_sides(config: Config, size: tuple[Any, ...] | Int[Array, "2"]) -> list[Any]:
    """Height and width that the backbone sees an image of a size in: nearly its own, but for a limit."""
    name, network = similarity_network(config)
    patch, limit = network.patch_size, config.method.similarity_side
    static = isinstance(size[0], int | np.integer)
    xp = np if static else jnp
    longer = xp.maximum(size[0], size[1])
    shrunk = longer > limit if limit is not None else False
    sides = []
    for side in (size[0], size[1]):
        whole = patch * xp.where(
            shrunk, _whole_patches(side * (limit or 1), patch * longer), _whole_patches(side, patch)
        )
        if not BACKBONES[name].whole_patches:
            whole = xp.where(shrunk | (side < patch), whole, side)
        sides.append(int(whole) if static else whole)
    return sides


def _whole_patches(side: Any, patch: Any) -> Any:
    """side / patch, rounded half to even as Python does, at least 1; numbers or traced values."""
    whole, rest = divide(side, patch)
    up = (2 * rest > patch) | ((2 * rest == patch) & (whole & 1 == 1))
    if isinstance(whole, jax.Array):
        return jnp.maximum(whole + up.astype(whole.dtype), 1)
    return max(whole + int(up), 1)


def _input_pixels(
    config: Config, image: UInt8[Array, "H0 W0 3"], size: Int[Array, "2"] | None = None
) -> Float[Array, "H W 3"]:
    """An image in 0..1 and of the size that the backbone sees it in, in the top left corner of what it returns."""
    pixels = image.astype(jnp.float32) / 255
    own: Any = image.shape[:2] if size is None else size
    sides = _input_sides(config, own)
    if size is None and tuple(sides) == own:
        return pixels
    extents = sides if size is None else [patch_size(config) * n for n in padded_grid(config, image.shape)]
    rows, columns = (resize.linear_taps(np.arange(extents[axis]), own[axis], sides[axis]) for axis in (0, 1))
    return resize.bilinear_at(pixels, rows, columns)


def similarity_grid(config: Config, window: tuple[int, int]) -> tuple[int, int]:
    """The similarity grid of a padded window [h, w]; pixels beyond the last whole patch have no cell.

    It is the backbone's patches, or twice CLIP's along each axis where the features are those of whole images.
    """
    if config.method.similarity_of == "image":
        height, width = (2 * (side // config.clip.vision.patch_size) for side in window)
    else:
        height, width = (side // patch_size(config) for side in window)
    return height, width


def patch_size(config: Config) -> int:
    """Side of the backbone's patches, in pixels of its input."""
    return similarity_network(config)[1].patch_size


def _module(config: Config) -> tuple[str, Any]:
    name, network = similarity_network(config)
    return name, FAMILIES[name].network()(network, jnp.dtype(config.dtype))
