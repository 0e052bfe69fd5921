"""Mask2Former with a Swin encoder: the table of transformers' layout, and the configuration that tensors show.

`Mask2FormerForUniversalSegmentation.save_pretrained`, as in `facebook/mask2former-swin-tiny-coco-panoptic`. Newer
versions of transformers name parts of Swin otherwise in memory than in files; the table knows both names.
"""

import math
from collections.abc import Mapping
from typing import Any

from corrclip_jax.config import Mask2FormerConfig
from corrclip_jax.conversion.rules import (
    ConversionError,
    Rule,
    Shape,
    Sizes,
    Table,
    check_fixed,
    conv,
    linear,
    norm,
    place,
)

SIGNATURES = {"transformers": "model.transformer_module.queries_features.weight"}

_SWIN = r"model\.pixel_level_module\.encoder(?:\.swin)?"
_BLOCK, _OUR_BLOCK = rf"{_SWIN}\.encoder\.layers\.(\d+)\.blocks\.(\d+)", r"encoder/layers_\1_blocks_\2"
_PIXELS = r"model\.pixel_level_module\.decoder"
_ENCODER_LAYER, _OUR_ENCODER_LAYER = rf"{_PIXELS}\.encoder\.layers\.(\d+)", r"pixel_decoder/encoder_layers_\1"
_TRANSFORMER = r"model\.transformer_module"
_LAYER, _OUR_LAYER = rf"{_TRANSFORMER}\.decoder\.layers\.(\d+)", r"transformer_module/layers_\1"

_ENCODER_RULES = (
    *conv(rf"{_SWIN}\.embeddings\.patch_embeddings\.projection", "encoder/patch_embeddings"),
    *norm(rf"{_SWIN}\.embeddings\.norm", "encoder/embeddings_norm"),
    *norm(rf"{_BLOCK}\.(layernorm_before|layernorm_after)", rf"{_OUR_BLOCK}/\3"),
    *linear(rf"{_BLOCK}\.attention\.(?:self\.query|q_proj)", f"{_OUR_BLOCK}/attention/q_proj"),
    *linear(rf"{_BLOCK}\.attention\.(?:self\.key|k_proj)", f"{_OUR_BLOCK}/attention/k_proj"),
    *linear(rf"{_BLOCK}\.attention\.(?:self\.value|v_proj)", f"{_OUR_BLOCK}/attention/v_proj"),
    *linear(rf"{_BLOCK}\.attention\.(?:output\.dense|o_proj)", f"{_OUR_BLOCK}/attention/o_proj"),
    Rule(
        rf"{_BLOCK}\.attention\.(?:self|relative_position_bias)\.(relative_position_bias_table)",
        rf"{_OUR_BLOCK}/attention/\3",
    ),
    *linear(rf"{_BLOCK}\.(?:intermediate\.dense|mlp\.fc1)", f"{_OUR_BLOCK}/mlp/fc1"),
    *linear(rf"{_BLOCK}\.(?:output\.dense|mlp\.fc2)", f"{_OUR_BLOCK}/mlp/fc2"),
    *norm(rf"{_SWIN}\.encoder\.layers\.(\d+)\.downsample\.norm", r"encoder/layers_\1_downsample/norm"),
    Rule(
        rf"{_SWIN}\.encoder\.layers\.(\d+)\.downsample\.reduction\.weight",
        r"encoder/layers_\1_downsample/reduction/kernel",
        "linear",
    ),
    *norm(rf"{_SWIN}\.hidden_states_norms\.(stage\d)", r"encoder/hidden_states_norms_\1"),
)

_PIXEL_RULES = (
    *conv(rf"{_PIXELS}\.input_projections\.(\d)\.0", r"pixel_decoder/input_projections_\1/conv"),
    *norm(rf"{_PIXELS}\.input_projections\.(\d)\.1", r"pixel_decoder/input_projections_\1/norm"),
    Rule(rf"{_PIXELS}\.level_embed", "pixel_decoder/level_embed"),
    *linear(
        rf"{_ENCODER_LAYER}\.self_attn\.(sampling_offsets|attention_weights|value_proj|output_proj)",
        rf"{_OUR_ENCODER_LAYER}/self_attn/\2",
    ),
    *norm(rf"{_ENCODER_LAYER}\.(self_attn_layer_norm|final_layer_norm)", rf"{_OUR_ENCODER_LAYER}/\2"),
    *linear(rf"{_ENCODER_LAYER}\.(fc[12])", rf"{_OUR_ENCODER_LAYER}/mlp/\2"),
    Rule(rf"{_PIXELS}\.(adapter_1|layer_1)\.0\.weight", r"pixel_decoder/\1/conv/kernel", "conv"),
    *norm(rf"{_PIXELS}\.(adapter_1|layer_1)\.1", r"pixel_decoder/\1/norm"),
    *conv(rf"{_PIXELS}\.mask_projection", "pixel_decoder/mask_projection"),
)

