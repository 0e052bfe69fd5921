"""Conversion tables and the strict engine that applies them.

A table is data: one `Rule` a source name. The engine checks that every source tensor is used once or listed as
ignored, that every tensor of our tree is written once, and that all shapes are those of `jax.eval_shape`; all
faults come in one error. Our trees have the finest granularity, so a rule may split a tensor but never joins two.
"""

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from corrclip_jax.conversion.spelling import published_name
from corrclip_jax.conversion.transforms import TRANSFORMS
from corrclip_jax.params.trees import Shape, listing


class ConversionError(ValueError):
    """A checkpoint that cannot be converted. `faults` maps a kind of fault to what is at fault."""

    def __init__(self, message: str, faults: Mapping[str, Sequence[str]] | None = None):
        super().__init__(message)
        self.faults = {kind: tuple(entries) for kind, entries in (faults or {}).items()}


@dataclass(frozen=True)
class Rule:
    r"""Where a source tensor goes.

    `source` is a regular expression that fully matches its name; `target` the '/'-joined path in our tree, in which
    `\1` `\2` refer to the groups, or a tuple of paths where the transform splits (None drops that part).
    """

    source: str
    target: str | tuple[str | None, ...]
    transform: str = "copy"


@dataclass(frozen=True)
class Table:
    """All rules of one published layout of one family; `ignored` are the known names that are not needed."""

    family: str
    layout: str
    rules: tuple[Rule, ...]
    ignored: tuple[str, ...] = ()


def norm(source: str, target: str) -> tuple[Rule, Rule]:
    """The two rules of a layer norm; `source` is a regular expression."""
    return Rule(rf"{source}\.weight", f"{target}/scale"), Rule(rf"{source}\.bias", f"{target}/bias")


def linear(source: str, target: str) -> tuple[Rule, Rule]:
    """The two rules of a dense layer; `source` is a regular expression."""
    kernel = Rule(rf"{source}\.weight", f"{target}/kernel", "linear")
    return kernel, Rule(rf"{source}\.bias", f"{target}/bias")


def conv(source: str, target: str, transform: str = "conv") -> tuple[Rule, Rule]:
    """The two rules of a convolution; `source` is a regular expression."""
    return Rule(rf"{source}\.weight", f"{target}/kernel", transform), Rule(
        rf"{source}\.bias", f"{target}/bias"
    )


def fused_qkv(source: str, target: str) -> tuple[Rule, Rule]:
    """The two rules of one layer that makes queries, keys and values; `source` is a regular expression."""
    parts = ("query", "key", "value")
    return (
        Rule(rf"{source}\.weight", tuple(f"{target}/{part}/kernel" for part in parts), "split_linear"),
        Rule(rf"{source}\.bias", tuple(f"{target}/{part}/bias" for part in parts), "split_bias"),
    )


_TITLES = {
    "unknown": "in the file, without a place in our {family}",
    "ambiguous": "in the file, matched by several rules",
    "missing": "of {family} that the file lacks",
    "double": "in our {family}, filled more than once",
    "shape": "of another shape",
    "values": "with values that are no finite numbers",
    "type": "of a type that is not floating",
}


@dataclass(frozen=True)
class _Faults:
    """Faults by kind, in the order they were found."""

    found: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in _TITLES})

    def add(self, kind: str, entry: str) -> None:
        self.found[kind].append(entry)

    def raise_any(self, table: Table, hint: str) -> None:
        if not any(self.found.values()):
            return
        lines = [f"The file does not fit {table.family} ({table.layout} layout) as configured."]
        for kind, entries in self.found.items():
            if entries:
                lines.append(listing(f"Tensors {_TITLES[kind].format(family=table.family)}", entries))
        raise ConversionError("\n".join([*lines, hint] if hint else lines), self.found)


def apply_table(
    table: Table, source: Mapping[str, Any], expected: Mapping[str, Any], hint: str = ""
) -> dict[str, Any]:
    """Convert `source` (name -> array or torch tensor, read when looked up) into a tree like `expected`.

    `expected` is a nested dict whose leaves have a `shape` (from `jax.eval_shape`). Returns nested dicts of float32
    NumPy arrays; half-precision sources are widened. Tensors are read one at a time; those that need neither a new
    type nor a new order share the source's memory.

    Raises:
      ConversionError: for any source name that is neither used nor ignored, any tensor of ours that is not written
        exactly once, any other shape, type or non-finite value; all at once, followed by `hint`.
    """
    leaves = {path: tuple(leaf.shape) for path, leaf in flatten_dict(dict(expected), sep="/").items()}
    faults = _Faults()
    written: dict[str, np.ndarray | None] = {}
    for name in source:
        rule, targets = _match(table, name, faults)
        if rule is None:
            continue
        if any(target is not None and target not in leaves for target in targets):
            faults.add("unknown", name)
            continue
        for target in targets:
            if target is not None and target in written:
                faults.add("double", f"{target} (from {name})")
        parts = _read(source, name, rule, targets, leaves, faults)
        written |= {target: part for target, part in zip(targets, parts, strict=True) if target is not None}
    missing = [target for target in leaves if target not in written]
    # One tensor of the file may fill several places of ours.
    for name in dict.fromkeys(published_name(table.rules, target, source) or target for target in missing):
        faults.add("missing", name)
    faults.raise_any(table, hint)
    return unflatten_dict(written, sep="/")


class Placed(dict[str, Shape]):
    """Shapes of the source tensors that go to one place each, by that place in our tree."""

    def __init__(self, table: Table, names: Iterable[str]):
        super().__init__()
        self._table, self._names = table, names

    def published_name(self, target: str) -> str:
        """The name that the file has, or should have, for a place; our own where no rule leads there."""
        return published_name(self._table.rules, target, self._names) or target


