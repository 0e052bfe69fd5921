"""SAM 2 and 2.1: the tables of the two published layouts, and the configuration read from tensor shapes.

original      `sam2_hiera_large.pt`, `sam2.1_hiera_tiny.pt` ... (`{"model": ...}`, fused qkv)
transformers  `Sam2Model.save_pretrained`; also `Sam2VideoModel`'s files, which carry the video's tensors too
"""

import itertools
from collections.abc import Mapping
from typing import Any, NamedTuple

from corrclip_jax.config import SAM2Config
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
    "original": "image_encoder.trunk.patch_embed.proj.weight",
    "transformers": "vision_encoder.backbone.patch_embed.projection.weight",
}

_DECODER = "sam_mask_decoder"
_PROMPTS = "sam_prompt_encoder"
_TRUNK = "image_encoder/trunk"

_ORIGINAL = Table(
    "SAM 2",
    "original",
    rules=(
        Rule(r"no_mem_embed", "no_mem_embed", "squeeze"),
        Rule(r"image_encoder\.trunk\.(pos_embed|pos_embed_window)", rf"{_TRUNK}/\1"),
        *conv(r"image_encoder\.trunk\.patch_embed\.proj", f"{_TRUNK}/patch_embed"),
        *norm(r"image_encoder\.trunk\.blocks\.(\d+)\.norm([12])", rf"{_TRUNK}/blocks_\1/norm\2"),
        *fused_qkv(r"image_encoder\.trunk\.blocks\.(\d+)\.attn\.qkv", rf"{_TRUNK}/blocks_\1/attn"),
        *linear(r"image_encoder\.trunk\.blocks\.(\d+)\.attn\.proj", rf"{_TRUNK}/blocks_\1/attn/proj"),
        *linear(
            r"image_encoder\.trunk\.blocks\.(\d+)\.mlp\.layers\.(\d)", rf"{_TRUNK}/blocks_\1/mlp/layers_\2"
        ),
        *linear(r"image_encoder\.trunk\.blocks\.(\d+)\.proj", rf"{_TRUNK}/blocks_\1/proj"),
        *conv(r"image_encoder\.neck\.convs\.(\d)\.conv", r"image_encoder/neck/convs_\1"),
        *original_rules("sam_", (r"layers\.0", r"layers\.1")),
        Rule(r"sam_mask_decoder\.obj_score_token\.weight", f"{_DECODER}/obj_score_token"),
        *conv(r"sam_mask_decoder\.(conv_s[01])", rf"{_DECODER}/\1"),
    ),
    ignored=(
        r"sam_mask_decoder\.pred_obj_score_head\..*",  # whether a tracked object is in the frame: video
        # The memory of earlier frames: its encoder, the attention to it, its positions and their absence.
        r"(memory_attention|memory_encoder)\..*",
        r"maskmem_tpos_enc|no_mem_pos_enc",
        r"mask_downsample\.(weight|bias)",  # mask prompts on their way into the memory
        # Pointers to objects in earlier frames; the last two are SAM 2.1's.
        r"no_obj_ptr|obj_ptr_proj\..*",
        r"obj_ptr_tpos_proj\.(weight|bias)|no_obj_embed_spatial",
    ),
)

_TRANSFORMERS = Table(
    "SAM 2",
    "transformers",
    rules=(
        Rule(r"no_memory_embedding", "no_mem_embed", "squeeze"),
        Rule(r"vision_encoder\.backbone\.(pos_embed|pos_embed_window)", rf"{_TRUNK}/\1"),
        *conv(r"vision_encoder\.backbone\.patch_embed\.projection", f"{_TRUNK}/patch_embed"),
        *norm(r"vision_encoder\.backbone\.blocks\.(\d+)\.layer_norm([12])", rf"{_TRUNK}/blocks_\1/norm\2"),
        *fused_qkv(r"vision_encoder\.backbone\.blocks\.(\d+)\.attn\.qkv", rf"{_TRUNK}/blocks_\1/attn"),
        *linear(r"vision_encoder\.backbone\.blocks\.(\d+)\.attn\.proj", rf"{_TRUNK}/blocks_\1/attn/proj"),
        *linear(
            r"vision_encoder\.backbone\.blocks\.(\d+)\.mlp\.proj_in", rf"{_TRUNK}/blocks_\1/mlp/layers_0"
        ),
        *linear(
            r"vision_encoder\.backbone\.blocks\.(\d+)\.mlp\.proj_out", rf"{_TRUNK}/blocks_\1/mlp/layers_1"
        ),
        *linear(r"vision_encoder\.backbone\.blocks\.(\d+)\.proj", rf"{_TRUNK}/blocks_\1/proj"),
        *conv(r"vision_encoder\.neck\.convs\.(\d)", r"image_encoder/neck/convs_\1"),
        *transformers_rules("sam_", ("proj_in", "proj_out"), "o_proj"),
        Rule(
            r"prompt_encoder\.point_embed\.weight",
            tuple(f"{_PROMPTS}/point_embeddings_{i}" for i in range(4)),
            "rows",
        ),
        Rule(r"mask_decoder\.obj_score_token\.weight", f"{_DECODER}/obj_score_token"),
        *conv(r"mask_decoder\.(conv_s[01])", rf"{_DECODER}/\1"),
    ),
    ignored=(
        SAME_MATRIX,
        r"mask_decoder\.pred_obj_score_head\..*",  # whether a tracked object is in the frame: video
        # The memory of earlier frames, mask prompts on their way into it, pointers to objects in them.
        r"(memory_attention|memory_encoder|mask_downsample)\..*",
        r"memory_temporal_positional_encoding|no_memory_positional_encoding",
        r"object_pointer_proj\..*|no_object_pointer|occlusion_spatial_embedding_parameter",
        r"temporal_positional_encoding_projection_layer\.(weight|bias)",
    ),
)


