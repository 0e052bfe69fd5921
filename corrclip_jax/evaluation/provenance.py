"""Provenance of a score, as plain JSON types: settings and digests of the weights."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from corrclip_jax.config import Config, PartsConfig, to_dict
from corrclip_jax.datasets.dataset import Dataset
from corrclip_jax.runtime.environment import versions

# Fields that bound memory and never change a result.
_NO_SETTINGS = {"method": ("windows_per_chunk", "rows_per_chunk"), "regions": ("points_per_chunk",)}


def settings(
    config: Config,
    weights: Mapping[str, str],
    dataset: Dataset,
    variants: Sequence[PartsConfig],
    regions: str,
) -> dict[str, Any]:
    """Everything that the counts of an evaluation depend on; a run resumes counts of equal settings.

    Args:
      config: the model and the method.
      weights: the digests of `weights_sha256`.
      dataset: what is scored.
      variants: the variants of the method.
      regions: where region maps come from.
    """
    model = {key: value for key, value in to_dict(config).items() if key not in ("vocabulary", "parts")}
    for part, names in _NO_SETTINGS.items():
        model[part] = {key: value for key, value in model[part].items() if key not in names}
    stems = "\n".join(dataset.stem(index) for index in range(dataset.count))
    return {
        "data": {
            "name": dataset.name,
            "pictures": dataset.count,
            "names_of_pictures_sha256": hashlib.sha256(stems.encode()).hexdigest(),
            "classes": ["; ".join(names) for names in dataset.classes],
        },
        "regions": regions,
        "model": model,
        "weights_sha256": dict(weights),
        "variants": [to_dict(parts) for parts in variants],
        **versions("corrclip_jax"),
    }


def weights_sha256(params: Mapping[str, Any]) -> dict[str, str]:
    """A digest of every network's parameters: names, types, shapes and values, in the order of their names."""
    digests = {}
    for network, tree in sorted(params.items()):
        digest = hashlib.sha256()
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            array = np.ascontiguousarray(leaf)
            digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
            digest.update(array.reshape(-1).view(np.uint8).data)
        digests[network] = digest.hexdigest()
    return digests
