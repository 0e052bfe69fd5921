"""SAM 2's neck: a feature pyramid that brings the trunk's maps to one width."""

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from corrclip_jax.models.layers import Conv


class FPNNeck(nn.Module):
    """1 x 1 projections of the four maps; only the second coarsest is enriched from above.

    The coarsest map is dropped after it has served. As published, levels 0 and 1 are projections alone, and
    the enlargement is nearest-neighbour. `convs_0` is that of the coarsest level.
    """

    width: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, maps: list[Float[Array, "B _ _ _"]], projected: int = 0
    ) -> list[Float[Array, "B _ _ _"]]:
        """Four maps, finest first, to three: sides S/4, S/8, S/16. The first `projected` stay as they are."""
        levels = [
            x
            if level < projected
            else Conv(self.width, (1, 1), dtype=self.dtype, name=f"convs_{len(maps) - 1 - level}")(x)
            for level, x in enumerate(maps)
        ]
        above = levels[-1].repeat(2, axis=1).repeat(2, axis=2)
        return [*levels[:-2], levels[-2] + above]
