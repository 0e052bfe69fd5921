"""Every published network in small: what the repositories of the registry hold, for a hub on loopback."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from published import published_shapes, random_tensors
from safetensors.numpy import save
from small_models import BACKBONES, EOMT, MASK2FORMER, SAM1, small_config

from corrclip_jax.conversion.published import Published, published_models, vocabulary_repository

SMALL = small_config()
NETWORKS = {
    "clip": SMALL.clip, "dino": SMALL.dino, "sam2": SMALL.sam2, "sam1": SAM1, "eomt": EOMT,
    "eomt-dinov3": replace(EOMT, rope_base=100.0), "mask2former": MASK2FORMER, **BACKBONES,
}  # fmt: skip
# What tensors do not show, as transformers writes it.
_SAM2_JSON = {
    "model_type": "sam2_video",
    "vision_config": {
        "backbone_config": {
            "num_attention_heads_per_stage": [SMALL.sam2.heads << stage for stage in range(4)],
            "window_size_per_stage": list(SMALL.sam2.window_sizes),
            "global_attention_blocks": list(SMALL.sam2.global_blocks),
        }
    },
    "prompt_encoder_config": {"image_size": SMALL.sam2.image_size},
    "mask_decoder_config": {"num_attention_heads": SMALL.sam2.decoder_heads},
}
_JSON = {
    "sam2": _SAM2_JSON,
    "sam1": {"model_type": "sam", "mask_decoder_config": {"num_attention_heads": SAM1.decoder_heads}},
    "eomt": {"model_type": "eomt", "num_attention_heads": EOMT.heads},
    "eomt-dinov3": {
        "model_type": "eomt_dinov3",
        "num_attention_heads": EOMT.heads,
        "image_size": EOMT.image_size,
    },
    "mask2former": {"model_type": "mask2former"},
    **{
        family: {"model_type": kind, "num_attention_heads": BACKBONES[family].heads}
        for family, kind in (("radio", "radio"), ("dinov2", "dinov2"), ("dinov3", "dinov3_vit"))
    },
}
# Repositories without a .safetensors file, as their public lists have it.
PICKLES_ONLY = (
    "openai/clip-vit-base-patch16",
    "facebook/metaclip-b16-fullcc2.5b",
    "facebook/metaclip-l14-fullcc2.5b",
    "facebook/mask2former-swin-large-coco-panoptic",
)


def kind_of(one: Published) -> str:
    """The key of its small network in `NETWORKS`: its family, or a variant of it."""
    return "eomt-dinov3" if one.key.startswith("eomt/dinov3") else one.family


@cache
def published_tensors(kind: str, layout: str):
    shapes = published_shapes(kind.partition("-")[0], NETWORKS[kind], layout)
    return {name: np.asarray(tensor - np.float32(0.5)) for name, tensor in random_tensors(shapes).items()}


@cache
def safetensors(kind: str, layout: str) -> bytes:
    return save(published_tensors(kind, layout))


def layout_of(family: str, file: str) -> str:
    """The layout that a published file of this name has."""
    if family == "clip" and file.startswith("open_clip"):
        return "open_clip"
    if family == "radio":
        return "hub"
    return "original" if file.endswith(".pt") else "transformers"


def content_of(kind: str, file: str) -> bytes:
    """A file of weights; of a pickle, as long as no test reads it, only the place is taken."""
    return safetensors(kind, layout_of(kind, file)) if file.endswith(".safetensors") else b"pickle"


def small_repositories(vocabulary: Path) -> dict[str, dict[str, bytes]]:
    """The files of every repository of the registry; `vocabulary` lies in the one that lends it."""
    repositories: dict[str, dict[str, bytes]] = {}
    for one in published_models().values():
        for place in one.repositories:
            pickles = place.name in PICKLES_ONLY
            files = [name for name in place.files if not (pickles and name.endswith(".safetensors"))]
            kind = kind_of(one)
            contents = {name: content_of(kind, name) for name in files}
            contents["README.md"] = b"# A model"
            if kind in _JSON:
                contents["config.json"] = json.dumps(_JSON[kind]).encode()
            repositories[place.name] = contents
    repositories[vocabulary_repository()][vocabulary.name] = vocabulary.read_bytes()
    return repositories
