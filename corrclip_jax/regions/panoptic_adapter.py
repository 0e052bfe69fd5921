"""What making regions of queries asks of a network, and where the published programs of the networks differ.

Shapes: B photos [H, W], S side of the input, Q queries, m side of their masks.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from corrclip_jax.config import Config, source_network
from corrclip_jax.models.eomt import EoMT
from corrclip_jax.models.mask2former.model import Mask2Former
from corrclip_jax.ops import resize
from corrclip_jax.ops.resize import Length

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)

_MASK2FORMER_MIDDLE = 384  # in its program, whatever the input's size


class Network(NamedTuple):
    """A network of queries and the habits of its published program.

    `fill(height, width)` is how much of the input, a square of `size`, a photo of that size fills; sizes may be
    traced. `predict` takes a batch to logits of classes and masks. A query counts if its best class has a
    probability above `threshold`. Mask logits are enlarged to `middle`, then what is filled of that to the photo.
    `by_probability` is Mask2Former's way: probabilities are enlarged to the photo, not logits; they are multiplied
    by the query's score before they are compared with the mask threshold; a region is all that its query wins, not
    only what lies within its own mask; and numbers go on from a fused region's, so that some may come twice.
    """

    size: int
    fill: Callable[[Length, Length], tuple[Length, Length]]
    predict: Callable[[Float[Array, "B S S 3"]], tuple[Float[Array, "B Q K"], Float[Array, "B Q m m"]]]
    threshold: float
    middle: int
    by_probability: bool


def network(config: Config, params: Mapping[str, Any]) -> Network:
    """The configured source's network; `params` is that tower's own tree.

    Raises:
      ValueError: where the configuration does not have it.
    """
    name, tower = source_network(config)
    size, dtype = tower.image_size, jnp.dtype(config.dtype)
    model = EoMT(tower, dtype) if name == "eomt" else Mask2Former(tower, dtype)
    predict: Callable[..., Any] = partial(model.apply, {"params": params})
    if name == "eomt":
        return Network(size, partial(eomt_sides, size=size), predict, 0.8, size, False)
    return Network(size, lambda height, width: (size, size), predict, 0.5, _MASK2FORMER_MIDDLE, True)


def preprocess(
    network: Network, images: UInt8[Array, "B H W 3"], sides: Int[Array, "2"] | None = None
) -> Float[Array, "B S S 3"]:
    """Photos to the network's input: Pillow's resize to what they fill, black beyond, ImageNet's statistics.

    `sides`, maybe traced, are the height and width of photos that fill the top left corner of `images` only.
    """
    height, width = images.shape[1:3] if sides is None else sides
    fill = network.fill(height, width)
    pixels = resize.pillow(images, (height, width), fill, network.size)
    ticks = jnp.arange(network.size)
    within = (ticks < fill[0])[:, None] & (ticks < fill[1])
    return (jnp.where(within[:, :, None], pixels, 0) / 255 - jnp.array(MEAN)) / jnp.array(STD)


def eomt_sides(height: Length, width: Length, size: int = 640) -> tuple[Length, Length]:
    """Height and width that a photo has in EoMT's input: the longer side is `size`, as a rule.

    The published rule has two oddities, which are kept. Where the shorter side keeps its length the photo is not
    resized at all; and the longer side is made from the unrounded shorter one in floats, so that it is one pixel
    short for some sizes. A photo so narrow that the published program fails gets a pixel, or `size` of them.
    """
    if isinstance(height, int) and isinstance(width, int):
        shortest, longest = min(height, width), max(height, width)
        exact = size * shortest / longest
        short, long = round(exact), int(exact * longest / shortest)
        long = size if shortest == longest else longest if short == shortest else long
        short, long = max(short, 1), min(long, size)
        return (short, long) if height < width else (long, short)
    return _traced_sides(jnp.int32(height), jnp.int32(width), size)


def _traced_sides(
    height: Int[Array, ""], width: Int[Array, ""], size: int
) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """`eomt_sides` in whole numbers, with what Python's floats would give."""
    shortest, longest = jnp.minimum(height, width), jnp.maximum(height, width)
    low, rest = jnp.divmod(size * shortest, longest)
    short = low + ((2 * rest > longest) | ((2 * rest == longest) & (low % 2 == 1)))
    long = jnp.where(short == shortest, longest, size - _falls_short(size * shortest, longest))
    long = jnp.where(shortest == longest, size, long)
    short, long = jnp.maximum(short, 1), jnp.minimum(long, size)
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
    exponent = exponent - smaller

    def digit(_, state):
        odd, rest = state
        odd, rest = jnp.divmod(2 * rest, divisor)
        return odd, rest

    whole, rest = jnp.divmod(number, divisor)
    odd, rest = jax.lax.fori_loop(0, 52 - exponent, digit, (whole, rest))
    down = (2 * rest < divisor) | ((2 * rest == divisor) & (odd % 2 == 0))
    half_gap = low - exponent - 1 - (number == 1 << low)
    return (down & (rest > 1 << jnp.maximum(half_gap, 0))).astype(jnp.int32)
