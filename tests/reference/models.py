"""transformers models: with the tensors of published checkpoints, or with random weights of a lively scale."""

import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, ViTConfig, ViTModel
from transformers.initialization import no_init_weights

_CLIP_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_CLIP_REST = {
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "logit_scale": "logit_scale",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}
_DINO_BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.o_proj",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_DINO_REST = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}


def clip_from_open_clip(state: dict[str, Tensor], heads: int, text_heads: int, quick_gelu: bool) -> CLIPModel:
    """A CLIPModel with the tensors of an open_clip checkpoint; sizes are read off the tensors."""
    width, _, patch_size, _ = state["visual.conv1.weight"].shape
    tokens = state["visual.positional_embedding"].shape[0] - 1
    vocabulary, text_width = state["token_embedding.weight"].shape
    model = _clip(
        quick_gelu=quick_gelu,
        embed_dim=state["visual.proj"].shape[1],
        vision={
            "hidden_size": width,
            "intermediate_size": state["visual.transformer.resblocks.0.mlp.c_fc.bias"].shape[0],
            "num_hidden_layers": _depth(state, "visual.transformer.resblocks."),
            "num_attention_heads": heads,
            "patch_size": patch_size,
            "image_size": round(tokens**0.5) * patch_size,
        },
        text={
            "hidden_size": text_width,
            "intermediate_size": state["transformer.resblocks.0.mlp.c_fc.bias"].shape[0],
            "num_hidden_layers": _depth(state, "transformer.resblocks."),
            "num_attention_heads": text_heads,
            "vocab_size": vocabulary,
            "max_position_embeddings": state["positional_embedding"].shape[0],
        },
    )
    renamed = {}
    for name, tensor in state.items():
        tower, dot, rest = name.rpartition("transformer.resblocks.")
        if name in ("visual.proj", "text_projection"):
            side = "visual_projection" if name == "visual.proj" else "text_projection"
            renamed[f"{side}.weight"] = tensor.T
        elif name in _CLIP_REST:
            renamed[_CLIP_REST[name]] = tensor
        elif dot:
            number, _, part = rest.partition(".")
            layer = f"{'vision' if tower else 'text'}_model.encoder.layers.{number}"
            renamed |= _block_tensors(f"{layer}.", part, tensor, _CLIP_BLOCK, "attn.in_proj_", "self_attn.")
        else:
            raise KeyError(name)
    model.load_state_dict(renamed)
    return model


def dino_from_original(state: dict[str, Tensor], heads: int) -> ViTModel:
    """A ViTModel with the tensors of an original DINO checkpoint; sizes are read off the tensors."""
    width, _, patch_size, _ = state["patch_embed.proj.weight"].shape
    model = _dino(
        hidden_size=width,
        intermediate_size=state["blocks.0.mlp.fc1.bias"].shape[0],
        num_hidden_layers=_depth(state, "blocks."),
        num_attention_heads=heads,
        patch_size=patch_size,
        image_size=round((state["pos_embed"].shape[1] - 1) ** 0.5) * patch_size,
    )
    renamed = {}
    for name, tensor in state.items():
        if name in _DINO_REST:
            renamed[_DINO_REST[name]] = tensor
        else:
            number, _, part = name.removeprefix("blocks.").partition(".")
            layer = f"layers.{number}."
            renamed |= _block_tensors(layer, part, tensor, _DINO_BLOCK, "attn.qkv.", "attention.")
    model.load_state_dict(renamed)
    return model


def random_clip(
    *,
    layers: int,
    width: int,
    heads: int,
    patch_size: int,
    quick_gelu: bool = True,
    image_size: int = 224,
    embed_dim: int = 24,
    text_width: int = 32,
    text_heads: int = 4,
    text_layers: int = 2,
    vocabulary: int = 64,
    seed: int = 0,
) -> CLIPModel:
    """A CLIPModel with random weights, biases and norms included."""
    model = _clip(
        quick_gelu=quick_gelu,
        embed_dim=embed_dim,
        vision={
            "hidden_size": width,
            "intermediate_size": 4 * width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "patch_size": patch_size,
            "image_size": image_size,
        },
        text={
            "hidden_size": text_width,
            "intermediate_size": 4 * text_width,
            "num_hidden_layers": text_layers,
            "num_attention_heads": text_heads,
            "vocab_size": vocabulary,
        },
    )
    return _randomise(model, seed)


def random_dino(
    *, layers: int, width: int, heads: int, patch_size: int, image_size: int = 224, seed: int = 0
) -> ViTModel:
    """A ViTModel with random weights, biases and norms included."""
    model = _dino(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        patch_size=patch_size,
        image_size=image_size,
    )
    return _randomise(model, seed)


def _clip(quick_gelu: bool, embed_dim: int, vision: dict, text: dict) -> CLIPModel:
    activation = "quick_gelu" if quick_gelu else "gelu"
    config = CLIPConfig(
        projection_dim=embed_dim,
        vision_config={**vision, "hidden_act": activation, "projection_dim": embed_dim},
        # The largest id ends a text, in every published CLIP.
        text_config={
            **text,
            "hidden_act": activation,
            "projection_dim": embed_dim,
            "bos_token_id": text["vocab_size"] - 2,
            "eos_token_id": text["vocab_size"] - 1,
            "pad_token_id": 0,
        },
        attn_implementation="eager",
    )
    with no_init_weights():  # all are set later
        return CLIPModel(config).eval().requires_grad_(False)


def _dino(**config) -> ViTModel:
    # DINO's norms use 1e-6; transformers' own default for a ViT is 1e-12.
    config = ViTConfig(**config, layer_norm_eps=1e-6, attn_implementation="eager")
    with no_init_weights():
        return ViTModel(config, add_pooling_layer=False).eval().requires_grad_(False)


def _depth(state: dict[str, Tensor], prefix: str) -> int:
    return 1 + max(int(name.removeprefix(prefix).split(".")[0]) for name in state if name.startswith(prefix))


def _block_tensors(
    layer: str, part: str, tensor: Tensor, names: dict[str, str], fused: str, attention: str
) -> dict[str, Tensor]:
    """One tensor of a published transformer block under its transformers name, or three for a fused one."""
    if part.startswith(fused):
        kind = part.removeprefix(fused)
        thirds = zip("qkv", tensor.chunk(3), strict=True)
        return {f"{layer}{attention}{letter}_proj.{kind}": third for letter, third in thirds}
    module, _, kind = part.rpartition(".")
    return {f"{layer}{names[module]}.{kind}": tensor}


def _randomise(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Weights that keep a signal's size from layer to layer, so that no part of the model is idle."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name.endswith("logit_scale"):
            continue
        if "norm" in name and name.endswith("weight"):
            value = 1 + 0.1 * noise
        elif name.endswith("bias"):
            value = 0.05 * noise
        elif "embedding" in name or "token" in name:
            value = 0.3 * noise
            if parameter.ndim == 4:
                value = noise / parameter[0].numel() ** 0.5
        else:
            value = noise / parameter[0].numel() ** 0.5
        parameter.copy_(value)
    return model
