"""Pairs of the same model: transformers' torch one with random weights, and ours, through files and conversion.

Where no folder is given, the tensors go from the model to the conversion, for those that take seconds to write.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import reference
from safetensors.numpy import load_file
from transformers import CLIPModel, PreTrainedModel, ViTModel

from corrclip_jax.config import CLIPConfig, CLIPTextConfig, CLIPVisionConfig, Config, DINOConfig
from corrclip_jax.conversion.families import convert_state_dict

TOLERANCE = 1e-4  # of a stage's largest magnitude


@dataclass(frozen=True)
class CLIPSize:
    layers: int = 6
    head_width: int = 16
    heads: int = 4
    patch_size: int = 16
    image_size: int = 224
    quick_gelu: bool = True
    embed_dim: int = 24
    text_layers: int = 2
    text_heads: int = 4
    text_width: int = 32
    vocabulary: int = 64


@dataclass(frozen=True)
class DINOSize:
    layers: int = 3
    width: int = 48
    heads: int = 3
    patch_size: int = 8
    image_size: int = 224


@dataclass(frozen=True)
class Pair:
    """Torch models, and our config and parameters of the same weights."""

    clip: CLIPModel
    dino: ViTModel
    config: Config
    params: dict[str, Any]


def make_clip(
    size: CLIPSize, folder: Path | None, seed: int = 0
) -> tuple[CLIPModel, CLIPConfig, dict[str, Any]]:
    model = reference.random_clip(
        layers=size.layers,
        width=size.heads * size.head_width,
        heads=size.heads,
        patch_size=size.patch_size,
        image_size=size.image_size,
        quick_gelu=size.quick_gelu,
        embed_dim=size.embed_dim,
        text_width=size.text_width,
        text_heads=size.text_heads,
        text_layers=size.text_layers,
        vocabulary=size.vocabulary,
        seed=seed,
    )
    config = CLIPConfig(
        embed_dim=size.embed_dim,
        quick_gelu=size.quick_gelu,
        vision=CLIPVisionConfig(
            image_size=size.image_size,
            patch_size=size.patch_size,
            width=size.heads * size.head_width,
            layers=size.layers,
            head_width=size.head_width,
        ),
        text=CLIPTextConfig(
            vocab_size=size.vocabulary,
            width=size.text_width,
            heads=size.text_heads,
            layers=size.text_layers,
        ),
    )
    return model, config, converted("clip", model, folder, config)


def make_dino(
    size: DINOSize, folder: Path | None, seed: int = 1
) -> tuple[ViTModel, DINOConfig, dict[str, Any]]:
    model = reference.random_dino(
        layers=size.layers,
        width=size.width,
        heads=size.heads,
        patch_size=size.patch_size,
        image_size=size.image_size,
        seed=seed,
    )
    config = DINOConfig(
        image_size=size.image_size,
        patch_size=size.patch_size,
        width=size.width,
        layers=size.layers,
        heads=size.heads,
    )
    return model, config, converted("dino", model, folder, config)


def make_pair(clip_size: CLIPSize, dino_size: DINOSize, folder: Path | None, **config) -> Pair:
    clip, clip_config, clip_params = make_clip(clip_size, folder)
    dino, dino_config, dino_params = make_dino(dino_size, folder)
    whole = Config(clip=clip_config, dino=dino_config, sam2=None, **config)
    return Pair(clip, dino, whole, {"clip": clip_params, "dino": dino_params})


def converted(
    family: str, model: PreTrainedModel, folder: Path | None, config: CLIPConfig | DINOConfig
) -> dict[str, Any]:
    if folder is None:
        state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    else:
        model.save_pretrained(folder / family)
        state = load_file(folder / family / "model.safetensors")
    return jax.device_put(convert_state_dict(family, state, config))


def relative_error(ours, torch_value) -> float:
    """Largest difference as a share of the torch value's largest magnitude."""
    wanted = np.asarray(torch_value)
    got = np.asarray(ours)
    assert got.shape == wanted.shape, f"shape {got.shape}, torch has {wanted.shape}"
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


def assert_close(stage: str, ours, torch_value, tolerance: float = TOLERANCE) -> None:
    error = relative_error(ours, torch_value)
    assert error <= tolerance, f"{stage} differs by {error:.1e} of its largest magnitude"
