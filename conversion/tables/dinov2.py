"""DINOv2, with or without registers: the tables of its two published layouts, its configuration by tensor shapes.

original      `dinov2_vitl14_reg4_pretrain.pth` (fused qkv)
transformers  `Dinov2Model` and `Dinov2WithRegistersModel.save_pretrained`
"""

from collections.abc import Mapping
from typing import Any

from corrclip_jax.config import DINOv2Config
from corrclip_jax.conversion.rules import Rule, Shape, Sizes, Table, check_fixed, conv, norm, place
from corrclip_jax.conversion.tables.vit_shared import (
    gated_mlp,
    native_side,
    original_blocks,
    sizes_of_blocks,
    transformers_blocks,
)

SIGNATURES = {
    "original": "blocks.0.ls1.gamma",
    "transformers": "encoder.layer.0.layer_scale1.lambda1",
}

_LAYER = r"encoder\.layer\.(\d+)"
_TABLES = {
    "original": Table(
        "DINOv2",
        "original",
        rules=(
            Rule(r"(cls_token|pos_embed|register_tokens)", r"\1"),
            *conv(r"patch_embed\.proj", "patch_embed"),
            *original_blocks(""),
            *norm("norm", "norm"),
        ),
        ignored=("mask_token",),  # the training's
    ),
    "transformers": Table(
        "DINOv2",
        "transformers",
        rules=(
            Rule(r"embeddings\.(cls_token|register_tokens)", r"\1"),
            Rule(r"embeddings\.position_embeddings", "pos_embed"),
            *conv(r"embeddings\.patch_embeddings\.projection", "patch_embed"),
            *transformers_blocks(_LAYER),
            *gated_mlp(_LAYER),
            *norm("layernorm", "norm"),
        ),
        ignored=(r"embeddings\.mask_token",),
    ),
}

# What our model has built in; a config.json may say otherwise.
_FIXED: dict[str, Any] = {"hidden_act": "gelu", "layer_norm_eps": 1e-6, "num_channels": 3, "qkv_bias": True}


def table(config: DINOv2Config, layout: str) -> Table:
    """The table of a layout; it is the same for all sizes."""
    return _TABLES[layout]


def config_from_shapes(
    shapes: Mapping[str, Shape], layout: str, published: Mapping[str, Any]
) -> DINOv2Config:
    """The configuration that tensor shapes show; heads as `config.json` has them, else 64 wide.

    Raises:
      ConversionError: where a tensor that shows a size is missing, and for a config.json that asks for what our
        model cannot do.
    """
    check_fixed(published, _FIXED, "a DINOv2")
    sizes = Sizes(place(_TABLES[layout], shapes), f"DINOv2 ({layout} layout)")
    width, _, patch_size, _ = sizes.shape("patch_embed/kernel", 4)
    registers = sizes.shape_or_none("register_tokens")
    return DINOv2Config(
        image_size=native_side(sizes.shape("pos_embed", 3)[1] - 1, patch_size),
        patch_size=patch_size,
        registers=registers[1] if registers else 0,
        **sizes_of_blocks(sizes, width, published, "DINOv2"),
    )
