"""RADIO: the tables of its published layouts, and its configuration read from tensor shapes.

original      `c-radio_v3-l_half.pth.tar`, with the heads of its teachers, or its backbone alone
hub           the repositories' `model.safetensors`, which `RadioModel.save_pretrained` writes as well
transformers  `RadioModel` in memory
"""

from collections.abc import Mapping
from typing import Any

from corrclip_jax.config import RadioConfig
from corrclip_jax.conversion.rules import Rule, Shape, Sizes, Table, check_fixed, norm, place
from corrclip_jax.conversion.spectral import realised, realised_names
from corrclip_jax.conversion.tables.vit_shared import (
    native_side,
    original_blocks,
    sizes_of_blocks,
    transformers_blocks,
)

__all__ = ["SIGNATURES", "config_from_shapes", "realised", "table"]

SIGNATURES = {
    "hub": "radio_model.model.patch_generator.pos_embed",
    "original": "base_model.patch_generator.pos_embed",
    "original, backbone alone": "patch_generator.pos_embed",
    "transformers": "embeddings.cls_register_token",
}

_PREFIXES = {
    "hub": r"radio_model\.model\.",
    "original": r"base_model\.",
    "original, backbone alone": "",
}
_IGNORED = (
    # The teachers' heads, and what normalises features of inner blocks.
    r"(_heads|_feature_projections|_intermediate_feature_normalizer|head)\..*",
    r"radio_model\.(adaptors|inter_feature_normalizer)\..*",
    # CLIP's mean and standard deviation, the number of each teacher's class token, patches of videos.
    r"(radio_model\.)?(input_conditioner\..*|summary_idxs)",
    r".*patch_generator\.video_embedder\.weight|embeddings\.video_patch_projection\.weight",
)
# Sizes whose heads are not 64 wide; shapes do not show it.
_HEADS = {1280: 16}

_FIXED: dict[str, Any] = {
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
    "num_channels": 3,
    "qkv_bias": True,
    "use_swiglu_ffn": False,
}


def _original(layout: str) -> Table:
    prefix = _PREFIXES[layout]
    generator = rf"{prefix}patch_generator\."
    normalizer = r"(?:_|radio_model\.)feature_normalizer\."
    rules = (
        Rule(rf"{generator}embedder\.weight", "patch_embed/kernel", "patches"),
        Rule(rf"{generator}pos_embed", "pos_embed", "squeeze"),
        Rule(rf"{generator}cls_token\.token", "cls_token"),
        *original_blocks(prefix),
        *norm(rf"{prefix}norm", "norm"),
        Rule(rf"{normalizer}mean", "feature_normalizer/mean"),
        Rule(rf"{normalizer}tx", "feature_normalizer/tx", "linear"),
    )
    return Table("RADIO", layout, rules, _IGNORED)


_TRANSFORMERS = Table(
    "RADIO",
    "transformers",
    rules=(
        Rule(r"embeddings\.patch_projection\.weight", "patch_embed/kernel", "patches"),
        Rule(r"embeddings\.position_embedding", "pos_embed", "squeeze"),
        Rule(r"embeddings\.cls_register_token", "cls_token"),
        *transformers_blocks(r"encoder\.layer\.(\d+)"),
    ),
    ignored=_IGNORED,
)


def table(config: RadioConfig, layout: str) -> Table:
    """The table of a layout; it is the same for all sizes."""
    return _TRANSFORMERS if layout == "transformers" else _original(layout)


def config_from_shapes(shapes: Mapping[str, Shape], layout: str, published: Mapping[str, Any]) -> RadioConfig:
    """The configuration that tensor shapes show; heads as `config.json` has them, else 64 wide (80 in ViT-H).

    Raises:
      ConversionError: where a tensor that shows a size is missing, and for a config.json that asks for what our
        model cannot do.
    """
    check_fixed(published, _FIXED, "a RADIO")
    rules = _TRANSFORMERS if layout == "transformers" else _original(layout)
    placed = place(rules, {name: shapes[source] for name, source in realised_names(shapes).items()})
    sizes = Sizes(placed, f"RADIO ({layout} layout)")
    width, values = sizes.shape("patch_embed/kernel", 2)
    patch_size = native_side(values // 3, 1)
    return RadioConfig(
        image_size=native_side(sizes.shape("pos_embed", 3)[1], patch_size),
        patch_size=patch_size,
        layer_scale=sizes.shape_or_none("blocks_0/layer_scale1/lambda1") is not None,
        prefix_tokens=sizes.shape("cls_token", 2)[0],
        final_norm=sizes.shape_or_none("norm/scale") is not None,
        feature_normalizer=sizes.shape_or_none("feature_normalizer/mean") is not None,
        **sizes_of_blocks(sizes, width, published, "RADIO", _HEADS.get(width)),
    )