def place(table: Table, shapes: Mapping[str, Shape]) -> Placed:
    """Shapes of the source tensors that go to one place each, by that place in our tree."""
    placed = Placed(table, shapes)
    for name, shape in shapes.items():
        rule, targets = _match(table, name, _Faults())
        if rule is not None and len(targets) == 1 and targets[0] is not None:
            placed[targets[0]] = shape
    return placed


def _match(table: Table, name: str, faults: _Faults) -> tuple[Rule | None, tuple[str | None, ...]]:
    """The one rule for a source name and its targets; (None, ()) for an ignored or a faulty name."""
    matches = [(rule, match) for rule in table.rules if (match := re.fullmatch(rule.source, name))]
    ignored = any(re.fullmatch(pattern, name) for pattern in table.ignored)
    if len(matches) + ignored > 1:
        faults.add("ambiguous", name)
    elif not matches and not ignored:
        faults.add("unknown", name)
    elif matches:
        rule, match = matches[0]
        targets = (rule.target,) if isinstance(rule.target, str) else rule.target
        return rule, tuple(None if target is None else match.expand(target) for target in targets)
    return None, ()


def _read(
    source: Mapping[str, Any],
    name: str,
    rule: Rule,
    targets: Sequence[str | None],
    leaves: Mapping[str, Shape],
    faults: _Faults,
) -> list[np.ndarray | None]:
    """Read, transform and check one source tensor; None for each part that is dropped or faulty."""
    nothing: list[np.ndarray | None] = [None] * len(targets)
    array = as_numpy(source[name])
    shapes = [None if target is None else leaves[target] for target in targets]
    wanted = ", ".join(f"{target} {leaves[target]}" for target in targets if target is not None)
    if not _is_floating(array):
        faults.add("type", f"{name} ({array.dtype})")
        return nothing
    try:
        parts = TRANSFORMS[rule.transform](array, shapes)
    except ValueError:  # a transpose or split that these axes do not allow
        parts = []
    if not parts or any(p.shape != s for p, s in zip(parts, shapes, strict=True) if s is not None):
        became = ", ".join(str(part.shape) for part in parts)
        faults.add("shape", f"{name} {array.shape}: wanted {wanted}. Got {became or 'other axes'}.")
        return nothing
    kept = [None if shape is None else _float32(part) for part, shape in zip(parts, shapes, strict=True)]
    if not all(part is None or np.isfinite(part).all() for part in kept):
        faults.add("values", name)
        return nothing
    return kept


def as_numpy(tensor: Any) -> np.ndarray:
    """A NumPy view of an array or torch tensor; torch's bfloat16, which NumPy cannot view, is widened."""
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu()
        return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).numpy()
    return np.asarray(tensor)


def _is_floating(array: np.ndarray) -> bool:
    # ml_dtypes' bfloat16 is of kind "V" to NumPy, though it casts like any float.
    return array.dtype.kind == "f" or array.dtype.name == "bfloat16"


def _float32(array: np.ndarray) -> np.ndarray:
    return np.array(array, dtype=np.float32, order="C", copy=None)


def heads_of(width: int, what: str) -> int:
    """The usual number of heads, one for 64 channels; tensor shapes do not show it."""
    if width % 64:
        raise ConversionError(
            f"{what} is {width} wide, no multiple of 64, and its tensors do not show how many heads it has. "
            "Put the config.json of its repository beside the file, or give the network's configuration yourself."
        )
    return width // 64


_ABSENT = object()


def check_fixed(published: Mapping[str, Any], fixed: Mapping[str, Any], title: str) -> None:
    """Check that a config.json describes a network that our model can be.

    Args:
      published: the config.json; a value that it lacks is taken to be the fixed one.
      fixed: the values that our model has built in, by dotted name ("vision_config.hidden_act").
      title: of the family, with its article ("a SAM").

    Raises:
      ConversionError: lists every other value.
    """
    other = []
    for name, wanted in fixed.items():
        value: Any = published
        for key in name.split("."):
            value = value.get(key, _ABSENT) if isinstance(value, Mapping) else _ABSENT
        if value is not _ABSENT and value != wanted:
            other.append(f"{name} {value} (here {wanted})")
    if other:
        raise ConversionError(f"The config.json asks for {title} that ours cannot be: {', '.join(other)}.")


class Sizes:
    """Source shapes by their place in our tree (from `place`), to read a configuration off them."""

    def __init__(self, placed: Placed, what: str):
        self._placed, self._what = placed, what

    def shape(self, target: str, axes: int) -> Shape:
        """The source's shape of a place; `ConversionError` where nothing with so many axes goes there."""
        shape = self._placed.get(target)
        if shape is None or len(shape) != axes:
            came = "nothing" if shape is None else f"a tensor of shape {shape}"
            name = self._placed.published_name(target)
            raise ConversionError(
                f"The file looks like {self._what}, but {name}, which shows the model's size, needs "
                f"{axes} axes and the file has {came} for it."
            )
        return shape

    def shape_or_none(self, target: str) -> Shape | None:
        """The source's shape of a place that not all models have."""
        return self._placed.get(target)

    def count(self, pattern: str) -> int:
        """How many of the places `pattern.format(0)`, `pattern.format(1)` ... there are without a gap."""
        return next(n for n in itertools.count() if pattern.format(n) not in self._placed)

    def ratio(self, target: str) -> float:
        """The expansion of an MLP's first layer, such that int(width * ratio) is exact."""
        hidden, width = self.shape(target, 2)
        ratio = hidden / width
        return ratio if int(width * ratio) == hidden else float(np.nextafter(ratio, np.inf))
