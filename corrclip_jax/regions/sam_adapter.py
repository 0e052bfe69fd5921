"""What SAM's automatic mask program asks of a network, answered by the first SAM and by SAM 2.

Shapes: B crops [h, w], S side of the input, P points, K masks of a point, m side of their logits.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from corrclip_jax.config import Config, source_network
from corrclip_jax.models.sam import sam1, sam2
from corrclip_jax.ops import resize
from corrclip_jax.ops.resize import Length


class Network(NamedTuple):
    """What the program asks of a SAM.

    `fill(height, width)` is how much of the input a photo of that size fills, `enlarge(side, filled, out, canvas)`
    the matrix that takes an axis of logits (m = `side`) to the `out` pixels that fill `filled` of the input, in
    `canvas` rows of which those beyond `out` mean nothing; sizes may be traced. `preprocess` and `encode` work on
    batches, `prepare` on one image's features, `decode` on what that gives.
    """

    fill: Callable[[Length, Length], tuple[Length, Length]]
    enlarge: Callable[[int, Length, Length, int], Any]
    preprocess: Callable[..., Float[Array, "B S S 3"]]
    encode: Callable[..., Any]
    prepare: Callable[..., Any]
    decode: Callable[..., tuple[Float[Array, "P K m m"], Float[Array, "P K"]]]


def network(config: Config, params: Mapping[str, Any]) -> Network:
    """The configured source's network; `params` is that tower's own tree.

    Raises:
      ValueError: where the configuration does not have it.
    """
    name, tower = source_network(config)
    dtype, size = jnp.dtype(config.dtype), tower.image_size
    model = sam1.SAM1(tower, dtype) if name == "sam1" else sam2.SAM2(tower, dtype)
    apply: Callable[..., Any] = partial(model.apply, {"params": params})
    methods = {
        "encode": partial(apply, method="encode"),
        "prepare": partial(apply, method="prepare"),
        "decode": partial(apply, method="decode", multimask=config.regions.multimask),
    }
    if name == "sam1":
        fill = partial(sam1.resized_extent, image_size=size)

        def by_way_of_input(side: int, filled: Length, out: Length, canvas: int) -> Any:
            return resize.bilinear_twice(np.arange(canvas), side, size, filled, out)

        return Network(fill, by_way_of_input, partial(sam1.preprocess, image_size=size), **methods)

    def straight(side: int, filled: Length, out: Length, canvas: int) -> Any:
        return resize.bilinear_rows(np.arange(canvas), side, out)

    return Network(
        lambda height, width: (size, size), straight, partial(sam2.preprocess, image_size=size), **methods
    )
