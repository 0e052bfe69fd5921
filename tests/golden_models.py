"""The small models of the goldens: weights drawn by name, converted by the real tables."""

import importlib.util
import json
from functools import lru_cache
from types import ModuleType

import jax
from tests_shared import GOLDENS

from corrclip_jax.config import CLIPConfig, CLIPTextConfig, CLIPVisionConfig, Config, DINOConfig
from corrclip_jax.conversion.families import convert_state_dict


@lru_cache(maxsize=1)
def seeded() -> ModuleType:
    """The module that draws the golden weights."""
    assert GOLDENS is not None
    spec = importlib.util.spec_from_file_location("seeded", GOLDENS / "seeded.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@lru_cache(maxsize=4)
def golden_model(name: str) -> tuple[Config, dict]:
    """Configuration and parameters of a golden model pair ("b16", "l14", "d12")."""
    assert GOLDENS is not None
    description = json.loads((GOLDENS / f"{name}.json").read_text())
    sizes = description["config"]
    dino = sizes["dino"]
    config = Config(
        name=name,
        clip=CLIPConfig(
            embed_dim=sizes["embed_dim"],
            quick_gelu=sizes["quick_gelu"],
            vision=CLIPVisionConfig(**sizes["vision"]),
            text=CLIPTextConfig(**sizes["text"]),
        ),
        dino=DINOConfig(
            image_size=dino["img_size"][0],
            patch_size=dino["patch_size"],
            width=dino["embed_dim"],
            layers=dino["depth"],
            heads=dino["num_heads"],
        ),
        sam2=None,
    )
    params = {
        family: convert_state_dict(
            family, seeded().state_dict(description[family], f"corrclip/{family}"), getattr(config, family)
        )
        for family in ("clip", "dino")
    }
    return config, jax.device_put(params)
