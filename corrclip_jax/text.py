"""Class names to text embeddings: names and synonyms, prompts, text tower, averaging (METHOD.md, section 1).

Shapes: Q queries (one a name), K classes, N texts, T tokens, D joint width.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, no_type_check

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from corrclip_jax.config import CLIPConfig, Config, Dtype, with_fields
from corrclip_jax.models.clip import TextTransformer
from corrclip_jax.templates import TEMPLATES, prompts
from corrclip_jax.tokenizer import Tokenizer, clean

# The prompts of one name: a fixed batch, so any number of names or texts runs through the same programs.
_BATCH = len(TEMPLATES)
# Attention is causal: nothing behind the end-of-text token is read. Batches are cut to the first of these
# lengths that holds them; ordinary names fit the first, which takes a seventh of the whole context's time.
_LENGTHS = (16, 32)
_PADDING = -1


@no_type_check  # JAX rebuilds pytrees with placeholders and shapes, which are no arrays
@flax.struct.dataclass
class TextEmbedding:
    """Unit vectors of the queries and the class that each belongs to.

    `query_to_class` is -1 for a padding query, whose features are zero. `num_classes` is K or, after
    `pad_queries`, an upper bound of it; it is static, so another number compiles anew.
    """

    features: Float[Array, "Q D"]
    query_to_class: Int[Array, " Q"]
    num_classes: int = flax.struct.field(pytree_node=False)


def embed_text(
    config: Config,
    params: Mapping[str, Any],
    classes: Sequence[str | Sequence[str]],
    *,
    tokenizer: Tokenizer | None = None,
) -> TextEmbedding:
    """Text embeddings of classes; a class is a name, or a list of synonyms, each a query of its own.

    A query is the mean of its 80 prompts' unit embeddings, made a unit vector again. The tokenizer comes from
    `config.vocabulary` unless one is given.

    Raises:
      ValueError: no classes, an empty or a doubled name; no vocabulary, or one of another size.
    """
    names = normalise_classes(classes)
    encode = _encoder(config, params, tokenizer)
    # One name at a time bounds the memory, however many classes there are.
    features = np.stack([_mean_direction(encode(prompts(name))) for synonyms in names for name in synonyms])
    query_to_class = np.repeat(np.arange(len(names)), [len(synonyms) for synonyms in names])
    return TextEmbedding(jnp.asarray(features), jnp.asarray(query_to_class, jnp.int32), len(names))


def encode_prompts(
    config: Config, params: Mapping[str, Any], texts: Sequence[str], *, tokenizer: Tokenizer | None = None
) -> Float[Array, "N D"]:
    """Text embeddings [N, D] of texts as they stand, not normalised.

    Raises:
      ValueError: no texts; no vocabulary, or one of another size.
    """
    if isinstance(texts, str) or not texts:
        raise ValueError(f"texts must be a list of one text or more. Got {texts!r}.")
    encode = _encoder(config, params, tokenizer)
    batches = [encode(texts[start : start + _BATCH]) for start in range(0, len(texts), _BATCH)]
    return jnp.asarray(np.concatenate(batches))


def as_text_embedding(
    text_emb: TextEmbedding | Shaped[Array, "..."] | Shaped[np.ndarray, "..."],
) -> TextEmbedding:
    """What `segment` takes as `text_emb`, checked; an array [K, D] becomes one query a class.

    The values are used as they are: rows should be unit vectors.

    Raises:
      ValueError: another rank or dtype; queries and classes that do not fit together.
    """
    features = text_emb.features if isinstance(text_emb, TextEmbedding) else text_emb
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
    return TextEmbedding(features, jnp.asarray(owner, jnp.int32), text_emb.num_classes)


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
    return TextEmbedding(
        jnp.pad(text_emb.features, ((0, size - queries), (0, 0))),
        jnp.pad(text_emb.query_to_class, (0, size - queries), constant_values=_PADDING),
        size,
    )


def parse_classes(text: str) -> list[list[str]]:
    """Classes as the command line writes them: a comma separates classes, `;` synonyms.

    >>> parse_classes("cat, grass, sky; cloud")
    [['cat'], ['grass'], ['sky', 'cloud']]

    Raises:
      ValueError: no classes, an empty or a doubled name, with its place.
    """
    if not text.strip():
        return normalise_classes([])
    return normalise_classes([part.split(";") for part in text.split(",")])


def read_classes(path: str | Path) -> list[list[str]]:
    """Classes from a text file: a line is a class, `;` separates synonyms, a comma belongs to the name.

    Blank lines are ignored; a byte-order mark is tolerated.

    Raises:
      FileNotFoundError: no such file.
      ValueError: no UTF-8 text; no classes, an empty or a doubled name, with its line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of class names at {path}. It holds one class a line.")
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be UTF-8 text ({error}). Save it as UTF-8.") from error
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    places = [f"{path}, line {number}" for number, _ in numbered]
    return normalise_classes([line.split(";") for _, line in numbered], places)


