"""Adapter between the automatic mask generators and a SAM network: SAM and SAM 2 behind one interface.

Shapes: B crops [h, w], S side of the input, P points, K masks of a point, m side of their logits.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from corrclip_jax.config import Config, source_network
from corrclip_jax.models.layers import run
from corrclip_jax.models.sam import sam1, sam2
from corrclip_jax.ops import resize
from corrclip_jax.ops.resize import Length
from corrclip_jax.runtime.memory import even_part

_MOST_ON_TPUS = 16  # points


class SAMAdapter(NamedTuple):
    """What mask generation needs of a SAM; sizes may be traced.

    Attributes:
      resized_extent: from an image's (height, width) to the height and width of the input that it covers.
      enlarge: `enlarge(length, extent, out, rows)` is the matrix from an axis of mask logits (m = `length`) to the
        `out` pixels of an image that covers `extent` of the input. It has `rows` rows, of which those beyond `out`
        have no meaning.
      preprocess: images (and their true `size`) to the network's input.
      encode: a batch of inputs to features.
      prepare: one image's features to what its prompts share.
      decode: that, points and labels to mask logits and predicted IoU.
    """

    resized_extent: Callable[[Length, Length], tuple[Length, Length]]
    enlarge: Callable[[int, Length, Length, int], Any]
    preprocess: Callable[..., Float[Array, "B S S 3"]]
    encode: Callable[..., Any]
    prepare: Callable[..., Any]
    decode: Callable[..., tuple[Float[Array, "P K m m"], Float[Array, "P K"]]]


def sam_adapter(config: Config, params: Mapping[str, Any]) -> SAMAdapter:
    """The adapter of the configured source's network; `params` is that network's own tree.

    Raises:
      ValueError: where the configuration does not have the network.
    """
    name, network = source_network(config)
    dtype, image_size = jnp.dtype(config.dtype), network.image_size
    model = sam1.SAM1(network, dtype) if name == "sam1" else sam2.SAM2(network, dtype)
    apply: Callable[..., Any] = partial(run, model, params)
    methods = {
        "encode": partial(apply, method="encode"),
        "prepare": partial(apply, method="prepare"),
        "decode": partial(apply, method="decode", multimask=config.regions.multimask),
    }
    if name == "sam1":

        def by_way_of_input(length: int, extent: Length, out: Length, rows: int) -> Any:
            return resize.bilinear_twice(np.arange(rows), length, image_size, extent, out)

        return SAMAdapter(
            partial(sam1.resized_extent, image_size=image_size),
            by_way_of_input,
            partial(sam1.preprocess, image_size=image_size),
            **methods,
        )

    def directly(length: int, extent: Length, out: Length, rows: int) -> Any:
        return resize.bilinear_rows(np.arange(rows), length, out)

    return SAMAdapter(
        lambda height, width: (image_size, image_size),
        directly,
        partial(sam2.preprocess, image_size=image_size, dtype=dtype),
        **methods,
    )


def decode_points(
    adapter: SAMAdapter, context: Any, points: Float[Array, "P 2"], at_once: int
) -> tuple[Float[Array, "P K m m"], Float[Array, "P K"]]:
    """Mask logits and predicted IoU of each point alone.

    Args:
      adapter: the network.
      context: the result of `adapter.prepare` for one image.
      points: (x, y) in pixels of the network's input.
      at_once: how many points are decoded together, at most 16 on TPUs, whose maps mostly stay on the chip. On CPU
        it is one, whose maps (4 MB each) fit in the caches.
    """

    @jax.jit  # traced once for all ways to go through the points
    def one_point(point: Float[Array, "2"]) -> tuple[Float[Array, "K m m"], Float[Array, " K"]]:
        logits, iou = adapter.decode(context, point[None, None], jnp.ones((1, 1), jnp.int32))
        return logits[0], iou[0]

    each = partial(jax.lax.map, one_point)
    on_chip = even_part(min(at_once, _MOST_ON_TPUS), len(points))
    own = {"tpu": partial(each, batch_size=on_chip)} if on_chip < at_once else {}
    return jax.lax.platform_dependent(points, cpu=each, **own, default=partial(each, batch_size=at_once))
