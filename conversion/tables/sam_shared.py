"""What the tables of SAM and SAM 2 share: prompt encoder and mask decoder, which SAM 2 kept.

The originals name these parts alike but for a prefix ("sam_" in SAM 2), transformers' conversions too; either has
names of its own for the layers of the transformer's MLP.
"""

import itertools

from corrclip_jax.conversion.rules import Rule, conv, linear, norm

_ATTENTIONS = r"(cross_attn_token_to_image|cross_attn_image_to_token|self_attn)"

SAME_MATRIX = r"prompt_encoder\.shared_embedding\.positional_embedding"
"""transformers' second name of the matrix that places prompts and image alike."""


def original_rules(prefix: str, mlp: tuple[str, str]) -> tuple[Rule, ...]:
    """Prompt encoder and mask decoder of the original layouts; the modules' prefix is ours too.

    `mlp` are the two layers' names (regular expressions) in the transformer's MLP.
    """
    prompts, decoder = f"{prefix}prompt_encoder", f"{prefix}mask_decoder"
    return (
        Rule(rf"{prompts}\.pe_layer\.(positional_encoding_gaussian_matrix)", rf"{prompts}/pe_layer/\1"),
        Rule(rf"{prompts}\.point_embeddings\.([0-3])\.weight", rf"{prompts}/point_embeddings_\1"),
        Rule(rf"{prompts}\.(not_a_point_embed|no_mask_embed)\.weight", rf"{prompts}/\1"),
        *conv(rf"{prompts}\.mask_downscaling\.([036])", rf"{prompts}/mask_downscaling_\1"),
        *norm(rf"{prompts}\.mask_downscaling\.([14])", rf"{prompts}/mask_downscaling_\1"),
        Rule(rf"{decoder}\.(iou_token|mask_tokens)\.weight", rf"{decoder}/\1"),
        *_transformer(decoder, decoder, "norm", "out_proj", mlp),
        *conv(rf"{decoder}\.output_upscaling\.([03])", rf"{decoder}/output_upscaling_\1", "conv_transpose"),
        *norm(rf"{decoder}\.output_upscaling\.1", f"{decoder}/output_upscaling_1"),
        *linear(
            rf"{decoder}\.output_hypernetworks_mlps\.(\d)\.layers\.(\d)",
            rf"{decoder}/output_hypernetworks_mlps_\1/layers_\2",
        ),
        *linear(
            rf"{decoder}\.iou_prediction_head\.layers\.(\d)", rf"{decoder}/iou_prediction_head/layers_\1"
        ),
    )


def transformers_rules(prefix: str, mlp: tuple[str, str], out: str) -> tuple[Rule, ...]:
    """Prompt encoder and mask decoder of transformers' layouts, but for the point embeddings.

    `prefix` is that of our modules, `mlp` as for `original_rules`, `out` the name of attention's output projection.
    """
    prompts, decoder = f"{prefix}prompt_encoder", f"{prefix}mask_decoder"
    return (
        Rule(
            r"shared_image_embedding\.positional_embedding",
            f"{prompts}/pe_layer/positional_encoding_gaussian_matrix",
        ),
        Rule(r"prompt_encoder\.(not_a_point_embed|no_mask_embed)\.weight", rf"{prompts}/\1"),
        *conv(r"prompt_encoder\.mask_embed\.conv1", f"{prompts}/mask_downscaling_0"),
        *norm(r"prompt_encoder\.mask_embed\.layer_norm1", f"{prompts}/mask_downscaling_1"),
        *conv(r"prompt_encoder\.mask_embed\.conv2", f"{prompts}/mask_downscaling_3"),
        *norm(r"prompt_encoder\.mask_embed\.layer_norm2", f"{prompts}/mask_downscaling_4"),
        *conv(r"prompt_encoder\.mask_embed\.conv3", f"{prompts}/mask_downscaling_6"),
        Rule(r"mask_decoder\.(iou_token|mask_tokens)\.weight", rf"{decoder}/\1"),
        *_transformer("mask_decoder", decoder, "layer_norm", out, mlp),
        *conv(r"mask_decoder\.upscale_conv1", f"{decoder}/output_upscaling_0", "conv_transpose"),
        *norm(r"mask_decoder\.upscale_layer_norm", f"{decoder}/output_upscaling_1"),
        *conv(r"mask_decoder\.upscale_conv2", f"{decoder}/output_upscaling_3", "conv_transpose"),
        *itertools.chain.from_iterable(
            linear(rf"mask_decoder\.{head}\.{source}", rf"{decoder}/{target}/layers_{i}")
            for head, target in (
                (r"output_hypernetworks_mlps\.(\d)", r"output_hypernetworks_mlps_\1"),
                ("iou_prediction_head", "iou_prediction_head"),
            )
            for i, source in enumerate(("proj_in", r"layers\.0", "proj_out"))
        ),
    )


def _transformer(source: str, target: str, norms: str, out: str, mlp: tuple[str, str]) -> tuple[Rule, ...]:
    """The two-way transformer; `norms` is the first part of its norms' names."""
    source, target = rf"{source}\.transformer", f"{target}/transformer"
    layer, ours = rf"{source}\.layers\.(\d+)", rf"{target}/layers_\1"
    final = "final_attn_token_to_image"
    return (
        *linear(rf"{layer}\.{_ATTENTIONS}\.([qkv]_proj)", rf"{ours}/\2/\3"),
        *linear(rf"{layer}\.{_ATTENTIONS}\.{out}", rf"{ours}/\2/out_proj"),
        *linear(rf"{layer}\.mlp\.{mlp[0]}", rf"{ours}/mlp/layers_0"),
        *linear(rf"{layer}\.mlp\.{mlp[1]}", rf"{ours}/mlp/layers_1"),
        *norm(rf"{layer}\.{norms}([1-4])", rf"{ours}/norm\2"),
        *linear(rf"{source}\.{final}\.([qkv]_proj)", rf"{target}/{final}/\1"),
        *linear(rf"{source}\.{final}\.{out}", f"{target}/{final}/out_proj"),
        *norm(rf"{source}\.{norms}_final_attn", f"{target}/norm_final_attn"),
    )
