"""Loops over chunks of a batch, over images, and over blocks of rows."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Shaped, UInt8


def map_images(
    function: Callable[[tuple[UInt8[Array, "H W 3"], Int[Array, "2"] | None]], Any],
    images: UInt8[Array, "B H W 3"],
    sizes: Int[Array, "B 2"] | None,
) -> Any:
    """Apply a function of an image and its true size, one image after the other; results stacked.

    Without `sizes` the size is None. Images of size (0, 0), which fill up a batch, cost nothing and give zeros.
    """
    function = jax.jit(function)  # traced once for the shapes of its result and for the loop

    def or_nothing(args: tuple[UInt8[Array, "H W 3"], Int[Array, "2"]]) -> Any:
        shapes = jax.eval_shape(function, args)
        nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return jax.lax.cond(args[1].min() > 0, function, lambda _: nothing, args)

    return jax.lax.map(function if sizes is None else or_nothing, (images, sizes))


def map_rows(
    function: Callable[..., Array], rows: int, x: Shaped[Array, "N C"], *others: Shaped[Array, "N _"]
) -> Shaped[Array, "N C"]:
    """Apply a function of arrays [N, .] that treats each row alone to at most `rows` of them at a time.

    The result is written into the first columns of `x` and may not be wider: `lax.map` would allocate another
    buffer for it, and XLA allocates those of all loops of a program at its beginning.
    """
    count = len(x)
    blocks = -(-count // rows)

    def cut(y: Array) -> Array:
        return jnp.pad(y, ((0, -count % blocks), (0, 0))).reshape(blocks, -1, y.shape[-1])

    def one(index: Any, cells: Array) -> Array:
        out = function(cells[index], *(y[index] for y in others))
        return cells.at[index, :, : out.shape[-1]].set(out)

    others = tuple(cut(y) for y in others)
    return jax.lax.fori_loop(0, blocks, one, cut(x)).reshape(-1, x.shape[-1])[:count]


def map_chunks(function: Callable[[tuple[Array, ...]], Any], batch: tuple[Array, ...], size: int) -> Any:
    """Apply a batched function to at most `size` examples at a time, one chunk after the other; results joined.

    Unlike `jax.lax.map(batch_size=)` nothing is vmapped: the function sees an ordinary batch. All chunks have one
    length, so that a program holds the function once: the last one begins earlier where they would not come out
    even, and what it computes again is left out.
    """
    count = len(batch[0])
    if count <= size:
        return function(batch)
    chunks = -(-count // size)
    length = -(-count // chunks)
    starts = np.minimum(np.arange(chunks) * length, count - length)

    def chunk(start: Int[Array, ""]) -> Any:
        return function(tuple(jax.lax.dynamic_slice_in_dim(x, start, length) for x in batch))

    again = chunks * length - count

    def join(out: Array) -> Array:
        if not again:
            return out.reshape(count, *out.shape[2:])
        return jnp.concatenate([out[:-1].reshape(-1, *out.shape[2:]), out[-1, again:]])

    return jax.tree.map(join, jax.lax.map(chunk, jnp.asarray(starts)))