_TRANSFORMER_RULES = (
    Rule(
        rf"{_TRANSFORMER}\.(queries_embedder|queries_features|level_embed)\.weight", r"transformer_module/\1"
    ),
    Rule(
        rf"{_LAYER}\.cross_attn\.in_proj_weight",
        tuple(f"{_OUR_LAYER}/cross_attn/{part}_proj/kernel" for part in "qkv"),
        "split_linear",
    ),
    Rule(
        rf"{_LAYER}\.cross_attn\.in_proj_bias",
        tuple(f"{_OUR_LAYER}/cross_attn/{part}_proj/bias" for part in "qkv"),
        "split_bias",
    ),
    *linear(rf"{_LAYER}\.cross_attn\.out_proj", f"{_OUR_LAYER}/cross_attn/out_proj"),
    *linear(rf"{_LAYER}\.self_attn\.((?:q|k|v|out)_proj)", rf"{_OUR_LAYER}/self_attn/\2"),
    *norm(rf"{_LAYER}\.(cross_attn_layer_norm|self_attn_layer_norm|final_layer_norm)", rf"{_OUR_LAYER}/\2"),
    *linear(rf"{_LAYER}\.(fc[12])", rf"{_OUR_LAYER}/mlp/\2"),
    *norm(rf"{_TRANSFORMER}\.decoder\.layernorm", "transformer_module/layernorm"),
    *linear(
        rf"{_TRANSFORMER}\.decoder\.mask_predictor\.mask_embedder\.(\d)\.0",
        r"transformer_module/mask_embedder/layers_\1",
    ),
    *linear("class_predictor", "class_predictor"),
)

_TABLE = Table(
    "Mask2Former",
    "transformers",
    rules=(*_ENCODER_RULES, *_PIXEL_RULES, *_TRANSFORMER_RULES),
    ignored=(
        r"criterion\.empty_weight",  # the weights of the classes in the loss
        rf"{_SWIN}\.layernorm\.(weight|bias)",  # Swin's last norm, which a backbone does not apply
        rf"{_BLOCK}\.attention\..*\.relative_position_index",  # follows from the window
    ),
)

# What our model has built in; a config.json may say otherwise.
_FIXED: dict[str, Any] = {
    "activation_function": "relu", "pre_norm": False, "enforce_input_projection": False, "common_stride": 4,
    "feature_strides": [4, 8, 16, 32], "backbone_config.model_type": "swin", "backbone_config.hidden_act": "gelu",
    "backbone_config.layer_norm_eps": 1e-5, "backbone_config.qkv_bias": True,
    "backbone_config.use_absolute_embeddings": False, "backbone_config.num_channels": 3,
}  # fmt: skip
# Deformable attention looks at so many maps, and at so many points of each; published models have no other.
_MAPS, _POINTS = 3, 4


def table(config: Mask2FormerConfig, layout: str) -> Table:
    """The table of a layout; it is the same for all sizes."""
    return {"transformers": _TABLE}[layout]


def config_from_shapes(
    shapes: Mapping[str, Shape], layout: str, published: Mapping[str, Any]
) -> Mask2FormerConfig:
    """The configuration that tensor shapes show, which is all of it.

    The tables of biases show windows and heads of the encoder, the sampling offsets the heads of all the rest.

    Raises:
      ConversionError: where a tensor that shows a size is missing, and for a config.json (`published`) that asks
        for what our model cannot do.
    """
    check_fixed(published, _FIXED | {"hidden_dim": published.get("feature_size")}, "a Mask2Former")
    sizes = Sizes(place(_TABLE, shapes), f"Mask2Former ({layout} layout)")
    embed_dim, _, _, patch = sizes.shape("encoder/patch_embeddings/kernel", 4)
    stages = sizes.count("encoder/layers_{}_blocks_0/layernorm_before/scale")
    depths = tuple(
        sizes.count(f"encoder/layers_{stage}_blocks_{{}}/layernorm_before/scale") for stage in range(stages)
    )
    tables = [
        sizes.shape(f"encoder/layers_{stage}_blocks_0/attention/relative_position_bias_table", 2)
        for stage in range(stages)
    ]
    if stages != 4 or len({distances for distances, _ in tables}) > 1:
        raise ConversionError(
            "A Mask2Former's Swin has four stages with windows of one size. The file has tables of relative "
            f"positions with {[distances for distances, _ in tables]} rows."
        )
    offsets, feature_size = sizes.shape("pixel_decoder/encoder_layers_0/self_attn/sampling_offsets/kernel", 2)
    return Mask2FormerConfig(
        patch_size=patch,
        embed_dim=embed_dim,
        depths=depths,
        heads=tuple(heads for _, heads in tables),
        window=(math.isqrt(tables[0][0]) + 1) // 2,
        mlp_ratio=sizes.ratio("encoder/layers_0_blocks_0/mlp/fc1/kernel"),
        feature_size=feature_size,
        mask_feature_size=sizes.shape("pixel_decoder/mask_projection/kernel", 4)[0],
        encoder_layers=sizes.count("pixel_decoder/encoder_layers_{}/final_layer_norm/scale"),
        encoder_mlp_width=sizes.shape("pixel_decoder/encoder_layers_0/mlp/fc1/kernel", 2)[0],
        decoder_layers=sizes.count("transformer_module/layers_{}/final_layer_norm/scale"),
        decoder_heads=offsets // (2 * _MAPS * _POINTS),
        decoder_mlp_width=sizes.shape("transformer_module/layers_0/mlp/fc1/kernel", 2)[0],
        queries=sizes.shape("transformer_module/queries_features", 2)[0],
        labels=sizes.shape("class_predictor/kernel", 2)[0] - 1,
    )
