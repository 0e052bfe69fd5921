"""Text embeddings: the queries of a vocabulary as a pytree, padded to a bucket."""

from typing import no_type_check

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

_PADDING = -1


@no_type_check  # JAX rebuilds pytrees with placeholders and shapes, which are no arrays
@flax.struct.dataclass
class TextEmbedding:
    """Unit vectors of the queries and the class that each belongs to.

    `query_to_class` is -1 for a padding query, whose features are zero. `num_classes` is K or, after
    `pad_queries`, an upper bound of it; it is static, so another number compiles anew. `others` are the same
    queries in other CLIPs, by the name that a bank gives those, each with a width D of its own.
    """

    features: Float[Array, "Q D"]
    query_to_class: Int[Array, " Q"]
    num_classes: int = flax.struct.field(pytree_node=False)
    others: dict[str, Float[Array, "Q _"]] = flax.struct.field(default_factory=dict)

    def of(self, clip: str) -> Float[Array, "Q _"]:
        """The queries in a CLIP: "main", the segmenting one, or one of `others`."""
        return self.features if clip == "main" else self.others[clip]


def as_text_embedding(
    text_emb: TextEmbedding | Shaped[Array, "..."] | Shaped[np.ndarray, "..."],
) -> TextEmbedding:
    """What `segment` takes as `text_emb`, checked; an array [K, D] becomes one query a class.

    The values are used as they are: rows should be unit vectors.

    Raises:
      ValueError: no array, another rank or dtype; queries and classes that do not fit together.
    """
    features = text_emb.features if isinstance(text_emb, TextEmbedding) else text_emb
    if not hasattr(features, "dtype") or not hasattr(features, "shape"):
        raise ValueError(
            "text embeddings must be a TextEmbedding, as embed_text makes it, or an array, one row a query. Got "
            f"{type(features).__name__}."
        )
    if features.ndim != 2 or not features.size or not jnp.issubdtype(features.dtype, jnp.floating):
        raise ValueError(
            "text embeddings must be floating-point, one row a query, as embed_text makes them. Got "
            f"{features.dtype} of shape {features.shape}."
        )
    features, queries = jnp.asarray(features, jnp.float32), features.shape[0]
    if not isinstance(text_emb, TextEmbedding):
        return TextEmbedding(features, jnp.arange(queries, dtype=jnp.int32), queries)
    owner = text_emb.query_to_class
    if owner.shape != (queries,) or not jnp.issubdtype(owner.dtype, jnp.integer):
        raise ValueError(
            f"query_to_class must hold one integer for each of the {queries} queries. Got {owner.dtype} of "
            f"shape {owner.shape}."
        )
    _check_classes(owner, text_emb.num_classes)
    for name, other in text_emb.others.items():
        if other.ndim != 2 or len(other) != queries or not jnp.issubdtype(other.dtype, jnp.floating):
            raise ValueError(
                f"the text embeddings of the CLIP {name!r} must be floating-point, one row for each of the "
                f"{queries} queries. Got {other.dtype} of shape {other.shape}."
            )
    others = {name: jnp.asarray(other, jnp.float32) for name, other in text_emb.others.items()}
    return TextEmbedding(features, jnp.asarray(owner, jnp.int32), text_emb.num_classes, others)


def _check_classes(owner: Int[Array, " Q"] | Int[np.ndarray, " Q"], num_classes: int) -> None:
    """Check that queries belong to classes that there are; values that are traced are not looked at.

    Raises:
      ValueError: no classes; an owner that is neither a class nor -1, or padding only.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes must be 1 or more. Got {num_classes}.")
    if isinstance(owner, jax.core.Tracer):
        return
    owners = np.asarray(owner)  # whose minimum needs no program
    lowest, highest = int(owners.min()), int(owners.max())
    if lowest < _PADDING or not 0 <= highest < num_classes:
        raise ValueError(
            f"query_to_class must hold classes, 0 to num_classes - 1 = {num_classes - 1}, and {_PADDING} for "
            f"queries that only pad. Got numbers from {lowest} to {highest}."
        )


def query_bucket(queries: int) -> int:
    """The size to pad to: 8, 16, 32, 64, then multiples of 64.

    >>> [query_bucket(queries) for queries in (1, 9, 64, 65, 847)]
    [8, 16, 64, 128, 896]
    """
    return next((size for size in (8, 16, 32) if queries <= size), -(-queries // 64) * 64)


def pad_queries(text_emb: TextEmbedding, size: int) -> TextEmbedding:
    """Pad to `size` queries, and as many classes: one compiled program then serves any vocabulary up to that.

    Raises:
      ValueError: more queries or classes than `size`.
    """
    queries = text_emb.features.shape[0]
    if max(queries, text_emb.num_classes) > size:
        raise ValueError(
            f"size must be at least {queries} (queries) and {text_emb.num_classes} (classes). Got {size}."
        )
    more = ((0, size - queries), (0, 0))
    return TextEmbedding(
        jnp.pad(text_emb.features, more),
        jnp.pad(text_emb.query_to_class, more[0], constant_values=_PADDING),
        size,
        {name: jnp.pad(other, more) for name, other in text_emb.others.items()},
    )
