"""Provenance of a score, as plain JSON types: settings, digests of weights, labels, photos and region maps."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool

from corrclip_jax.bank.digest import bank_digest
from corrclip_jax.config import Config, PartsConfig, to_dict
from corrclip_jax.datasets.dataset import Dataset, some
from corrclip_jax.datasets.marks import content_marks
from corrclip_jax.inference.other_clips import Loaded
from corrclip_jax.io.marks import folder_digests, vocabulary_digest
from corrclip_jax.method.bank import Bank
from corrclip_jax.params.digests import network_digest
from corrclip_jax.params.model_folder import LazyParams
from corrclip_jax.runtime.environment import versions

# Fields that bound memory and never change a result.
_NO_SETTINGS = {"method": ("windows_per_chunk", "rows_per_chunk"), "regions": ("points_per_chunk",)}
_MOST_SHOWN = 3  # of the entries of a list that differ


@dataclass(frozen=True)
class Provenance:
    """What the counts of an evaluation belong to.

    Attributes:
      settings: all options and the weights (see `settings`).
      stems: the names of the images, in order.
      marks: a digest of every image by kind: "photos", "labels", "regions" (see `content_marks`).
      made: the hardware and the versions that counted; counts go on with others.
      weights_files: a digest of the files of every network (see `files_sha256`), by which a later run knows those
        weights without reading them into arrays; empty for weights that lie in no files.
    """

    settings: dict[str, Any]
    stems: list[str] = field(default_factory=list)
    marks: dict[str, list[str]] = field(default_factory=dict)
    made: dict[str, Any] = field(default_factory=dict)
    weights_files: dict[str, str] = field(default_factory=dict)

    def changes_since(self, then: "Provenance", counted: Bool[np.ndarray, " N"]) -> list[str]:
        """What has changed since `counted` images were counted, one line each; nothing if their counts still hold.

        Files of images that are not counted may have changed: they may have been repaired.
        """
        lines = differences(then.settings, self.settings)
        if then.stems != self.stems:
            return [*lines, f"images: were {_listed(then.stems)}, are {_listed(self.stems)}"]
        for kind in sorted({*then.marks, *self.marks}):
            old, new = (marks.get(kind, [""] * len(self.stems)) for marks in (then.marks, self.marks))
            changed = [self.stems[index] for index in np.flatnonzero(counted) if old[index] != new[index]]
            if changed:
                lines.append(
                    f"{kind}: the content has changed of {len(changed)} of {int(counted.sum())} counted images: "
                    f"{some(changed)}"
                )
        return lines


def of_images(
    provenance: Provenance, dataset: Dataset, progress: Callable[[int], object] = lambda done: None
) -> Provenance:
    """The provenance with the names and marks of all images; `progress` gets how many are done."""
    stems = [dataset.stem(index) for index in range(dataset.count)]
    return dataclasses.replace(provenance, stems=stems, marks=content_marks(dataset, progress))


def settings(
    config: Config,
    weights: Mapping[str, str],
    dataset: Dataset,
    variants: Sequence[PartsConfig],
    regions: str,
    bank: Bank | None = None,
    others: Loaded | None = None,
) -> dict[str, Any]:
    """All options that the counts of an evaluation depend on; a run resumes counts of equal settings.

    Args:
      config: the model and the method.
      weights: the digests of `weights_sha256`.
      dataset: what is scored.
      variants: the variants of the method.
      regions: the source of regions.
      bank: the bank, whose content counts, wherever it lies.
      others: the CLIPs of its further values.
    """
    model = {key: value for key, value in to_dict(config).items() if key not in ("vocabulary", "parts")}
    for part, names in _NO_SETTINGS.items():
        model[part] = {key: value for key, value in model[part].items() if key not in names}
    return {
        "data": {
            "classes": ["; ".join(names) for names in dataset.classes],
            "first_id": dataset.first_id,
            "left_out": list(dataset.left_out),
        },
        "regions": regions,
        "model": model,
        "weights_sha256": dict(weights),
        "vocabulary_sha256": vocabulary_digest(config.vocabulary),
        "variants": [to_dict(parts) for parts in variants],
        "bank_sha256": None if bank is None else bank_digest(bank),
        "others_sha256": {name: network_digest(tree["clip"]) for name, (_, tree) in (others or {}).items()}
        or None,
        **versions("corrclip_jax"),
    }


def weights_sha256(params: Mapping[str, Any]) -> dict[str, str]:
    """A digest of every network's parameters."""
    names = sorted(params)
    with ThreadPoolExecutor() as pool:  # hashing releases Python's lock
        return dict(zip(names, pool.map(lambda name: network_digest(params[name]), names), strict=True))


def files_sha256(params: Mapping[str, Any]) -> dict[str, str]:
    """A digest of the files of every network; {} for parameters that lie in no files."""
    return folder_digests(params.trees) if isinstance(params, LazyParams) else {}


def differences(then: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The differences between two trees of settings, one line each."""
    lines = []
    for key in sorted({*then, *now}):
        old, new = then.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += differences(old, new, f"{prefix}{key}.")
        elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
            other = [index for index in range(len(old)) if old[index] != new[index]]
            lines += [
                f"{prefix}{key}[{index}]: was {_short(old[index])}, is {_short(new[index])}"
                for index in other[:_MOST_SHOWN]
            ]
            lines += [f"{prefix}{key}: {len(other)} entries differ"] if len(other) > _MOST_SHOWN else []
        elif old != new:
            lines.append(f"{prefix}{key}: was {_short(old)}, is {_short(new)}")
    return lines


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _listed(stems: list[str]) -> str:
    return f"{len(stems)} ({some(stems, 3)})"
