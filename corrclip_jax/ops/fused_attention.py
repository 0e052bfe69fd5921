"""Attention as plain products, which XLA fuses: `jax.nn.dot_product_attention` for values narrower than keys."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def fused_attention(
    q: Float[Array, "B T H D"],
    k: Float[Array, "B S H D"],
    v: Float[Array, "B S H V"],
    mask: Bool[Array, "#B #T S"] | None = None,
    *,
    scale: float | None = None,
) -> Float[Array, "B T H V"]:
    """Scaled dot-product attention with a float32 softmax; V is at most D, `scale` by default D ** -0.5."""
    width = v.shape[-1]
    v = jnp.pad(v, ((0, 0), (0, 0), (0, 0), (0, q.shape[-1] - width)))  # JAX requires one width for all three
    mask = None if mask is None else mask[:, None]
    with jax.numpy_dtype_promotion("standard"):  # JAX leaves bfloat16 times float32 to promotion
        return jax.nn.dot_product_attention(q, k, v, mask=mask, scale=scale)[..., :width]
