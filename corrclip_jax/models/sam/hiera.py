"""Hiera, SAM 2's image trunk: attention in windows, the queries max-pooled where a stage begins.

Shapes: B images, N windows, H W grid, C width.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
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
    rows_of,
    run,
    window_merge,
    window_partition,
)
from corrclip_jax.ops import resize
from corrclip_jax.ops.attention import attention
from corrclip_jax.ops.loops import map_chunks


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
    x = jnp.maximum(x[:, ::2], x[:, 1::2])
    return jnp.maximum(x[:, :, ::2], x[:, :, 1::2])


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


_KERNEL, _STRIDE, _BEFORE = (7, 7), 4, 3  # of the patch embedding; the zeros before the first pixel
_TILE = 8  # columns of a patch with a column of zeros, as TPUs hold them


def _embed_by_products(
    params: Mapping[str, Array], images: Float[Array, "B S S 3"]
) -> Float[Array, "B S//4 S//4 C"]:
    """The patch embedding in bfloat16: columns are taken by a product with zeros and ones, which is exact.

    TPUs spend eight times as long on a convolution of three channels, most of it on laying out the pixels for it.
    """
    kernel, bias = (params[name].astype(jnp.bfloat16) for name in ("kernel", "bias"))
    batch, side, _, colours = images.shape
    patches = side // _STRIDE
    source = (_STRIDE * jnp.arange(patches) - _BEFORE)[None] + jnp.arange(_KERNEL[1])[:, None]
    taken = jnp.arange(side)[:, None, None] == jnp.pad(source, ((0, 1), (0, 0)), constant_values=-1)[None]
    images = jnp.pad(images.astype(jnp.bfloat16), ((0, 0), (_BEFORE, _STRIDE - _BEFORE), (0, 0), (0, 0)))
    x = jnp.einsum("bhwc,wtp->bhctp", images, taken.astype(jnp.bfloat16))
    x = x.reshape(batch, side + _STRIDE, colours * _TILE, patches)
    rows = [x[:, row : row + side - _BEFORE : _STRIDE] for row in range(_KERNEL[0])]
    kernel = jnp.pad(kernel.transpose(0, 2, 1, 3), ((0, 0), (0, 0), (0, _TILE - _KERNEL[1]), (0, 0)))
    kernel = kernel.reshape(-1, kernel.shape[-1])
    x = jnp.einsum("kd,bikj->dbij", kernel, jnp.concatenate(rows, 2))
    return (x + rows_of(bias, x.ndim)).transpose(1, 2, 3, 0)


# On TPUs, cells of the finest maps that go through blocks together. More do not fit on the chip in both layouts,
# that of products and that of attention, and the way from one to the other through memory takes longer than either.
_CELLS_ON_TPUS = 1 << 15


class Hiera(Module):
    """The trunk; it returns the map at the end of each stage, finest first.

    Blocks in a row whose windows fill the map stay in windows, so that none is cut and merged in between.
    """

    config: SAM2Config
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(
        self, images: Float[Array, "B S S 3"], project: Sequence[Callable[[Array], Array]] = ()
    ) -> list[Float[Array, "B h w _"]]:
        """Normalised images to four maps: sides S/4, S/8, S/16, S/32, widths doubling from `config.width`.

        Args:
          images: RGB.
          project: of the finest maps, what is made of each cell by itself before windows are merged.
        """
        x = self._patch_embed(images)
        x = x + self._positions(x.shape[1]).astype(self.dtype)[None]
        plans = list(block_plans(self.config))
        maps: list[Array] = []
        side, cut = x.shape[1], 0
        early = self._fine_blocks(plans, x)
        for index, plan in enumerate(plans):
            wanted = plan.window if plan.window and side % plan.window == 0 else 0
            if wanted != cut:
                x = _cut(x, cut, wanted, side)
            if index == 0 and early:
                outputs = self._by_parts(plans[:early], x)
            block = MultiScaleBlock(plan, wanted > 0, self.dtype, name=f"blocks_{index}")
            x = outputs[index] if index < early else block(x)
            side, cut = (side // 2, wanted // 2) if plan.pool else (side, wanted)
            if plan.ends_stage:
                finished = project[len(maps)](x) if len(maps) < len(project) else x
                maps.append(_cut(finished, cut, 0, side))
        return maps

    def _patch_embed(self, images: Float[Array, "B S S 3"]) -> Float[Array, "B S//4 S//4 C"]:
        """A convolution of 7 x 7 pixels with stride 4."""
        strides = (_STRIDE, _STRIDE)
        convolution = partial(Conv, self.config.width, _KERNEL, strides, padding=_BEFORE, dtype=self.dtype)
        if not self._has_own_way_on_tpus():
            return convolution(name="patch_embed")(images)
        params: Any = self.get_variable("params", "patch_embed")
        convolve = partial(run, convolution(parent=None))
        return jax.lax.platform_dependent(params, images, tpu=_embed_by_products, default=convolve)

    def _has_own_way_on_tpus(self) -> bool:
        """Whether parameters are at hand, for functions of them, and the compute type is that of TPUs."""
        return self.dtype == jnp.bfloat16 and not self.is_initializing()

    def _fine_blocks(self, plans: Sequence[BlockPlan], x: Float[Array, "B s s C"]) -> int:
        """How many of the first blocks stay in the first one's windows and have many cells."""
        window, cells = plans[0].window, x.shape[0] * x.shape[1] * x.shape[2]
        if not self._has_own_way_on_tpus() or not window or x.shape[1] % window:
            return 0
        for count, plan in enumerate(plans):
            if cells <= _CELLS_ON_TPUS or plan.window != window:
                return count
            if plan.pool:
                window, cells = window // 2, cells // 4
        return len(plans)

    def _by_parts(
        self, plans: Sequence[BlockPlan], windows: Float[Array, "N w w C"]
    ) -> list[Float[Array, "N _ _ _"]]:
        """What each of the first blocks makes of windows; on TPUs, of a part of the windows at a time."""
        params: list[Any] = [self.get_variable("params", f"blocks_{index}") for index in range(len(plans))]

        def blocks(params: Sequence[Any], x: Array) -> list[Array]:
            outputs = []
            for plan, given in zip(plans, params, strict=True):
                x = run(MultiScaleBlock(plan, True, self.dtype, parent=None), given, x)
                outputs.append(x)
            return outputs

        def parts(params: Sequence[Any], x: Array) -> list[Array]:
            size = _CELLS_ON_TPUS // x.shape[1] ** 2
            return map_chunks(lambda part: blocks(params, part[0]), (x,), size)

        return jax.lax.platform_dependent(params, windows, tpu=parts, default=blocks)

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
