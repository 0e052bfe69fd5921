"""Assignments: fields of a configuration set by text, as in `method.spatial_layers=1`."""

import dataclasses
from collections.abc import Sequence
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from corrclip_jax.config.fields import with_fields
from corrclip_jax.config.suggestions import did_you_mean

_TRUE, _FALSE, _NONE = ("true", "on", "yes"), ("false", "off", "no"), ("none", "null", "")


def with_assignments(config: Any, assignments: Sequence[str]) -> Any:
    """A copy of a config with fields set by text, each checked against the field's type, all together for ranges.

    >>> from corrclip_jax.config import Config
    >>> with_assignments(Config(), ["method.spatial_layers=1", "parts.scope=off"]).method.spatial_layers
    1

    Args:
      config: a configuration.
      assignments: texts NAME=VALUE. NAME is a field, after the names of the parts it is in; VALUE a number, a word,
        true or false, none where the field may be None, numbers separated by commas for a tuple.

    Raises:
      ValueError: for a text of another form, a name that is no field (the message has those there are), or a value
        of another type or out of range.
    """
    changes: dict[str, Any] = {}
    for text in assignments:
        name, sign, value = text.partition("=")
        path = name.strip().split(".")
        if not sign or not all(path):
            raise ValueError(f"an assignment is NAME=VALUE, as in method.spatial_layers=1. Got {text!r}.")
        _add_change(changes, config, path, value.strip(), name.strip())
    return with_fields(config, **changes)


def _add_change(
    changes: dict[str, Any], config: Any, path: Sequence[str], value: str, full_name: str
) -> None:
    """Add an assignment to the changes of a configuration, as `with_fields` takes them."""
    name, rest = path[0], path[1:]
    place = full_name.removesuffix(".".join(path)).rstrip(".")
    known = [field.name for field in dataclasses.fields(config)]
    if name not in known:
        hint = did_you_mean(name, known)
        raise ValueError(
            f"{full_name}: {place or 'the configuration'} has no field {name!r}.{hint} It has: {', '.join(known)}."
        )
    current, annotation = getattr(config, name), get_type_hints(type(config))[name]
    if rest:
        if not dataclasses.is_dataclass(current):
            what = "is None in this model" if current is None else "has no fields"
            raise ValueError(f"{full_name}: {'.'.join(filter(None, (place, name)))} {what}.")
        _add_change(changes.setdefault(name, {}), current, rest, value, full_name)
        return
    if dataclasses.is_dataclass(current):
        fields = ", ".join(f"{full_name}.{field.name}" for field in dataclasses.fields(current))
        raise ValueError(f"{full_name} is a part of the configuration. Set one of its fields: {fields}.")
    changes[name] = _parsed(annotation, value, full_name)


def _parsed(annotation: Any, text: str, name: str) -> Any:
    """The value that a text stands for.

    Raises:
      ValueError: for a text that is none of the type.
    """
    options = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    for option in options:
        found = _value(option, text)
        if found is not _NOT:
            return found
    wanted = " or ".join(_described(option) for option in options)
    raise ValueError(f"{name} must be {wanted}. Got {text!r}.")


_NOT = object()


def _value(kind: Any, text: str) -> Any:
    """The text as a value of a type without alternatives; `_NOT` if it is none."""
    lower = text.lower()
    if kind is NoneType:
        return None if lower in _NONE else _NOT
    if kind is bool:
        return True if lower in _TRUE else False if lower in _FALSE else _NOT
    if get_origin(kind) is Literal:
        return text if text in get_args(kind) else _NOT
    if get_origin(kind) is tuple:
        parts = [part.strip() for part in text.strip("()[]").split(",") if part.strip()]
        values = tuple(_value(get_args(kind)[0], part) for part in parts)
        return _NOT if _NOT in values else values
    if kind is str:
        return text
    try:
        return kind(text) if kind in (int, float) else _NOT
    except ValueError:
        return _NOT


def _described(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(map(str, get_args(kind)))
    if get_origin(kind) is tuple:
        return f"{_described(get_args(kind)[0]).removeprefix('a ')}s separated by commas"
    names = {NoneType: "none", bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    return names.get(kind, str(kind))
