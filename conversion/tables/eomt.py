"""EoMT: the table of transformers' layout, and the configuration read from tensor shapes.

transformers  `EomtForUniversalSegmentation.save_pretrained`; the giant one's gated MLP is `weights_in` and
              `weights_out` in older files, `gate_proj`, `up_proj` and `down_proj` in newer ones
"""

import math
from collections.abc import Mapping
from typing import Any

from corrclip_jax.config import EoMTConfig
from corrclip_jax.conversion.rules import (
    Rule,
    Shape,
    Sizes,
    Table,
    check_fixed,
    conv,
    heads_of,
    linear,
    norm,
    place,
)

SIGNATURES = {"transformers": "upscale_block.block.0.conv1.weight"}

_LAYER, _OURS = r"layers\.(\d+)", r"layers_\1"
_UPSCALE = r"upscale_block\.block\.(\d+)"

_TABLE = Table(
    "EoMT",
    "transformers",
    rules=(
        Rule(r"embeddings\.(cls_token|register_tokens)", r"embeddings/\1"),
        Rule(r"embeddings\.position_embeddings\.weight", "embeddings/position_embeddings"),
        *conv(r"embeddings\.patch_embeddings\.projection", "embeddings/patch_embeddings"),
        *norm(rf"{_LAYER}\.(norm[12])", rf"{_OURS}/\2"),
        *linear(rf"{_LAYER}\.attention\.((?:q|k|v|out)_proj)", rf"{_OURS}/attention/\2"),
        Rule(rf"{_LAYER}\.(layer_scale[12])\.lambda1", rf"{_OURS}/\2/lambda1"),
        *linear(rf"{_LAYER}\.mlp\.(fc[12]|(?:gate|up|down)_proj)", rf"{_OURS}/mlp/\2"),
        Rule(
            rf"{_LAYER}\.mlp\.weights_in\.weight",
            (f"{_OURS}/mlp/gate_proj/kernel", f"{_OURS}/mlp/up_proj/kernel"),
            "split_linear",
        ),
        Rule(
            rf"{_LAYER}\.mlp\.weights_in\.bias",
            (f"{_OURS}/mlp/gate_proj/bias", f"{_OURS}/mlp/up_proj/bias"),
            "split_bias",
        ),
        *linear(rf"{_LAYER}\.mlp\.weights_out", f"{_OURS}/mlp/down_proj"),
        *norm("layernorm", "layernorm"),
        Rule(r"query\.weight", "query"),
        *conv(rf"{_UPSCALE}\.conv1", r"upscale_block/block_\1/conv1", "conv_transpose"),
        Rule(rf"{_UPSCALE}\.conv2\.weight", r"upscale_block/block_\1/conv2/kernel", "conv"),
        *norm(rf"{_UPSCALE}\.layernorm2d", r"upscale_block/block_\1/layernorm2d"),
        *linear(r"mask_head\.(fc[123])", r"mask_head/\1"),
        *linear("class_predictor", "class_predictor"),
        Rule("attn_mask_probs", "attn_mask_probs"),
    ),
    ignored=(r"criterion\.empty_weight",),  # the loss's
)

# What our model has built in; a config.json may say otherwise.
_FIXED: dict[str, Any] = {"hidden_act": "gelu", "layer_norm_eps": 1e-6, "num_channels": 3}


def table(config: EoMTConfig, layout: str) -> Table:
    """The table of a layout; it is the same for all sizes."""
    return {"transformers": _TABLE}[layout]


def config_from_shapes(shapes: Mapping[str, Shape], layout: str, published: Mapping[str, Any]) -> EoMTConfig:
    """The configuration that tensor shapes show.

    The number of heads is that of `published` (transformers' config.json), else one for 64 channels. A gated MLP
    is taken for one of ratio 4, whose width it has; another needs its config.json.

    Raises:
      ConversionError: where a tensor that shows a size is missing, and for a config.json that asks for what our
        model cannot do.
    """
    check_fixed(published, _FIXED, "an EoMT")
    sizes = Sizes(place(_TABLE, shapes), f"EoMT ({layout} layout)")
    patches, width = sizes.shape("embeddings/position_embeddings", 2)
    patch = sizes.shape("embeddings/patch_embeddings/kernel", 4)[-1]
    swiglu = "layers.0.mlp.weights_in.weight" in shapes or "layers.0.mlp.gate_proj.weight" in shapes
    ratio = published.get("mlp_ratio", 4) if swiglu else sizes.ratio("layers_0/mlp/fc1/kernel")
    return EoMTConfig(
        image_size=math.isqrt(patches) * patch,
        patch_size=patch,
        width=width,
        layers=sizes.count("layers_{}/norm1/scale"),
        heads=published.get("num_attention_heads") or heads_of(width, "EoMT"),
        mlp_ratio=float(ratio),
        swiglu=swiglu,
        registers=sizes.shape("embeddings/register_tokens", 3)[1],
        queries=sizes.shape("query", 2)[0],
        query_blocks=sizes.shape("attn_mask_probs", 1)[0],
        upscale_blocks=sizes.count("upscale_block/block_{}/conv1/bias"),
        labels=sizes.shape("class_predictor/kernel", 2)[0] - 1,
    )
