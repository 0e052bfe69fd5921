"""DINOv3 ViT: the tables of its two published layouts, and its configuration read from tensor shapes.

original      `dinov3_vitl16_pretrain_lvd1689m-8aa4cbdd.pth` (fused qkv, the keys' bias masked to nothing)
transformers  `DINOv3ViTModel.save_pretrained`
"""

from collections.abc import Mapping
from typing import Any

from corrclip_jax.config import DINOv3Config
from corrclip_jax.conversion.rules import Rule, Shape, Sizes, Table, check_fixed, conv, linear, norm, place
from corrclip_jax.conversion.tables.vit_shared import (
    gated_mlp,
    original_blocks,
    sizes_of_blocks,
    transformers_blocks,
)

SIGNATURES = {
    "original": "rope_embed.periods",
    "transformers": "layer.0.layer_scale1.lambda1",
    "transformers, in memory": "model.layer.0.layer_scale1.lambda1",
}

_ORIGINAL = Table(
    "DINOv3",
    "original",
    rules=(
        Rule(r"(cls_token|storage_tokens)", r"\1"),
        *conv(r"patch_embed\.proj", "patch_embed"),
        *original_blocks("", key_bias=False),
        *norm("norm", "norm"),
    ),
    ignored=(
        "mask_token",  # the training's
        r"rope_embed\.periods",  # a formula
        r"blocks\.\d+\.attn\.qkv\.bias_mask",  # 0 for the keys
    ),
)

_FIXED: dict[str, Any] = {
    "layer_norm_eps": 1e-5,
    "num_channels": 3,
    "query_bias": True,
    "key_bias": False,
    "value_bias": True,
    "proj_bias": True,
    "mlp_bias": True,
}


def _transformers(swiglu: bool) -> Table:
    layer = r"(?:model\.)?layer\.(\d+)"
    plain = (
        *linear(rf"{layer}\.mlp\.up_proj", r"blocks_\1/mlp/fc1"),
        *linear(rf"{layer}\.mlp\.down_proj", r"blocks_\1/mlp/fc2"),
    )
    rules = (
        Rule(r"embeddings\.cls_token", "cls_token"),
        Rule(r"embeddings\.register_tokens", "storage_tokens"),
        *conv(r"embeddings\.patch_embeddings", "patch_embed"),
        *transformers_blocks(layer),
        *(gated_mlp(layer) if swiglu else plain),
        *norm("norm", "norm"),
    )
    return Table("DINOv3", "transformers", rules, (r"embeddings\.mask_token",))


def table(config: DINOv3Config, layout: str) -> Table:
    """The table of a layout; transformers names the layers of both kinds of MLP alike."""
    return _ORIGINAL if layout == "original" else _transformers(config.swiglu)


def config_from_shapes(
    shapes: Mapping[str, Shape], layout: str, published: Mapping[str, Any]
) -> DINOv3Config:
    """The configuration that tensor shapes show; heads as `config.json` has them, else 64 wide.

    Raises:
      ConversionError: where a tensor that shows a size is missing, and for a config.json that asks for what our
        model cannot do.
    """
    check_fixed(published, _FIXED, "a DINOv3")
    swiglu = any(name.endswith("layer.0.mlp.gate_proj.weight") for name in shapes)
    check_fixed(published, {"hidden_act": "silu" if swiglu else "gelu"}, "a DINOv3")
    placed = place(_ORIGINAL if layout == "original" else _transformers(swiglu), shapes)
    sizes = Sizes(placed, f"DINOv3 ({layout} layout)")
    width, _, patch_size, _ = sizes.shape("patch_embed/kernel", 4)
    registers = sizes.shape_or_none("storage_tokens")
    return DINOv3Config(
        image_size=14 * patch_size,
        patch_size=patch_size,
        registers=registers[1] if registers else 0,
        rope_base=float(published.get("rope_theta") or 100.0),
        **sizes_of_blocks(sizes, width, published, "DINOv3"),
    )
