"""Configurations with fields changed, and to and from plain JSON types."""

import dataclasses
from dataclasses import fields
from typing import Any, get_args


def with_fields(config: Any, **changes: Any) -> Any:
    """A copy of a config with fields changed; a dict as value changes fields of the part of that name.

    >>> from corrclip_jax.config import Config
    >>> with_fields(Config(), dtype="bfloat16", regions={"points_per_side": 32}).regions.points_per_side
    32

    Raises:
      ValueError: for a name that is no field; the message lists the fields there are.
    """
    known = {f.name for f in fields(config)}
    if unknown := sorted(set(changes) - known):
        raise ValueError(
            f"{type(config).__name__} has no field {', '.join(unknown)}. It has: {', '.join(sorted(known))}."
        )
    nested = {
        name: with_fields(getattr(config, name), **value)
        if isinstance(value, dict) and dataclasses.is_dataclass(getattr(config, name))
        else value
        for name, value in changes.items()
    }
    return dataclasses.replace(config, **nested)


def to_dict(config: Any) -> dict[str, Any]:
    """The config as plain JSON types (tuples become lists)."""
    return dataclasses.asdict(config, dict_factory=lambda items: {k: _plain(v) for k, v in items})


def from_dict(cls: Any, data: dict[str, Any]) -> Any:
    """The inverse of `to_dict`: `from_dict(Config, json)`. Fields left out keep their defaults.

    Raises:
      ValueError: for a key that is no field of `cls`.
    """
    types = {f.name: f.type for f in fields(cls)}
    if unknown := sorted(set(data) - set(types)):
        raise ValueError(f"{cls.__name__} has no field {', '.join(unknown)}. It has: {', '.join(types)}.")
    return cls(**{name: _parsed(types[name], value) for name, value in data.items()})


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _parsed(annotation: Any, value: Any) -> Any:
    parts = [t for t in (get_args(annotation) or (annotation,)) if dataclasses.is_dataclass(t)]
    if parts and isinstance(value, dict):
        return from_dict(parts[0], value)
    return tuple(value) if isinstance(value, list) else value
