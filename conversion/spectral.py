"""Spectral reparametrisation (RADIO's training): weights stored as a matrix and its norm, read as what they are.

`X.weight` is stored as `X.parametrizations.weight.original` W with singular vectors `_u` and `_v` and `scale`, from
which the norm follows: under `...weight.0.` for the whole of it, or under `...weight.0.parts.i.` for each of equal
parts of its rows. The weight is W * norm / (u W v). A part without these is as it is.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

_STORED = re.compile(r"(.*)\.parametrizations\.weight\.(original|0\..*)")
_OFFSET = 0.05


def realised_names(names: Mapping[str, Any]) -> dict[str, str]:
    """The names that a checkpoint has once its weights are realised, and the stored name of each."""
    found = {}
    for name in names:
        match = _STORED.fullmatch(name)
        if match is None:
            found[name] = name
        elif match[2] == "original":
            found[f"{match[1]}.weight"] = name
    return found


def realised(source: Mapping[str, Any]) -> Mapping[str, Any]:
    """The tensors of a checkpoint by name with all reparametrised weights realised, each when it is looked up."""
    return _Realised(source) if any(_STORED.fullmatch(name) for name in source) else source


class _Realised(Mapping[str, Any]):
    def __init__(self, source: Mapping[str, Any]):
        self._source, self._names = source, realised_names(source)

    def __getitem__(self, name: str) -> Any:
        stored = self._names[name]
        if stored == name:
            return self._source[name]
        prefix = stored.removesuffix("original") + "0."
        weight = _array(self._source[stored])
        pattern = re.compile(re.escape(prefix) + r"parts\.(\d+)\._u")
        numbers = sorted(int(match[1]) for name in self._source if (match := pattern.fullmatch(name)))
        if not numbers:
            return _realise(weight, *self._vectors(prefix))
        return self._in_parts(weight, prefix, numbers)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def _in_parts(self, weight: np.ndarray, prefix: str, numbers: list[int]) -> np.ndarray:
        """The weight with the equal parts of its rows of those `numbers` realised; the others are as they are."""
        vectors = {number: self._vectors(f"{prefix}parts.{number}.") for number in numbers}
        parts = np.split(weight, len(weight) // len(vectors[numbers[0]][0]))
        for number, stored in vectors.items():
            parts[number] = _realise(parts[number], *stored)
        return np.concatenate(parts)

    def _vectors(self, prefix: str) -> tuple[np.ndarray, np.ndarray, float]:
        """The singular vectors and the norm. A tensor is read once: a pickle's reader gives it away."""
        u, v, scale = (_array(self._source[f"{prefix}{name}"]) for name in ("_u", "_v", "scale"))
        norm = float(scale.reshape(-1)[0])
        version = f"{prefix}_sn_version"
        if version in self._source and int(self._source[version]) != 1:
            norm = float(np.logaddexp(0.0, norm)) + _OFFSET
        return u, v, norm


def _realise(weight: np.ndarray, u: np.ndarray, v: np.ndarray, norm: float) -> np.ndarray:
    return weight * (norm / (u @ weight @ v))


def _array(tensor: Any) -> np.ndarray:
    tensor = tensor.detach().cpu().double().numpy() if hasattr(tensor, "detach") else tensor
    return np.asarray(tensor, np.float64)
