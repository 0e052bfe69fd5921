"""Text towers of further CLIPs, of which a bank may have values beside those of the segmenting one."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from corrclip_jax.bank.folder import Network, clip_of
from corrclip_jax.config import FAMILIES, Config
from corrclip_jax.hub.single_networks import load_clip
from corrclip_jax.text.embedding import TextEmbedding
from corrclip_jax.text.encode import embed_text

OtherModel: TypeAlias = str | os.PathLike[str] | tuple[Config, Mapping[str, Any]]
"""A published CLIP ("dfn-b16"), a model's name or folder, or configuration and parameters of a CLIP."""
Loaded: TypeAlias = Mapping[str, tuple[Config, Mapping[str, Any]]]
"""Configurations and parameters of CLIPs, by the names of their values in a bank."""


def check_names(names: Iterable[str]) -> None:
    """Refuse names of further CLIPs that stand for something else beside them.

    Raises:
      ValueError: for "main", the values of the model's own CLIP, and names of network families.
    """
    if taken := sorted({"main", *FAMILIES} & set(names)):
        raise ValueError(
            f"a further CLIP cannot be called {' or '.join(taken)}: main is the model's own CLIP, and "
            f"{', '.join(FAMILIES)} are its networks. Choose another name for its values, as in aux=dfn-b16."
        )


def load_text_towers(others: Mapping[str, OtherModel] | None) -> Loaded:
    """The text towers of CLIPs, which is all that a bank's values of them need.

    Raises:
      ValueError, FileNotFoundError: as `check_names` and `load_clip`.
    """
    check_names(others or ())
    return {
        name: one
        if isinstance(one, tuple)
        else load_clip(one if isinstance(one, str) else Path(one), text_only=True)
        for name, one in (others or {}).items()
    }


def described(others: Loaded) -> dict[str, Network]:
    """CLIPs as a bank describes them; of a text tower alone the digest of all weights is not known."""
    return {
        name: clip_of(config, params)
        if "visual" in params["clip"]
        else Network(config.name, config.clip.embed_dim)
        for name, (config, params) in others.items()
    }


def embed_in_all(
    config: Config, params: Mapping[str, Any], others: Loaded, classes: Iterable[str | Iterable[str]]
) -> TextEmbedding:
    """Text embeddings of classes by a model's CLIP and by others; see `embed_text`."""
    classes = list(classes)
    text = embed_text(config, params, classes)
    return replace(text, others={name: embed_text(*one, classes).features for name, one in others.items()})
