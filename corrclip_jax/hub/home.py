"""Folders of weights: where conversions are kept, and where published files may be placed by hand."""

import os
from pathlib import Path

from corrclip_jax.runtime.home import chosen_home, default_home


def weights_home() -> Path:
    """Where weights are kept: $CORRCLIP_HOME, else `weights/` of a checkout, else `~/.cache/corrclip_jax`.

    `converted/` holds conversions; in `published/<owner>/<name>/` files of the repositories may be placed by hand.
    """
    if chosen := chosen_home():
        return chosen
    checkout = Path(__file__).resolve().parents[2]
    is_checkout = (checkout / "pyproject.toml").is_file() and (checkout / "conversion").is_dir()
    if is_checkout and os.access(checkout / "weights", os.W_OK):
        return checkout / "weights"
    return default_home()


def model_place(name: str) -> Path:
    """The folder of a converted model."""
    return weights_home() / "converted" / name


def part_place(key: str) -> Path:
    """The folder of a converted network that several models share; `key` is its name in the registry."""
    return weights_home() / "converted" / "parts" / key


def published_place(repository: str) -> Path:
    """The folder for files of a repository that are placed by hand."""
    return weights_home() / "published" / repository
