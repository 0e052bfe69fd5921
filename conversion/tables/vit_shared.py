"""What the tables of plain ViTs share: rules of their blocks, and the configuration that shapes show."""

import math
from collections.abc import Mapping
from typing import Any

from corrclip_jax.conversion.rules import Rule, Sizes, heads_of, linear, norm

_PROJECTIONS = ("q_proj", "k_proj", "v_proj")


def qkv_rules(source: str, block: str, *, separator: str = r"\.", key_bias: bool = True) -> tuple[Rule, Rule]:
    """One layer that makes queries, keys and values; without `key_bias` the keys' part of its bias is dropped."""
    parts = tuple(f"{block}/attention/{part}" for part in _PROJECTIONS)
    biases = tuple(f"{part}/bias" if key_bias or not part.endswith("k_proj") else None for part in parts)
    return (
        Rule(rf"{source}{separator}weight", tuple(f"{part}/kernel" for part in parts), "split_linear"),
        Rule(rf"{source}{separator}bias", biases, "split_bias"),
    )


def original_blocks(prefix: str, *, key_bias: bool = True) -> tuple[Rule, ...]:
    """Blocks as the original programs name them; a gated MLP as in DINOv2 (`w12`) or in DINOv3 (`w1`, `w2`)."""
    source, block = rf"{prefix}blocks\.(\d+)", r"blocks_\1"
    halves = (f"{block}/mlp/gate_proj", f"{block}/mlp/up_proj")
    return (
        *norm(rf"{source}\.(norm[12])", rf"{block}/\2"),
        *qkv_rules(rf"{source}\.attn\.qkv", block, key_bias=key_bias),
        *linear(rf"{source}\.attn\.proj", f"{block}/attention/out_proj"),
        Rule(rf"{source}\.(?:ls|layer_scale)([12])\.(?:gamma|lambda1)", rf"{block}/layer_scale\2/lambda1"),
        *linear(rf"{source}\.mlp\.(fc[12])", rf"{block}/mlp/\2"),
        Rule(rf"{source}\.mlp\.w12\.weight", tuple(f"{half}/kernel" for half in halves), "split_linear"),
        Rule(rf"{source}\.mlp\.w12\.bias", tuple(f"{half}/bias" for half in halves), "split_bias"),
        *linear(rf"{source}\.mlp\.w1", halves[0]),
        *linear(rf"{source}\.mlp\.w2", halves[1]),
        *linear(rf"{source}\.mlp\.w3", f"{block}/mlp/down_proj"),
    )


def transformers_blocks(source: str) -> tuple[Rule, ...]:
    """Blocks as transformers names them, in its files and, where those differ, in memory.

    `source` is a block's name, with its number as the first group.
    """
    block = r"blocks_\1"
    halves = (f"{block}/mlp/gate_proj", f"{block}/mlp/up_proj")
    return (
        *norm(rf"{source}\.(norm[12])", rf"{block}/\2"),
        *linear(rf"{source}\.attention\.([qkv]_proj)", rf"{block}/attention/\2"),
        *linear(rf"{source}\.attention\.attention\.query", f"{block}/attention/q_proj"),
        *linear(rf"{source}\.attention\.attention\.key", f"{block}/attention/k_proj"),
        *linear(rf"{source}\.attention\.attention\.value", f"{block}/attention/v_proj"),
        *linear(rf"{source}\.attention\.(?:output\.dense|o_proj)", f"{block}/attention/out_proj"),
        Rule(rf"{source}\.layer_scale([12])\.lambda1", rf"{block}/layer_scale\2/lambda1"),
        *linear(rf"{source}\.mlp\.(fc[12])", rf"{block}/mlp/\2"),
        Rule(
            rf"{source}\.mlp\.weights_in\.weight", tuple(f"{half}/kernel" for half in halves), "split_linear"
        ),
        Rule(rf"{source}\.mlp\.weights_in\.bias", tuple(f"{half}/bias" for half in halves), "split_bias"),
        *linear(rf"{source}\.mlp\.weights_out", f"{block}/mlp/down_proj"),
    )


def gated_mlp(source: str) -> tuple[Rule, ...]:
    """A gated MLP's three layers by transformers' names."""
    return linear(rf"{source}\.mlp\.((?:gate|up|down)_proj)", r"blocks_\1/mlp/\2")


def native_side(positions: int, patch_size: int) -> int:
    """The native size of an image, in pixels, by the number of its patches' position embeddings."""
    return math.isqrt(positions) * patch_size


def sizes_of_blocks(
    sizes: Sizes, width: int, published: Mapping[str, Any], title: str, heads: int | None = None
) -> dict[str, Any]:
    """Width, layers, heads and MLP of a `ViTConfig`; `heads` where a size has others than width / 64."""
    down = sizes.shape_or_none("blocks_0/mlp/down_proj/kernel")
    return {
        "width": width,
        "layers": sizes.count("blocks_{}/norm1/scale"),
        "heads": published.get("num_attention_heads") or heads or heads_of(width, title),
        "mlp_ratio": down[1] * 1.5 / width if down else sizes.ratio("blocks_0/mlp/fc1/kernel"),
        "swiglu": down is not None,
    }
