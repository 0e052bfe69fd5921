"""DINO v1: the tables of its two published layouts, and its configuration read from tensor shapes.

original      `dino_vitbase8_pretrain.pth` and the backbone in DINO's training checkpoints (fused qkv)
transformers  `ViTModel.save_pretrained`, and the names that `ViTModel` itself uses since transformers 5
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from corrclip_jax.config import DINOConfig
from corrclip_jax.conversion.rules import (
    ConversionError,
    Rule,
    Shape,
    Sizes,
    Table,
    heads_of,
    linear,
    norm,
    place,
)

SIGNATURES = {
    "original": "patch_embed.proj.weight",
    "transformers": "embeddings.patch_embeddings.projection.weight",
}

# Of the last block, the method reads query plus key; nothing after that is computed, and our tree does not hold it.
_UNREAD_ORIGINAL = r"attn\.proj|norm2|mlp\.fc1|mlp\.fc2"
_UNREAD_TRANSFORMERS = (
    r"attention\.attention\.value|attention\.output\.dense|attention\.v_proj|attention\.o_proj|layernorm_after"
    r"|intermediate\.dense|output\.dense|mlp\.fc1|mlp\.fc2"
)


def _original(last: int) -> Table:
    inner, final = rf"blocks\.((?!{last}\.)\d+)", rf"blocks\.({last})"
    attention = tuple(rf"blocks_\1/attn/{part}" for part in ("query", "key", "value"))
    read = (*attention[:2], None)
    rules = (
        Rule(r"cls_token", "cls_token"),
        Rule(r"pos_embed", "pos_embed"),
        Rule(r"patch_embed\.proj\.weight", "patch_embed/kernel", "conv"),
        Rule(r"patch_embed\.proj\.bias", "patch_embed/bias"),
        *norm(r"blocks\.(\d+)\.norm1", r"blocks_\1/norm1"),
        Rule(rf"{inner}\.attn\.qkv\.weight", _leaves(attention, "kernel"), "split_linear"),
        Rule(rf"{inner}\.attn\.qkv\.bias", _leaves(attention, "bias"), "split_bias"),
        Rule(rf"{final}\.attn\.qkv\.weight", _leaves(read, "kernel"), "split_linear"),
        Rule(rf"{final}\.attn\.qkv\.bias", _leaves(read, "bias"), "split_bias"),
        *linear(rf"{inner}\.attn\.proj", r"blocks_\1/attn/proj"),
        *norm(rf"{inner}\.norm2", r"blocks_\1/norm2"),
        *linear(rf"{inner}\.mlp\.fc1", r"blocks_\1/mlp/fc1"),
        *linear(rf"{inner}\.mlp\.fc2", r"blocks_\1/mlp/fc2"),
    )
    ignored = (
        rf"blocks\.{last}\.({_UNREAD_ORIGINAL})\.(weight|bias)",
        r"norm\.(weight|bias)",  # the final norm, after the last block
        r"head\..*",  # the training head
    )
    return Table("DINO", "original", rules, ignored)


def _transformers(last: int) -> Table:
    # Files say encoder.layer.0.attention.attention.query, ViTModel of transformers 5 layers.0.attention.q_proj.
    block = r"(?:encoder\.layer|layers)\."
    every, inner = block + r"(\d+)", block + rf"((?!{last}\.)\d+)"
    rules = (
        Rule(r"embeddings\.cls_token", "cls_token"),
        Rule(r"embeddings\.position_embeddings", "pos_embed"),
        Rule(r"embeddings\.patch_embeddings\.projection\.weight", "patch_embed/kernel", "conv"),
        Rule(r"embeddings\.patch_embeddings\.projection\.bias", "patch_embed/bias"),
        *norm(rf"{every}\.layernorm_before", r"blocks_\1/norm1"),
        *linear(rf"{every}\.attention\.(?:attention\.query|q_proj)", r"blocks_\1/attn/query"),
        *linear(rf"{every}\.attention\.(?:attention\.key|k_proj)", r"blocks_\1/attn/key"),
        *linear(rf"{inner}\.attention\.(?:attention\.value|v_proj)", r"blocks_\1/attn/value"),
        *linear(rf"{inner}\.attention\.(?:output\.dense|o_proj)", r"blocks_\1/attn/proj"),
        *norm(rf"{inner}\.layernorm_after", r"blocks_\1/norm2"),
        *linear(rf"{inner}\.(?:intermediate\.dense|mlp\.fc1)", r"blocks_\1/mlp/fc1"),
        *linear(rf"{inner}\.(?:output\.dense|mlp\.fc2)", r"blocks_\1/mlp/fc2"),
    )
    ignored = (
        block + rf"{last}\.({_UNREAD_TRANSFORMERS})\.(weight|bias)",
        r"layernorm\.(weight|bias)",  # the final norm, after the last block
        r"pooler\.dense\.(weight|bias)",  # transformers' own addition, untrained
    )
    return Table("DINO", "transformers", rules, ignored)


def _leaves(paths: tuple[str | None, ...], leaf: str) -> tuple[str | None, ...]:
    return tuple(None if path is None else f"{path}/{leaf}" for path in paths)


def table(config: DINOConfig, layout: str) -> Table:
    """The table of a layout; which block is the last depends on the depth."""
    return {"original": _original, "transformers": _transformers}[layout](config.layers - 1)


def config_from_shapes(shapes: Mapping[str, Shape], layout: str, published: Mapping[str, Any]) -> DINOConfig:
    """The configuration that tensor shapes show; heads as `config.json` has them, else 64 wide.

    Raises:
      ConversionError: where a tensor that shows a size is missing.
    """
    blocks = {
        int(match[1])
        for name in shapes
        if (match := re.match(r"(?:blocks|encoder\.layer|layers)\.(\d+)\.", name))
    }
    if not blocks:
        raise ConversionError("The file looks like DINO, but holds no transformer block.")
    layers = max(blocks) + 1
    sizes = Sizes(place(table(DINOConfig(layers=layers), layout), shapes), "DINO")
    width, _, patch_size, _ = sizes.shape("patch_embed/kernel", 4)
    return DINOConfig(
        image_size=math.isqrt(sizes.shape("pos_embed", 3)[1] - 1) * patch_size,
        patch_size=patch_size,
        width=width,
        layers=layers,
        heads=published.get("num_attention_heads") or heads_of(width, "DINO"),
        mlp_ratio=sizes.ratio("blocks_0/mlp/fc1/kernel") if layers > 1 else 4.0,
    )
