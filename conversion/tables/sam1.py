"""The first Segment Anything: tables of the two published layouts, and the configuration read from tensor shapes.

original      `sam_vit_b_01ec64.pth`, `sam_vit_l_0b3195.pth`, `sam_vit_h_4b8939.pth` (fused qkv)
transformers  `SamModel.save_pretrained`
"""

from collections.abc import Mapping
from typing import Any

from corrclip_jax.config import SAM1Config
from corrclip_jax.conversion.rules import (
    ConversionError,
    Rule,
    Shape,
    Sizes,
    Table,
    check_fixed,
    conv,
    fused_qkv,
    linear,
    norm,
    place,
)
from corrclip_jax.conversion.tables.sam_shared import SAME_MATRIX, original_rules, transformers_rules

SIGNATURES = {
    "original": "image_encoder.patch_embed.proj.weight",
    "transformers": "vision_encoder.patch_embed.projection.weight",
}

_DECODER = "mask_decoder"
_PROMPTS = "prompt_encoder"
_ENCODER = "image_encoder"
_LINEARS = ("lin1", "lin2")


def _encoder(source: str, blocks: str, norms: str, patches: str, neck: tuple[str, ...]) -> tuple[Rule, ...]:
    """The image encoder; `neck` are its two convolutions' and two norms' names, alternating."""
    layer, ours = rf"{source}\.{blocks}\.(\d+)", rf"{_ENCODER}/blocks_\1"
    return (
        Rule(rf"{source}\.pos_embed", f"{_ENCODER}/pos_embed"),
        *conv(rf"{source}\.patch_embed\.{patches}", f"{_ENCODER}/patch_embed"),
        *norm(rf"{layer}\.{norms}([12])", rf"{ours}/norm\2"),
        *fused_qkv(rf"{layer}\.attn\.qkv", f"{ours}/attn"),
        *linear(rf"{layer}\.attn\.proj", f"{ours}/attn/proj"),
        Rule(rf"{layer}\.attn\.(rel_pos_[hw])", rf"{ours}/attn/\2"),
        *linear(rf"{layer}\.mlp\.(lin[12])", rf"{ours}/mlp/\2"),
        Rule(rf"{source}\.neck\.{neck[0]}\.weight", f"{_ENCODER}/neck_0/kernel", "conv"),
        *norm(rf"{source}\.neck\.{neck[1]}", f"{_ENCODER}/neck_1"),
        Rule(rf"{source}\.neck\.{neck[2]}\.weight", f"{_ENCODER}/neck_2/kernel", "conv"),
        *norm(rf"{source}\.neck\.{neck[3]}", f"{_ENCODER}/neck_3"),
    )


_TABLES = {
    "original": Table(
        "SAM",
        "original",
        rules=(
            *_encoder("image_encoder", "blocks", "norm", "proj", ("0", "1", "2", "3")),
            *original_rules("", _LINEARS),
        ),
        ignored=("pixel_mean", "pixel_std"),  # the constants of the preprocessing
    ),
    "transformers": Table(
        "SAM",
        "transformers",
        rules=(
            *_encoder(
                "vision_encoder", "layers", "layer_norm", "projection",
                ("conv1", "layer_norm1", "conv2", "layer_norm2"),
            ),
            *transformers_rules("", _LINEARS, "out_proj"),
            Rule(r"prompt_encoder\.point_embed\.([0-3])\.weight", rf"{_PROMPTS}/point_embeddings_\1"),
        ),
        ignored=(SAME_MATRIX,),
    ),
}  # fmt: skip


# What our model has built in; a config.json may say otherwise.
_FIXED: dict[str, Any] = {
    "vision_config.qkv_bias": True, "vision_config.use_abs_pos": True, "vision_config.use_rel_pos": True,
    "vision_config.hidden_act": "gelu", "vision_config.layer_norm_eps": 1e-6,
    "prompt_encoder_config.hidden_act": "gelu", "prompt_encoder_config.num_point_embeddings": 4,
    "mask_decoder_config.hidden_act": "relu", "mask_decoder_config.num_multimask_outputs": 3,
    "mask_decoder_config.attention_downsample_rate": 2, "mask_decoder_config.iou_head_depth": 3,
}  # fmt: skip


def table(config: SAM1Config, layout: str) -> Table:
    """The table of a layout; it is the same for all sizes."""
    return _TABLES[layout]


def config_from_shapes(shapes: Mapping[str, Shape], layout: str, published: Mapping[str, Any]) -> SAM1Config:
    """The configuration that tensor shapes show.

    Relative positions show the heads' width and which blocks attend globally (where windows are as large as the
    grid, all do). The decoder's number of heads is that of `published` (transformers' config.json), else 8.

    Raises:
      ConversionError: where a tensor that shows a size is missing, and for a config.json that asks for what our
        model cannot do.
    """
    sizes = Sizes(place(table(SAM1Config(), layout), shapes), f"SAM ({layout} layout)")
    check_fixed(published, _FIXED, "a SAM")
    _, grid, _, width = sizes.shape(f"{_ENCODER}/pos_embed", 4)
    patch = sizes.shape(f"{_ENCODER}/patch_embed/kernel", 4)[-1]
    layers = sizes.count(_ENCODER + "/blocks_{}/norm1/scale")
    positions = [sizes.shape(f"{_ENCODER}/blocks_{i}/attn/rel_pos_h", 2) for i in range(layers)]
    if not positions:
        raise ConversionError(f"The file looks like SAM ({layout} layout), but has no transformer block.")
    sides = [(distances + 1) // 2 for distances, _ in positions]
    windows = sorted({side for side in sides if side != grid})
    if len(windows) > 1:
        raise ConversionError(f"A SAM has windows of one size. The file has sides of {windows}.")
    hidden = f"{_DECODER}/transformer/layers_0/mlp/layers_0/kernel"
    return SAM1Config(
        image_size=grid * patch,
        patch_size=patch,
        width=width,
        layers=layers,
        heads=width // positions[0][1],
        global_blocks=tuple(i for i, side in enumerate(sides) if side == grid),
        window=windows[0] if windows else grid,
        mlp_ratio=sizes.ratio(f"{_ENCODER}/blocks_0/mlp/lin1/kernel"),
        embed_dim=sizes.shape(f"{_ENCODER}/neck_0/kernel", 4)[0],
        decoder_heads=published.get("mask_decoder_config", {}).get("num_attention_heads", 8),
        decoder_layers=sizes.count(_DECODER + "/transformer/layers_{}/norm1/scale"),
        decoder_mlp_width=sizes.shape(hidden, 2)[0],
        mask_channels=sizes.shape(f"{_PROMPTS}/mask_downscaling_3/kernel", 4)[0],
    )
