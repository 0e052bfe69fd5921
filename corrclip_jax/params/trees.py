"""Parameter trees in messages: their paths and shapes, and what two trees differ in."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

Shape = tuple[int, ...]


def shapes_by_path(tree: Any) -> dict[str, Shape]:
    """The shape of every leaf by its '/'-joined path; arrays, tracers and `jax.ShapeDtypeStruct` will do.

    >>> shapes_by_path({"clip": {"logit_scale": np.zeros(())}})
    {'clip/logit_scale': ()}
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(np.shape(leaf)) for path, leaf in leaves
    }


def differences(wanted: Mapping[str, Shape], got: Mapping[str, Shape]) -> str:
    """What is missing, left over and of another shape, a line each; empty where the two agree."""
    faults = {
        "missing": [path for path in wanted if path not in got],
        "left over": [path for path in got if path not in wanted],
        "of another shape": [
            f"{path}: wanted {shape}. Got {got[path]}."
            for path, shape in wanted.items()
            if path in got and got[path] != shape
        ],
    }
    return "\n".join(listing(f"Leaves {kind}", entries) for kind, entries in faults.items() if entries)


def listing(title: str, entries: Iterable[str]) -> str:
    """A title with the number of entries, and all entries below it, collapsed."""
    entries = list(entries)
    return "\n  ".join([f"{title} ({len(entries)}):", *collapse(entries)])


def collapse(entries: Iterable[str]) -> list[str]:
    """Entries in order, those that differ in one number of their first word as one line.

    >>> collapse(["norm.weight", "blocks.0.bias", "blocks.1.bias", "blocks.2.bias", "blocks.7.bias"])
    ['norm.weight', 'blocks.{0-2,7}.bias']
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for entry in entries:
        match = re.search(r"\d+", entry.split(" ")[0])
        head, tail = (entry, "") if match is None else (entry[: match.start()], entry[match.end() :])
        groups.setdefault((head, tail), []).extend([] if match is None else [int(match[0])])
    return [head + _runs(numbers) + tail for (head, tail), numbers in groups.items()]


def _runs(numbers: Iterable[int]) -> str:
    """Numbers as runs, in braces where there are several: {0-2,7}."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    shown = ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)
    return "{" + shown + "}" if any(c in shown for c in ",-") else shown
