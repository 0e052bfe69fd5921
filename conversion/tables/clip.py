"""CLIP: the tables of its two published layouts, and its configuration read from tensor shapes.

open_clip     `open_clip_model.safetensors` (OpenAI's own names; fused qkv)
transformers  `CLIPModel.save_pretrained`
"""

import math
from collections.abc import Mapping
from typing import Any

from corrclip_jax.config import CLIPConfig, CLIPTextConfig, CLIPVisionConfig
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
    "open_clip": "visual.class_embedding",
    "transformers": "vision_model.embeddings.class_embedding",
}

# Sizes whose heads are not 64 wide; shapes do not show it. (Width, layers) of the image tower -> head width.
_HEAD_WIDTHS = {(1280, 32): 80, (1408, 40): 88, (1664, 48): 104}


def _open_clip() -> Table:
    rules: list[Rule] = []
    for tower, prefix in {"visual": r"visual\.", "text": ""}.items():
        source, target = rf"{prefix}transformer\.resblocks\.(\d+)", rf"{tower}/transformer/resblocks_\1"
        parts = [f"{target}/attn/{part}" for part in ("query", "key", "value")]
        rules += [
            *norm(rf"{source}\.ln_1", f"{target}/ln_1"),
            *norm(rf"{source}\.ln_2", f"{target}/ln_2"),
            Rule(
                rf"{source}\.attn\.in_proj_weight", tuple(f"{part}/kernel" for part in parts), "split_linear"
            ),
            Rule(rf"{source}\.attn\.in_proj_bias", tuple(f"{part}/bias" for part in parts), "split_bias"),
            *linear(rf"{source}\.attn\.out_proj", f"{target}/attn/out"),
            *linear(rf"{source}\.mlp\.c_fc", f"{target}/mlp/c_fc"),
            *linear(rf"{source}\.mlp\.c_proj", f"{target}/mlp/c_proj"),
        ]
    rules += [
        Rule(r"visual\.conv1\.weight", "visual/conv1/kernel", "conv"),
        Rule(r"visual\.class_embedding", "visual/class_embedding"),
        Rule(r"visual\.positional_embedding", "visual/positional_embedding"),
        *norm(r"visual\.ln_pre", "visual/ln_pre"),
        *norm(r"visual\.ln_post", "visual/ln_post"),
        Rule(r"visual\.proj", "visual/proj/kernel"),  # stored as (width, joint width) already
        Rule(r"positional_embedding", "text/positional_embedding"),
        Rule(r"token_embedding\.weight", "text/token_embedding/embedding"),
        *norm(r"ln_final", "text/ln_final"),
        Rule(r"text_projection", "text/text_projection/kernel"),  # likewise
        Rule(r"logit_scale", "logit_scale", "squeeze"),
    ]
    ignored = (
        r"attn_mask",  # the causal mask, a constant
        r"input_resolution|context_length|vocab_size",  # numbers that OpenAI's files carry as tensors
    )
    return Table("CLIP", "open_clip", tuple(rules), ignored)


def _transformers() -> Table:
    rules: list[Rule] = []
    for tower, prefix in {"visual": "vision_model", "text": "text_model"}.items():
        source, target = rf"{prefix}\.encoder\.layers\.(\d+)", rf"{tower}/transformer/resblocks_\1"
        rules += [
            *norm(rf"{source}\.layer_norm1", f"{target}/ln_1"),
            *norm(rf"{source}\.layer_norm2", f"{target}/ln_2"),
            *linear(rf"{source}\.self_attn\.q_proj", f"{target}/attn/query"),
            *linear(rf"{source}\.self_attn\.k_proj", f"{target}/attn/key"),
            *linear(rf"{source}\.self_attn\.v_proj", f"{target}/attn/value"),
            *linear(rf"{source}\.self_attn\.out_proj", f"{target}/attn/out"),
            *linear(rf"{source}\.mlp\.fc1", f"{target}/mlp/c_fc"),
            *linear(rf"{source}\.mlp\.fc2", f"{target}/mlp/c_proj"),
        ]
    vision, text = r"vision_model\.embeddings", r"text_model\.embeddings"
    rules += [
        Rule(rf"{vision}\.patch_embedding\.weight", "visual/conv1/kernel", "conv"),
        Rule(rf"{vision}\.class_embedding", "visual/class_embedding"),
        Rule(rf"{vision}\.position_embedding\.weight", "visual/positional_embedding"),
        *norm(r"vision_model\.pre_layrnorm", "visual/ln_pre"),  # the published spelling
        *norm(r"vision_model\.post_layernorm", "visual/ln_post"),
        Rule(r"visual_projection\.weight", "visual/proj/kernel", "linear"),
        Rule(rf"{text}\.position_embedding\.weight", "text/positional_embedding"),
        Rule(rf"{text}\.token_embedding\.weight", "text/token_embedding/embedding"),
        *norm(r"text_model\.final_layer_norm", "text/ln_final"),
        Rule(r"text_projection\.weight", "text/text_projection/kernel", "linear"),
        Rule(r"logit_scale", "logit_scale", "squeeze"),
    ]
    ignored = (r"(vision|text)_model\.embeddings\.position_ids",)  # 0, 1, 2 ... in older files
    return Table("CLIP", "transformers", tuple(rules), ignored)


