"""Hiera, SAM 2's image trunk: attention in windows, the queries max-pooled where a stage begins.

Shapes: B images, N windows, H W grid, C width.
"""

from collections.abc import Iterator
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from corrclip_jax.config import SAM2Config
from corrclip_jax.models.layers import (
    MLP,
    Conv,
    Dense,
    LayerNorm,
    Module,
    gelu,
    normal,
    window_merge,
    window_partition,
)
from corrclip_jax.ops import resize
from corrclip_jax.ops.attention import attention


class BlockPlan(NamedTuple):
    """A block: width and heads of its output, window side (0 is global), whether it pools, ends its stage."""

    width: int
    heads: int
    window: int
    pool: bool
    ends_stage: bool


def block_plans(config: SAM2Config) -> Iterator[BlockPlan]:
    """The blocks in order. The first of a stage pools, and still attends in the stage before's windows."""
    index = 0
    for stage, blocks in enumerate(config.stages):
        for position in range(blocks):
            pool = stage > 0 and position == 0
            window = config.window_sizes[stage - 1 if pool else stage]
            yield BlockPlan(
                width=config.width << stage,
                heads=config.heads << stage,
                window=0 if index in config.global_blocks else window,
                pool=pool,
                ends_stage=position == blocks - 1,
            )
            index += 1


def max_pool(x: Float[Array, "N H W C"]) -> Float[Array, "N H//2 W//2 C"]:
    """The largest of every 2 x 2 cells, axis by axis: TPUs are slow at a maximum over two axes at once."""
    count, height, width, channels = x.shape
    x = x.reshape(count, height // 2, 2, width, channels)
    x = jnp.maximum(x[:, :, 0], x[:, :, 1]).reshape(count, height // 2, width // 2, 2, channels)
    return jnp.maximum(x[:, :, :, 0], x[:, :, :, 1])


class MultiScaleAttention(nn.Module):
    """Self-attention within windows; with `pool` the queries, and so the output, have half the side."""

    width: int
    heads: int
    pool: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N h w D"]:
        """Windows [N, H, W, C] to [N, H, W, width], or half the side."""
        q, k, v = (Dense(self.width, dtype=self.dtype, name=name)(x) for name in ("query", "key", "value"))
        if self.pool:
            q = max_pool(q)
        out = attention(*(y.reshape(len(x), -1, self.heads, self.width // self.heads) for y in (q, k, v)))
        return Dense(self.width, dtype=self.dtype, name="proj")(out.reshape(q.shape))


class MultiScaleBlock(nn.Module):
    """A pre-LN transformer block on a grid. Where the width changes the residual is a pooled projection.

    Attributes:
      plan: of the block.
      windowed: whether the grids are its windows already, which all but attention may be as well.
    """

    plan: BlockPlan
    windowed: bool = False
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "N H W C"]) -> Float[Array, "N h w D"]:
        """A grid [N, H, W, C] to [N, H, W, width], or to half the side where the block pools."""
        plan = self.plan
        normed = LayerNorm(epsilon=1e-6, dtype=self.dtype, name="norm1")(x)
        if plan.pool:
            x = max_pool(Dense(plan.width, dtype=self.dtype, name="proj")(normed))
        attend = MultiScaleAttention(plan.width, plan.heads, plan.pool, self.dtype, name="attn")
        if plan.window and not self.windowed:
            x = x + window_merge(attend(window_partition(normed, plan.window)), *x.shape[1:3])
        else:
            x = x + attend(normed)
        normed = LayerNorm(epsilon=1e-6, dtype=self.dtype, name="norm2")(x)
        return x + MLP(4 * plan.width, gelu, ("layers_0", "layers_1"), self.dtype, name="mlp")(normed)


def _cut(x: Float[Array, "_ _ _ C"], now: int, wanted: int, side: int) -> Float[Array, "_ _ _ C"]:
    """Square maps, or their windows of a side `now`, as windows of the side `wanted`; 0 stands for whole maps."""
    whole = window_merge(x, side, side) if now else x
    return window_partition(whole, wanted) if wanted else whole


class Hiera(Module):
    """The trunk; it returns the map at the end of each stage, finest first.

    Blocks in a row whose windows fill the map stay in windows, so that none is cut and merged in between.
    """

    config: SAM2Config
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "B S S 3"]) -> list[Float[Array, "B h w C"]]:
        """Normalised images to four maps: sides S/4, S/8, S/16, S/32, widths doubling from `config.width`."""
        width = self.config.width
        x = Conv(width, (7, 7), (4, 4), padding=3, dtype=self.dtype, name="patch_embed")(images)
        x = x + self._positions(x.shape[1]).astype(self.dtype)[None]
        maps, side, cut = [], x.shape[1], 0
        for index, plan in enumerate(block_plans(self.config)):
            wanted = plan.window if plan.window and side % plan.window == 0 else 0
            if wanted != cut:
                x = _cut(x, cut, wanted, side)
            x = MultiScaleBlock(plan, wanted > 0, self.dtype, name=f"blocks_{index}")(x)
            side, cut = (side // 2, wanted // 2) if plan.pool else (side, wanted)
            if plan.ends_stage:
                maps.append(_cut(x, cut, 0, side))
        return maps

    def _positions(self, side: int) -> Float[Array, "side side C"]:
        """A coarse grid enlarged (bicubic) plus one window's embedding repeated."""
        width, window = self.config.width, self.config.window_sizes[0]
        rows, columns = self.config.background_size
        init = normal(0.02)
        # Both are stored as published, channels first.
        background = self.param("pos_embed", init, (1, width, rows, columns))
        tile = self.param("pos_embed_window", init, (1, width, window, window))
        enlarged = resize.separable(
            background[0].transpose(1, 2, 0),
            resize.bicubic_matrix(rows, side, side / rows),
            resize.bicubic_matrix(columns, side, side / columns),
        )
        return enlarged + jnp.tile(tile[0].transpose(1, 2, 0), (side // window, side // window, 1))
