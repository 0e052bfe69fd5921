"""The small models of the second version's goldens: weights drawn by name, converted by the real tables."""

import importlib.util
import json
from functools import lru_cache
from types import ModuleType
from typing import Any

import jax
import pytest
from tests_shared import GOLDENS_V2

from corrclip_jax.config import FAMILIES, CLIPConfig, Config, from_dict
from corrclip_jax.conversion.families import convert_state_dict

if GOLDENS_V2 is None:
    pytest.skip("the outputs of CorrCLIPv2 are not here", allow_module_level=True)


@lru_cache(maxsize=1)
def seeded() -> ModuleType:
    """The module that draws the golden weights."""
    spec = importlib.util.spec_from_file_location("seeded_v2", GOLDENS_V2 / "seeded_v2.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@lru_cache(maxsize=1)
def _models() -> dict[str, Any]:
    return json.loads((GOLDENS_V2 / "models.json").read_text())


@lru_cache(maxsize=8)
def network(name: str) -> tuple[Any, dict]:
    """Configuration and parameters of one golden network ("clip_b16", "radio" ...)."""
    sizes = dict(_models()["configs"][name])
    if name.startswith("clip"):
        family = "clip"
        config: Any = from_dict(CLIPConfig, sizes)
    else:
        family = sizes.pop("family")
        sizes.pop("norm", None)
        if "cpe_max_size" in sizes:
            sizes["image_size"] = sizes.pop("cpe_max_size")
        config = from_dict(FAMILIES[family].config, sizes)
    weights = seeded().state_dict(_models()["shapes"][name], f"corrclip2/{name}")
    return config, jax.device_put(convert_state_dict(family, weights, config))


def backbone(family: str) -> tuple[Config, dict]:
    """A model with one golden backbone for similarities."""
    config, params = network(family)
    return Config(similarity=family, dino=None, sam2=None, **{family: config}), {family: params}
