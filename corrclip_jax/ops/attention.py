"""Attention: one function, an implementation for each platform."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from corrclip_jax.ops.cudnn_attention import can_flash, flash_attention
from corrclip_jax.ops.fused_attention import fused_attention
from corrclip_jax.ops.loops import map_chunks, map_rows
from corrclip_jax.ops.splash_attention import blocks, can_splash, splash_attention

_LONG = 1024  # tokens, see `pad_tokens`


def pad_tokens(x: Float[Array, "B T C"]) -> Float[Array, "B padded C"]:
    """Long sequences in bfloat16 padded with zeros to whole blocks of splash attention; others as they are.

    TPUs then neither pad nor cut before and after every attention, which would cost as much as the attention
    itself. `attention` takes the number of tokens without padding as `length`.
    """
    length = x.shape[1]
    short = x.dtype != jnp.bfloat16 or length < _LONG
    return x if short else jnp.pad(x, ((0, 0), (0, blocks(length)[1] - length), (0, 0)))


@partial(jax.jit, static_argnames=("length", "scale"))  # blocks of one network share its trace
def attention(
    q: Float[Array, "B T H D"],
    k: Float[Array, "B S H D"],
    v: Float[Array, "B S H V"],
    mask: Bool[Array, "#B #T length"] | None = None,
    *,
    length: int | None = None,
    scale: float | None = None,
) -> Float[Array, "B T H V"]:
    """Scaled dot-product attention; the softmax is float32 whatever the inputs are. V is at most D.

    `scale` is what the products of queries and keys are multiplied by, by default D ** -0.5. A query sees the
    keys where `mask` is True; a mask of one row holds for all queries. Keys from `length` on are padding, which
    no query sees. The implementation is chosen for the platform that the program is lowered for: on CPU plain
    matrix products by head (XLA's batched products of long sequences are several times slower there); on NVIDIA
    GPUs cuDNN's flash attention where it takes the operands (bfloat16, see `cudnn_attention`); on TPUs splash
    attention where the matrix is large (bfloat16, see `splash_attention`), else plain products of as many
    examples as fit on the chip; elsewhere `jax.nn.dot_product_attention`, which XLA fuses.
    """
    operands = (q, k, v) if mask is None else (q, k, v, jnp.broadcast_to(mask, (q.shape[0], *mask.shape[1:])))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    unpadded = partial(_without_padding, length=length, scale=scale)
    own = {"cuda": unpadded(_attention_flash)} if can_flash(q, k) else {}
    if can_splash(q, k, mask):
        own["tpu"] = partial(splash_attention, length=length, scale=scale)
    elif 0 < (size := _ON_CHIP // (4 * q.shape[1] * k.shape[1] * q.shape[2])) < len(q):
        own["tpu"] = unpadded(partial(_attention_in_parts, size))
    return jax.lax.platform_dependent(
        *operands, cpu=unpadded(_attention_by_head), **own, default=unpadded(fused_attention)
    )


def _without_padding(attend: Callable[..., Array], length: int | None, scale: float) -> Callable[..., Array]:
    """An implementation that is given the keys and values without their padding."""
    return lambda q, k, v, *mask: attend(q, k[:, :length], v[:, :length], *mask, scale=scale)


# On TPUs, bytes of scores that fit on the chip (128 MB) beside what else is needed there, and fetched ahead.
_ON_CHIP = 64 << 20


def _attention_in_parts(size: int, *operands: Array, scale: float) -> Array:
    """At most `size` examples together, whose scores need not leave the chip."""
    return map_chunks(lambda part: fused_attention(*part, scale=scale), operands, size)


def _attention_flash(q: Array, k: Array, v: Array, *mask: Array, scale: float) -> Array:
    whole = (jnp.broadcast_to(m, (len(q), q.shape[1], k.shape[1])) for m in mask)
    return flash_attention(q, k, v, *whole, scale=scale)


# On CPU, by the size of one head's attention matrix: small ones (windows, prompts) go all at once, large ones
# in blocks of rows that stay in the caches.
_TOGETHER = 256 * 256
_IN_BLOCKS = 2048 * 2048
_ROWS = 512


def _attention_by_head(q: Array, k: Array, v: Array, mask: Array | None = None, *, scale: float) -> Array:
    queries, keys = q.shape[1], k.shape[1]
    masks = () if mask is None else (mask[:, None],)
    q, k, v = (jnp.moveaxis(x, 2, 1) for x in (q * scale, k, v))

    def attend(q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
        logits = jnp.matmul(q, k.mT, preferred_element_type=jnp.float32)
        if mask is not None:
            logits = jnp.where(mask, logits, jnp.finfo(jnp.float32).min)
        weights = jnp.exp(logits - logits.max(axis=-1, keepdims=True))
        total = weights.sum(axis=-1, keepdims=True)
        out = jnp.matmul(weights.astype(v.dtype), v, preferred_element_type=jnp.float32)
        return (out / total).astype(v.dtype)

    def one_head(q: Array, k: Array, v: Array, *mask: Array) -> Array:
        if queries * keys <= _IN_BLOCKS:
            return attend(q, k, v, *mask)
        shared = [m for m in mask if len(m) == 1]  # one row, of all queries
        own = [m for m in mask if len(m) > 1]
        return map_rows(lambda q, *own: attend(q, k, v, *shared, *own), _ROWS, q, *own)[:, : v.shape[-1]]

    def one_example(example: tuple[Array, ...]) -> Array:
        heads, mask = example[:3], [x[0] for x in example[3:]]
        return jax.lax.map(lambda head: one_head(*head, *mask), heads)

    together = queries * keys <= _TOGETHER
    out = attend(q, k, v, *masks) if together else jax.lax.map(one_example, (q, k, v, *masks))
    return jnp.moveaxis(out, 1, 2)