_TABLES = {"open_clip": _open_clip(), "transformers": _transformers()}


def table(config: CLIPConfig, layout: str) -> Table:
    """The table of a layout; CLIP's does not depend on the configuration."""
    return _TABLES[layout]


def config_from_shapes(
    shapes: Mapping[str, Shape], layout: str, published: Mapping[str, Any], quick_gelu: bool | None = None
) -> CLIPConfig:
    """The configuration that tensor shapes show, completed by what was published beside the file.

    `published` is the content of `config.json` (transformers layout) or `open_clip_config.json` (open_clip), empty
    where there is none. It says how wide a head is; without it 64, but for the sizes known to differ. The
    activation is `quick_gelu` where that is given, else what `published` says.

    Raises:
      ConversionError: where a tensor that shows a size is missing, or nothing says what the activation is.
    """
    sizes = Sizes(place(_TABLES[layout], shapes), "CLIP")
    width, _, patch_size, _ = sizes.shape("visual/conv1/kernel", 4)
    patches = sizes.shape("visual/positional_embedding", 2)[0] - 1
    context_length, text_width = sizes.shape("text/positional_embedding", 2)
    layers = sizes.count("visual/transformer/resblocks_{}/ln_1/scale")
    head_width, text_heads, activation = _published_choices(published, layout, width, text_width)
    if quick_gelu is None:
        quick_gelu = activation
    if quick_gelu is None:
        raise ConversionError(
            "Nothing says which activation this CLIP was trained with, and its tensors do not show it. Give "
            "quick_gelu=True (on the command line --quick-gelu) for weights by OpenAI, MetaCLIP or DFN, "
            "quick_gelu=False (--exact-gelu) for LAION's, or put its "
            f"{'open_clip_config.json' if layout == 'open_clip' else 'config.json'} beside it."
        )
    return CLIPConfig(
        embed_dim=math.prod(sizes.shape("visual/proj/kernel", 2)) // width,
        quick_gelu=quick_gelu,
        vision=CLIPVisionConfig(
            image_size=math.isqrt(patches) * patch_size,
            patch_size=patch_size,
            width=width,
            layers=layers,
            head_width=head_width
            or _HEAD_WIDTHS.get((width, layers))
            or width // heads_of(width, "CLIP's image tower"),
            mlp_ratio=sizes.ratio("visual/transformer/resblocks_0/mlp/c_fc/kernel"),
        ),
        text=CLIPTextConfig(
            vocab_size=sizes.shape("text/token_embedding/embedding", 2)[0],
            context_length=context_length,
            width=text_width,
            heads=text_heads or heads_of(text_width, "CLIP's text tower"),
            layers=sizes.count("text/transformer/resblocks_{}/ln_1/scale"),
            mlp_ratio=sizes.ratio("text/transformer/resblocks_0/mlp/c_fc/kernel"),
        ),
    )


def _published_choices(
    published: Mapping[str, Any], layout: str, width: int, text_width: int
) -> tuple[int | None, int | None, bool | None]:
    """The image tower's head width, the text tower's heads and the activation, None where nothing is said.

    What a published file leaves out has the default of the program that wrote it.
    """
    if not published:
        return None, None, None
    if layout == "open_clip":
        model = published.get("model_cfg", published)
        head_width = model.get("vision_cfg", {}).get("head_width", 64)
        return head_width, model.get("text_cfg", {}).get("heads"), bool(model.get("quick_gelu", False))
    vision, text = published.get("vision_config") or {}, published.get("text_config") or {}
    activations = {part.get("hidden_act", "quick_gelu") for part in (vision, text)}
    if len(activations) > 1 or not activations <= {"quick_gelu", "gelu"}:
        raise ConversionError(
            f"config.json names the activation {' and '.join(sorted(activations))}; CLIP here has one, quick_gelu "
            "or gelu. Correct hidden_act in config.json, or take the file away and give quick_gelu=True or False."
        )
    heads = vision.get("num_attention_heads")
    return width // heads if heads else None, text.get("num_attention_heads"), activations == {"quick_gelu"}
