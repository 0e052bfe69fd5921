"""Splash attention, the flash attention of TPUs that JAX ships as a Pallas kernel, for sequences of any length.

The matrix of scores stays on the chip; sequences are padded to whole blocks, and padded keys are hidden. The kernel
is a primitive here, since Pallas refuses what XLA's own attention allows: a program for several platforms at once,
and one that XLA divides over devices by itself. Both keep XLA's attention.
Shapes: B batch, T queries, S keys, H heads, D head width, V value width.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jaxtyping import Array, Bool, Float

from corrclip_jax.ops.fused_attention import fused_attention
from corrclip_jax.ops.one_batch import one_batch

PRIMITIVE = "splash_attention"
"""The name of its operation in jaxprs."""

_SMALLEST_MATRIX = 1024 * 1024  # of scores; below, XLA's fused products are no dearer
_LANES = 128
_SMALLEST_BLOCK, _LARGEST_BLOCK = 3, 8  # times the lanes


def can_splash(q: Any, k: Any, mask: Any = None) -> bool:
    """Whether the kernel takes queries [B, T, H, D] and keys [B, S, H, D], and is worth it.

    float32 stays with plain products, in full precision; a mask must be the same for all queries of an example.
    """
    fits = q.dtype == jnp.bfloat16 and (mask is None or mask.shape[1] == 1)
    return fits and q.shape[1] * k.shape[1] >= _SMALLEST_MATRIX


def splash_attention(
    q: Float[Array, "B T H D"],
    k: Float[Array, "B S H D"],
    v: Float[Array, "B S H V"],
    mask: Bool[Array, "#B 1 length"] | None = None,
    *,
    length: int | None = None,
    scale: float | None = None,
) -> Float[Array, "B T H V"]:
    """Scaled dot-product attention in bfloat16 with a float32 softmax, without ever holding its matrix.

    Args:
      q: queries.
      k: keys.
      v: values.
      mask: the keys that all queries of an example see; each example must have at least one.
      length: the number of keys that are no padding; by default all.
      scale: what the products are multiplied by; by default D ** -0.5.

    Returns:
      What `ops.attention.attention` gives, but for rounding.
    """
    seen = jnp.ones((1, 1, length or k.shape[1]), bool) if mask is None else mask
    seen = jnp.pad(seen[:, 0], ((0, 0), (0, k.shape[1] - seen.shape[2])))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return _attend.bind(q, k, v, jnp.broadcast_to(seen, k.shape[:2]), scale=scale)


def kernel(
    q: Float[Array, "B T H D"],
    k: Float[Array, "B S H D"],
    v: Float[Array, "B S H V"],
    seen: Bool[Array, "B S"],
    *,
    scale: float,
    interpret: bool = False,
) -> Float[Array, "B T H V"]:
    """The kernel between layouts; `interpret` runs it on any platform, slowly, in Pallas' interpreter."""
    from jax.experimental.pallas.ops.tpu import splash_attention as splash  # slow to import

    rows, columns = q.shape[1], k.shape[1]
    (q_block, q_length), (k_block, k_length) = blocks(rows), blocks(columns)
    hidden = jnp.pad(~seen, ((0, 0), (0, k_length - columns)), constant_values=True).astype(jnp.int32)
    heads = _by_head(q, q_length, scale), _by_head(k, k_length), _by_head(v, k_length)
    # The sequence lies along the lanes: heads narrower than the 128 lanes waste nothing.
    lanes = splash.QKVLayout.SEQ_MINOR
    attend = splash.make_splash_mha_single_device(
        splash.MultiHeadMask([splash.FullMask((q_length, k_length))] * q.shape[2]),
        block_sizes=splash.BlockSizes(
            block_q=q_block,
            block_kv=k_block,
            block_kv_compute=k_block,
            q_layout=lanes,
            k_layout=lanes,
            v_layout=lanes,
        ),
        interpret=interpret,
    )
    everyone = jnp.zeros(q_length, jnp.int32)

    def one_example(example: tuple[Array, Array, Array, Array]) -> Array:
        q, k, v, hidden = example
        return attend(q, k, v, segment_ids=splash.SegmentIds(everyone, hidden))

    with (
        jax.default_matmul_precision("default"),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        out = jax.vmap(one_example)((*heads, hidden))
    out = jnp.moveaxis(out, 1, 2).reshape(len(q), q_length, -1)[:, :rows]
    return out.reshape(*q.shape[:3], -1).astype(v.dtype)


def _plain(q: Array, k: Array, v: Array, seen: Array, *, scale: float) -> Array:
    return fused_attention(q, k, v, seen[:, None], scale=scale)


def _mapped(operands: Sequence[Array], axes: Sequence[Any], *, scale: float) -> tuple[Array, int]:
    return one_batch(partial(_attend.bind, scale=scale), operands, axes), 0


def _lower(context: mlir.LoweringRuleContext, *operands: Any, scale: float) -> Any:
    """The kernel in programs of TPUs alone whose devices run it on their own."""
    module: Any = context.module_context
    axes = module.axis_context
    if hasattr(axes, "manual_axes"):  # in shard_map
        own = set(axes.manual_axes) == set(axes.mesh.axis_names)
    else:
        own = getattr(axes, "num_devices", 1) == 1
    function = kernel if own and len(module.platforms) == 1 else _plain
    return mlir.lower_fun(partial(function, scale=scale), multiple_results=False)(context, *operands)


_attend = Primitive(PRIMITIVE)
_attend.def_abstract_eval(
    lambda q, k, v, seen, scale: q.update(shape=(*q.shape[:3], v.shape[-1]), dtype=v.dtype)
)
batching.primitive_batchers[_attend] = _mapped
mlir.register_lowering(_attend, mlir.lower_fun(_plain, multiple_results=False))
mlir.register_lowering(_attend, _lower, platform="tpu")


def _by_head(x: Array, length: int, scale: float = 1.0) -> Array:
    """[B, T, H, D] scaled, padded with zeros, as [B, H, length, D]: before heads are split, where that is cheap."""
    tokens = x.reshape(*x.shape[:2], -1)
    tokens = tokens if scale == 1 else tokens * jnp.asarray(scale, x.dtype)
    tokens = jnp.pad(tokens, ((0, 0), (0, length - x.shape[1]), (0, 0)))
    return jnp.moveaxis(tokens.reshape(len(x), length, *x.shape[2:]), 1, 2)


def blocks(length: int) -> tuple[int, int]:
    """The size of a block, and the length of a sequence padded to whole blocks: as little padding as possible.

    >>> blocks(1765), blocks(1100)
    ((896, 1792), (384, 1152))
    """
    lanes = -(-length // _LANES)
    fewest = -(-lanes // _LARGEST_BLOCK)
    most = max(fewest, lanes // _SMALLEST_BLOCK)
    padded, block = min((count * -(-lanes // count), -(-lanes // count)) for count in range(fewest, most + 1))
    return block * _LANES, padded * _LANES
