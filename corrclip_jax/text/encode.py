"""Class names to text embeddings: names and synonyms, prompts, text tower, averaging (METHOD.md, section 1).

Shapes: Q queries (one a name), K classes, N texts, T tokens, D joint width.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from corrclip_jax.config import CLIPConfig, Config, Dtype, with_fields
from corrclip_jax.models.clip.model import TextTransformer
from corrclip_jax.text.classes import ClassNameWarning, normalise_classes
from corrclip_jax.text.embedding import TextEmbedding
from corrclip_jax.text.templates import TEMPLATES, prompts
from corrclip_jax.text.tokenizer import Tokenizer

# The prompts of one name: a fixed batch, so any number of names or texts runs through the same programs.
_BATCH = len(TEMPLATES)
# Attention is causal: nothing behind the end-of-text token is read. Batches are cut to the first of these
# lengths that holds them; ordinary names fit the first, which takes a seventh of the whole context's time.
_LENGTHS = (16, 32)


def embed_text(
    config: Config,
    params: Mapping[str, Any],
    classes: Iterable[str | Iterable[str]],
    *,
    tokenizer: Tokenizer | None = None,
) -> TextEmbedding:
    """Text embeddings of classes; a class is a name, or a list of synonyms, each a query of its own.

    A query is the mean of its 80 prompts' unit embeddings, made a unit vector again. The tokenizer comes from
    `config.vocabulary` unless one is given.

    Raises:
      ValueError: no classes, an empty or a doubled name; no vocabulary, or one of another size.

    Warns:
      ClassNameWarning: for names that are too long for CLIP.
    """
    names = normalise_classes(classes)
    tokenizer = tokenizer or _default_tokenizer(config)
    _warn_of_cut_names(names, tokenizer, config.clip.text.context_length)
    encode = _encoder(config, params, tokenizer)
    # One name at a time bounds the memory, however many classes there are.
    features = np.stack([_mean_direction(encode(prompts(name))) for synonyms in names for name in synonyms])
    query_to_class = np.repeat(np.arange(len(names)), [len(synonyms) for synonyms in names])
    vectors, owner = jax.device_put((features, query_to_class.astype(np.int32)))
    return TextEmbedding(vectors, owner, len(names))


def _warn_of_cut_names(names: Sequence[Sequence[str]], tokenizer: Tokenizer, context_length: int) -> None:
    """Warn of names whose end CLIP does not see, since a prompt with them is too long."""
    room = context_length - 2
    for name in (name for synonyms in names for name in synonyms):
        if len(name.encode()) < room // 2:  # prompts have about 15 tokens besides, and a token a byte at most
            continue
        tokens = max(len(tokenizer.encode(prompt)) for prompt in prompts(name))
        if tokens > room:
            warnings.warn(
                ClassNameWarning(
                    f"the class name {name[:40] + ' ...'!r} makes prompts of up to {tokens} tokens, of which CLIP "
                    f"reads {room}: its end is cut off. Give a shorter name."
                ),
                stacklevel=3,
            )


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
    return jax.device_put(np.concatenate(batches))


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

    def encode(texts: Sequence[str]) -> Float[np.ndarray, "N D"]:
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

    def run(weights: Mapping[str, Any], tokens: Int[Array, "N T"]) -> Float[Array, "N D"]:
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
