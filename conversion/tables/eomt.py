"""EoMT: the tables of its published layouts, and the configuration read from tensor shapes.

transformers  `EomtForUniversalSegmentation.save_pretrained`; the giant one's gated MLP is `weights_in` and
              `weights_out` in older files, `gate_proj`, `up_proj` and `down_proj` in newer ones. On DINOv3
              `EomtDinov3ForUniversalSegmentation.save_pretrained`, with the names of its DINOv3
original      `pytorch_model.bin` of the authors' repositories: timm's names below `network.` (fused qkv); those on
              DINOv3 hold differences and are refused
"""

import math
from collections.abc import Mapping
from typing import Any

from corrclip_jax.config import EoMTConfig
from corrclip_jax.conversion.rules import (
    ConversionError,
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

SIGNATURES = {"transformers": "upscale_block.block.0.conv1.weight", "original": "network.q.weight"}

_LAYER, _OURS = r"layers\.(\d+)", r"layers_\1"
_UPSCALE = r"upscale_block\.block\.(\d+)"


def _qkv(source: str, target: str) -> tuple[Rule, Rule]:
    """The two rules of one layer that makes queries, keys and values; `source` is a regular expression."""
    kernels, biases = (
        tuple(f"{target}/{part}_proj/{leaf}" for part in ("q", "k", "v")) for leaf in ("kernel", "bias")
    )
    return Rule(rf"{source}\.weight", kernels, "split_linear"), Rule(rf"{source}\.bias", biases, "split_bias")


_DINOV2 = (
    Rule(r"embeddings\.position_embeddings\.weight", "embeddings/position_embeddings"),
    *conv(r"embeddings\.patch_embeddings\.projection", "embeddings/patch_embeddings"),
    *linear(rf"{_LAYER}\.attention\.out_proj", f"{_OURS}/attention/out_proj"),
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
)
_DINOV3 = (
    *conv(r"embeddings\.patch_embeddings", "embeddings/patch_embeddings"),
    *linear(rf"{_LAYER}\.attention\.o_proj", f"{_OURS}/attention/out_proj"),
    *linear(rf"{_LAYER}\.mlp\.up_proj", f"{_OURS}/mlp/fc1"),
    *linear(rf"{_LAYER}\.mlp\.down_proj", f"{_OURS}/mlp/fc2"),
)


def _transformers(dinov3: bool) -> Table:
    rules = (
        *(_DINOV3 if dinov3 else _DINOV2),
        Rule(r"embeddings\.(cls_token|register_tokens)", r"embeddings/\1"),
        *norm(rf"{_LAYER}\.(norm[12])", rf"{_OURS}/\2"),
        *linear(rf"{_LAYER}\.attention\.([qkv]_proj)", rf"{_OURS}/attention/\2"),
        Rule(rf"{_LAYER}\.(layer_scale[12])\.lambda1", rf"{_OURS}/\2/lambda1"),
        *norm("layernorm", "layernorm"),
        Rule(r"query\.weight", "query"),
        *conv(rf"{_UPSCALE}\.conv1", r"upscale_block/block_\1/conv1", "conv_transpose"),
        Rule(rf"{_UPSCALE}\.conv2\.weight", r"upscale_block/block_\1/conv2/kernel", "conv"),
        *norm(rf"{_UPSCALE}\.layernorm2d", r"upscale_block/block_\1/layernorm2d"),
        *linear(r"mask_head\.(fc[123])", r"mask_head/\1"),
        *linear("class_predictor", "class_predictor"),
        Rule("attn_mask_probs", "attn_mask_probs"),
    )
    # Neither the loss's nor DINOv3's training's are needed.
    return Table("EoMT", "transformers", rules, (r"criterion\.empty_weight", r"embeddings\.mask_token"))


_BACKBONE = r"network\.encoder\.backbone"
_BLOCK = rf"{_BACKBONE}\.blocks\.(\d+)"
_STEP = r"network\.upscale\.(\d+)"

_ORIGINAL = Table(
    "EoMT",
    "original",
    rules=(
        Rule(rf"{_BACKBONE}\.cls_token", "embeddings/cls_token"),
        Rule(rf"{_BACKBONE}\.reg_token", "embeddings/register_tokens"),
        Rule(rf"{_BACKBONE}\.pos_embed", "embeddings/position_embeddings", "squeeze"),
        *conv(rf"{_BACKBONE}\.patch_embed\.proj", "embeddings/patch_embeddings"),
        *norm(rf"{_BLOCK}\.(norm[12])", rf"{_OURS}/\2"),
        *_qkv(rf"{_BLOCK}\.attn\.qkv", f"{_OURS}/attention"),
        *linear(rf"{_BLOCK}\.attn\.proj", f"{_OURS}/attention/out_proj"),
        Rule(rf"{_BLOCK}\.ls([12])\.gamma", rf"{_OURS}/layer_scale\2/lambda1"),
        *linear(rf"{_BLOCK}\.mlp\.(fc[12])", rf"{_OURS}/mlp/\2"),
        *norm(rf"{_BACKBONE}\.norm", "layernorm"),
        Rule(r"network\.q\.weight", "query"),
        *conv(rf"{_STEP}\.conv1", r"upscale_block/block_\1/conv1", "conv_transpose"),
        Rule(rf"{_STEP}\.conv2\.weight", r"upscale_block/block_\1/conv2/kernel", "conv"),
        *norm(rf"{_STEP}\.norm", r"upscale_block/block_\1/layernorm2d"),
        *linear(r"network\.mask_head\.0", "mask_head/fc1"),
        *linear(r"network\.mask_head\.2", "mask_head/fc2"),
        *linear(r"network\.mask_head\.4", "mask_head/fc3"),
        *linear(r"network\.class_head", "class_predictor"),
        Rule(r"network\.attn_mask_probs", "attn_mask_probs"),
    ),
    ignored=(
        r"network\.encoder\.pixel_(mean|std)",  # the constants of the preprocessing
        r"criterion\.empty_weight",  # the loss's
    ),
)

# What our model has built in; a config.json may say otherwise.
_FIXED: dict[str, Any] = {"hidden_act": "gelu", "layer_norm_eps": 1e-6, "num_channels": 3}
_FIXED_DINOV3: dict[str, Any] = {
    "query_bias": True,
    "key_bias": False,
    "value_bias": True,
    "proj_bias": True,
    "mlp_bias": True,
    "use_gated_mlp": False,
}


def table(config: EoMTConfig, layout: str) -> Table:
    """The table of a layout, on DINOv2 or on DINOv3."""
    return _ORIGINAL if layout == "original" else _transformers(config.rope_base is not None)


def config_from_shapes(shapes: Mapping[str, Shape], layout: str, published: Mapping[str, Any]) -> EoMTConfig:
    """The configuration that tensor shapes show.

    The number of heads is that of `published` (transformers' config.json), else one for 64 channels. A gated MLP
    is taken for one of ratio 4, whose width it has; another needs its config.json. So does an EoMT on DINOv3, which
    has no position embeddings that would show the image's size.

    Raises:
      ConversionError: where a tensor that shows a size is missing, and for a config.json that asks for what our
        model cannot do.
    """
    dinov3 = layout == "transformers" and "embeddings.patch_embeddings.weight" in shapes
    check_fixed(published, _FIXED | (_FIXED_DINOV3 if dinov3 else {}), "an EoMT")
    rules = _ORIGINAL if layout == "original" else _transformers(dinov3)
    sizes = Sizes(place(rules, shapes), f"EoMT ({layout} layout)")
    width, _, patch, _ = sizes.shape("embeddings/patch_embeddings/kernel", 4)
    if dinov3:
        image_size = _image_size(published)
    else:
        axes = 2 if layout == "transformers" else 3
        image_size = math.isqrt(sizes.shape("embeddings/position_embeddings", axes)[-2]) * patch
    swiglu = "layers.0.mlp.weights_in.weight" in shapes or "layers.0.mlp.gate_proj.weight" in shapes
    ratio = published.get("mlp_ratio", 4) if swiglu else sizes.ratio("layers_0/mlp/fc1/kernel")
    return EoMTConfig(
        image_size=image_size,
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
        rope_base=_rope_base(published) if dinov3 else None,
    )


def _image_size(published: Mapping[str, Any]) -> int:
    side = published.get("image_size")
    if isinstance(side, list) and len(set(side)) == 1:
        side = side[0]
    if not isinstance(side, int):
        raise ConversionError(
            "Tensors of an EoMT on DINOv3 do not show the side of its square image. Put the config.json of its "
            f"repository beside the file: image_size must be a whole number, 640 for most. Got {side}."
        )
    return side


def _rope_base(published: Mapping[str, Any]) -> float:
    rope = published.get("rope_parameters") or {}
    return float(rope.get("rope_theta") or published.get("rope_theta") or 100.0)
