"""Adapter between `panoptic.py` and a network of queries: EoMT and Mask2Former behind one interface.

It holds where the two networks' processing differs (`EomtImageProcessor`, `Mask2FormerImageProcessor` of
transformers).

Shapes: B images [H, W], S side of the input, Q queries, K classes with "nothing" as the last, m side of the masks.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from corrclip_jax.config import Config, source_network
from corrclip_jax.models.eomt import EoMT
from corrclip_jax.models.layers import IMAGENET_MEAN, IMAGENET_STD, normalise_channels, run
from corrclip_jax.models.mask2former.model import Mask2Former
from corrclip_jax.ops import resize
from corrclip_jax.ops.integers import divide
from corrclip_jax.ops.masks import inside
from corrclip_jax.ops.resize import Length

_MASK2FORMER_SIZE = 384  # in its post-processing, whatever the input's size


class QueryNetworkAdapter(NamedTuple):
    """A network of queries and the rules of its official post-processing.

    Attributes:
      image_size: side of the input, a square.
      resized_extent: from an image's (height, width) to the height and width of the input that it covers; may be
        traced.
      predict: a batch of inputs to logits of classes and masks.
      threshold: a query is a candidate if its best class has a probability above it.
      intermediate_size: mask logits are first enlarged to a square of this side, then the part of it that the image
        covers to the image.
      mask2former_rules: Mask2Former's rules instead of EoMT's: probabilities, not logits, are enlarged to the
        image; they are multiplied by the query's score before they are compared with the mask threshold; a region
        is all that its query wins, not only what lies within its own mask; and `continue_numbering` holds, so that
        two regions may have one id.
    """

    image_size: int
    resized_extent: Callable[[Length, Length], tuple[Length, Length]]
    predict: Callable[[Float[Array, "B S S 3"]], tuple[Float[Array, "B Q K"], Float[Array, "B Q m m"]]]
    threshold: float
    intermediate_size: int
    mask2former_rules: bool


def query_adapter(config: Config, params: Mapping[str, Any]) -> QueryNetworkAdapter:
    """The adapter of the configured source's network; `params` is that network's own tree.

    Raises:
      ValueError: where the configuration does not have the network.
    """
    name, network = source_network(config)
    image_size, dtype = network.image_size, jnp.dtype(config.dtype)
    model = EoMT(network, dtype) if name == "eomt" else Mask2Former(network, dtype)
    predict: Callable[..., Any] = partial(run, model, params)
    if name == "eomt":
        extent = partial(eomt_resized_extent, image_size=image_size)
        return QueryNetworkAdapter(image_size, extent, predict, 0.8, image_size, False)
    return QueryNetworkAdapter(
        image_size, lambda height, width: (image_size, image_size), predict, 0.5, _MASK2FORMER_SIZE, True
    )


def preprocess(
    network: QueryNetworkAdapter, images: UInt8[Array, "B H W 3"], size: Int[Array, "2"] | None = None
) -> Float[Array, "B S S 3"]:
    """Images to the network's input: Pillow's resize to `resized_extent`, black beyond, ImageNet's statistics.

    Args:
      network: the adapter.
      images: RGB, 0..255.
      size: the true height and width of images in the top left corners of a padded batch; may be traced.
    """
    height, width = images.shape[1:3] if size is None else size
    extent = network.resized_extent(height, width)
    pixels = resize.pillow(images, (height, width), extent, network.image_size)
    within = inside((network.image_size, network.image_size), extent)
    pixels = jnp.where(within[:, :, None], pixels, 0) / 255
    return normalise_channels(pixels, IMAGENET_MEAN, IMAGENET_STD)


def eomt_resized_extent(height: Length, width: Length, image_size: int = 640) -> tuple[Length, Length]:
    """Height and width that an image covers of EoMT's input: the longer side is `image_size`, as a rule.

    `get_size_with_aspect_ratio` of transformers has two peculiarities, which are kept. Where the shorter side keeps
    its length the image is not resized at all; and the longer side is computed from the unrounded shorter one in
    floats, so that it is one pixel short for some sizes. An image so narrow that transformers fails on it gets one
    pixel, or `image_size` of them.
    """
    if isinstance(height, int) and isinstance(width, int):
        shortest, longest = min(height, width), max(height, width)
        exact = image_size * shortest / longest
        short, long = round(exact), int(exact * longest / shortest)
        long = image_size if shortest == longest else longest if short == shortest else long
        short, long = max(short, 1), min(long, image_size)
        return (short, long) if height < width else (long, short)
    return _traced_extent(jnp.int32(height), jnp.int32(width), image_size)


def _traced_extent(
    height: Int[Array, ""], width: Int[Array, ""], image_size: int
) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """`eomt_resized_extent` in whole numbers, with the results of Python's floats."""
    shortest, longest = jnp.minimum(height, width), jnp.maximum(height, width)
    low, rest = divide(image_size * shortest, longest)
    up = (2 * rest > longest) | ((2 * rest == longest) & (low & 1 == 1))
    short = low + up.astype(jnp.int32)
    long = jnp.where(short == shortest, longest, image_size - _falls_short(image_size * shortest, longest))
    long = jnp.where(shortest == longest, image_size, long)
    short, long = jnp.maximum(short, 1), jnp.minimum(long, image_size)
    return jnp.where(height < width, short, long), jnp.where(height < width, long, short)


def _falls_short(number: Int[Array, ""], divisor: Int[Array, ""]) -> Int[Array, ""]:
    """Whether number / divisor * divisor < number in double precision, in whole numbers; number < 2 ** 30.

    The quotient in 53 bits is off by a remainder, in units of its last bit; times the divisor, the product falls
    short if that is more than half of a last bit of `number`, downwards.
    """
    low = 31 - jax.lax.clz(number)
    exponent = low - (31 - jax.lax.clz(divisor))  # the quotient's, or one above
    smaller = jnp.where(
        exponent >= 0,
        number < divisor << jnp.maximum(exponent, 0),
        number << jnp.maximum(-exponent, 0) < divisor,
    )
    exponent = exponent - smaller.astype(jnp.int32)

    def digit(_: Any, state: tuple[Array, Array]) -> tuple[Array, Array]:
        return divide(2 * state[1], divisor)

    whole, rest = divide(number, divisor)
    odd, rest = jax.lax.fori_loop(0, 52 - exponent, digit, (whole, rest))
    down = (2 * rest < divisor) | ((2 * rest == divisor) & (odd & 1 == 0))
    half_gap = low - exponent - 1 - (number == 1 << low).astype(jnp.int32)
    return (down & (rest > 1 << jnp.maximum(half_gap, 0))).astype(jnp.int32)