def normalise_classes(
    classes: Sequence[str | Sequence[str]], places: Sequence[str] | None = None
) -> list[list[str]]:
    """Every class as a list of names with single spaces; the checks that all ways of giving classes share.

    Names are doubled when the tokenizer reads them alike: it sees neither case nor the amount of white space.
    `places` says where each class stands, for errors ("class 1" ... by default).

    Raises:
      ValueError: no classes, empty names, names that stand there twice; all of them in one message.
      TypeError: a name that is no text.
    """
    if isinstance(classes, str):
        raise ValueError(f"classes must be a list. Got the text {classes!r}, which parse_classes can read.")
    names = [[entry] if isinstance(entry, str) else list(entry) for entry in classes]
    places = places or [f"class {number}" for number in range(1, len(names) + 1)]
    if not names:
        raise ValueError("there are no classes. Name one at least, as in ['cat', ['sky', 'cloud']].")
    faults: list[str] = []
    seen: dict[str, str] = {}
    for place, synonyms in zip(places, names, strict=True):
        if not synonyms:
            faults.append(f"{place} has no name")
        for name in synonyms:
            if not isinstance(name, str):
                raise TypeError(f"a class name must be text. {place} holds {name!r}.")
            key = clean(name)
            if not key:
                faults.append(f"{place} has an empty name (write one, or take the separator away)")
            elif key in seen:
                faults.append(f"{place} names {name.strip()!r}, as {seen[key]} does (keep one of them)")
            seen.setdefault(key, place)
    if faults:
        raise ValueError(f"class names must be there and be unlike each other: {'; '.join(faults)}.")
    return [[" ".join(name.split()) for name in synonyms] for synonyms in names]


def _encoder(
    config: Config, params: Mapping[str, Any], tokenizer: Tokenizer | None
) -> Callable[[Sequence[str]], Float[np.ndarray, "N D"]]:
    """A function from at most `_BATCH` texts to their embeddings."""
    tokenizer = tokenizer or _default_tokenizer(config)
    if tokenizer.vocab_size != config.clip.text.vocab_size:
        raise ValueError(
            f"the vocabulary {tokenizer.source} has {tokenizer.vocab_size} tokens and this CLIP's text tower "
            f"{config.clip.text.vocab_size}. Take the vocabulary that belongs to the checkpoint."
        )
    if "clip" not in params or "text" not in params["clip"]:
        raise ValueError(f"params must hold clip/text, the text tower. They hold {', '.join(params)}.")
    weights = jax.device_put(params["clip"]["text"])  # host arrays would travel again with every batch
    context_length = config.clip.text.context_length

    def encode(texts):
        tokens = tokenizer(texts, context_length)
        needed = tokens.argmax(axis=1).max() + 1
        length = min(next((n for n in _LENGTHS if needed <= n), context_length), context_length)
        padded = np.pad(tokens[:, :length], ((0, _BATCH - len(tokens)), (0, 0)))
        with jax.default_matmul_precision("highest"):
            return np.asarray(_compiled(config.clip, config.dtype, length)(weights, padded))[: len(tokens)]

    return encode


@lru_cache(maxsize=16)
def _compiled(clip: CLIPConfig, dtype: Dtype, length: int) -> Callable[..., Float[Array, "N D"]]:
    """The text tower for prompts cut to `length` tokens."""
    tower = TextTransformer(with_fields(clip, text={"context_length": length}), jnp.dtype(dtype))

    def run(weights, tokens):
        positions = weights["positional_embedding"][:length]
        return jnp.float32(tower.apply({"params": {**weights, "positional_embedding": positions}}, tokens))

    return jax.jit(run)


def _default_tokenizer(config: Config) -> Tokenizer:
    if config.vocabulary is None:
        raise ValueError(
            f"the config {config.name!r} names no vocabulary. Set one, with_fields(config, vocabulary=path), "
            "or give a tokenizer, embed_text(..., tokenizer=Tokenizer.load(path))."
        )
    return _load_tokenizer(config.vocabulary)


_load_tokenizer = lru_cache(maxsize=4)(Tokenizer.load)


def _mean_direction(vectors: Float[np.ndarray, "N D"]) -> Float[np.ndarray, " D"]:
    """The unit vector of the mean of the unit vectors."""
    mean = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).mean(axis=0)
    return mean / np.linalg.norm(mean)