class _Published(NamedTuple):
    """What tensor shapes do not show."""

    name: str
    heads: int
    global_blocks: tuple[int, ...]
    window_sizes: tuple[int, ...]


# By width and blocks of each stage.
_SIZES: dict[tuple[int, tuple[int, ...]], _Published] = {
    (96, (1, 2, 7, 2)): _Published("T", 1, (5, 7, 9), (8, 4, 14, 7)),
    (96, (1, 2, 11, 2)): _Published("S", 1, (7, 10, 13), (8, 4, 14, 7)),
    (112, (2, 3, 16, 3)): _Published("B+", 2, (12, 16, 20), (8, 4, 14, 7)),
    (144, (2, 6, 36, 4)): _Published("L", 2, (23, 33, 43), (8, 4, 16, 8)),
}

# What our model has built in; a config.json may say otherwise.
_FIXED = {
    "patch_stride": [4, 4],
    "patch_padding": [3, 3],
    "query_stride": [2, 2],
    "num_query_pool_stages": 3,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-6,
}


def table(config: SAM2Config, layout: str) -> Table:
    """The table of a layout; it is the same for all sizes."""
    return {"original": _ORIGINAL, "transformers": _TRANSFORMERS}[layout]


def config_from_shapes(shapes: Mapping[str, Shape], layout: str, published: Mapping[str, Any]) -> SAM2Config:
    """The configuration that tensor shapes show.

    Heads, windows and global blocks, which they do not show, are those of `published` (transformers'
    config.json) or, without it, of the published size that has this width and depth.

    Raises:
      ConversionError: where a tensor that shows a size is missing, for a size that is none of the published
        ones and has no config.json, and for a config.json that asks for what our model cannot do.
    """
    placed = place(table(SAM2Config(), layout), shapes)
    sizes = Sizes(placed, f"SAM 2 ({layout} layout)")
    _, width, rows, columns = sizes.shape(f"{_TRUNK}/pos_embed", 4)
    depth = sizes.count(_TRUNK + "/blocks_{}/norm1/scale")
    widths = [sizes.shape(f"{_TRUNK}/blocks_{i}/attn/proj/kernel", 2)[0] for i in range(depth)]
    stages = tuple(len(list(group)) for _, group in itertools.groupby(widths))
    hidden = f"{_DECODER}/transformer/layers_0/mlp/layers_0/kernel"
    known = _from_config_json(published) or _from_size(width, stages)
    side = published.get("prompt_encoder_config", {}).get("image_size", 1024)
    return SAM2Config(
        image_size=side[0] if isinstance(side, list) else side,
        width=width,
        heads=known.heads,
        stages=stages,
        global_blocks=known.global_blocks,
        window_sizes=known.window_sizes,
        background_size=(rows, columns),
        embed_dim=sizes.shape("image_encoder/neck/convs_0/kernel", 4)[0],
        decoder_heads=published.get("mask_decoder_config", {}).get("num_attention_heads", 8),
        decoder_layers=sizes.count(_DECODER + "/transformer/layers_{}/norm1/scale"),
        decoder_mlp_width=sizes.shape(hidden, 2)[0],
        mask_channels=sizes.shape(f"{_PROMPTS}/mask_downscaling_3/kernel", 4)[0],
    )


def _from_size(width: int, stages: tuple[int, ...]) -> _Published:
    if (width, stages) in _SIZES:
        return _SIZES[width, stages]
    listed = "; ".join(f"{size.name}: width {w}, blocks {s}" for (w, s), size in _SIZES.items())
    raise ConversionError(
        f"No published SAM 2 has width {width} and blocks {stages} a stage, and tensors do not show heads, windows "
        f"and global blocks. Published are {listed}. "
        "Put the config.json of its repository beside the file, or give the SAM2Config yourself."
    )


def _from_config_json(published: Mapping[str, Any]) -> _Published | None:
    trunk = published.get("vision_config", {}).get("backbone_config", {})
    heads = trunk.get("num_attention_heads_per_stage")
    if heads is None or "window_size_per_stage" not in trunk or "global_attention_blocks" not in trunk:
        return None
    doubled = [heads[0] << stage for stage in range(len(heads))]
    check_fixed(trunk, _FIXED | {"num_attention_heads_per_stage": doubled}, "a SAM 2")
    return _Published(
        "", heads[0], tuple(trunk["global_attention_blocks"]), tuple(trunk["window_size_per_stage"])
    )
