"""A model together with a source of regions: loaded with the network that the source needs, or checked for it."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from corrclip_jax.config import Config, RegionSource, region_sources
from corrclip_jax.config.suggestions import did_you_mean
from corrclip_jax.conversion.published import source_names
from corrclip_jax.regions.sources import network_to_load

Loaded: TypeAlias = tuple[Config, Mapping[str, Any]]
Model: TypeAlias = str | os.PathLike | Loaded
"""A model's name or folder, or configuration and parameters as `load` returns them."""


def with_source(model: Model, source: RegionSource | None, load: Callable[..., Loaded]) -> Loaded:
    """Configuration and parameters of a model that finds regions by a source; the caller sets the source.

    Args:
      model: a name, a folder, or configuration and parameters, which are returned as they are.
      source: a source of regions, or for a model with a name a published network ("sam2.1-t"); None is the
        model's own.
      load: `hub.presets.load`, or a function like it.

    Raises:
      ValueError: for a name that is no source, a published network for a model that is loaded already, and
        whatever `load` refuses.
      FileNotFoundError: as `load`.
    """
    if source is not None and source not in (known := source_names()):
        raise ValueError(
            f"regions must be one of {', '.join(region_sources())}, or a published network (sam2.1-t; see corrclip "
            f"models). Got {str(source)!r}.{did_you_mean(str(source), known)}"
        )
    if not isinstance(model, tuple):
        name = model if isinstance(model, str) else Path(model)
        return load(name, region_network=network_to_load(source))
    if source is not None and source not in region_sources():
        raise ValueError(
            f"{source} is a published network, and the model {model[0].name!r} is loaded already. Load it with "
            f"that network, load(..., region_network={source!r}), and give no regions: it then finds them. Or "
            "choose a network that it has."
        )
    return model
