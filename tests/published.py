"""Random weights under the published names, made from a configuration: what the files of each layout hold."""

import re

import numpy as np

from corrclip_jax.config import FAMILIES, CLIPConfig, CLIPTextConfig, CLIPVisionConfig, DINOConfig
from corrclip_jax.conversion.spelling import published_name
from corrclip_jax.params.structure import expected_network
from corrclip_jax.params.trees import shapes_by_path

CLIP = CLIPConfig(
    embed_dim=24,
    vision=CLIPVisionConfig(image_size=32, patch_size=8, width=64, layers=3),
    text=CLIPTextConfig(vocab_size=521, context_length=12, width=64, heads=1, layers=2),
)
DINO = DINOConfig(image_size=32, patch_size=8, width=64, layers=3, heads=1)


def open_clip_shapes(config: CLIPConfig) -> dict[str, tuple[int, ...]]:
    vision, text = config.vision, config.text
    patches = (vision.image_size // vision.patch_size) ** 2
    shapes = {
        "positional_embedding": (text.context_length, text.width),
        "text_projection": (text.width, config.embed_dim),
        "logit_scale": (),
        "visual.class_embedding": (vision.width,),
        "visual.positional_embedding": (1 + patches, vision.width),
        "visual.proj": (vision.width, config.embed_dim),
        "visual.conv1.weight": (vision.width, 3, vision.patch_size, vision.patch_size),
        "token_embedding.weight": (text.vocab_size, text.width),
    }
    for name, width in (
        ("visual.ln_pre", vision.width),
        ("visual.ln_post", vision.width),
        ("ln_final", text.width),
    ):
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    for prefix, width, layers, ratio in (
        ("visual.", vision.width, vision.layers, vision.mlp_ratio),
        ("", text.width, text.layers, text.mlp_ratio),
    ):
        for layer in range(layers):
            block = f"{prefix}transformer.resblocks.{layer}"
            shapes |= _block(block, width, int(width * ratio), ("ln_1", "ln_2"), ("c_fc", "c_proj"))
            shapes |= {
                f"{block}.attn.in_proj_weight": (3 * width, width),
                f"{block}.attn.in_proj_bias": (3 * width,),
                f"{block}.attn.out_proj.weight": (width, width),
                f"{block}.attn.out_proj.bias": (width,),
            }
    return shapes


def dino_shapes(config: DINOConfig) -> dict[str, tuple[int, ...]]:
    width, patch = config.width, config.patch_size
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + (config.image_size // patch) ** 2, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    for layer in range(config.layers):
        block = f"blocks.{layer}"
        shapes |= _block(block, width, int(width * config.mlp_ratio), ("norm1", "norm2"), ("fc1", "fc2"))
        shapes |= {
            f"{block}.attn.qkv.weight": (3 * width, width),
            f"{block}.attn.qkv.bias": (3 * width,),
            f"{block}.attn.proj.weight": (width, width),
            f"{block}.attn.proj.bias": (width,),
        }
    return shapes


def random_tensors(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        name: rng.random(shape, np.float32) if shape else np.float32(rng.random())[None].reshape(())
        for name, shape in shapes.items()
    }


def clip_as_transformers(tensors: dict[str, np.ndarray], config: CLIPConfig) -> dict[str, np.ndarray]:
    """open_clip's tensors as `CLIPModel` names and stores them."""
    vision, text = "vision_model", "text_model"
    renamed = {
        "logit_scale": tensors["logit_scale"],
        f"{text}.embeddings.token_embedding.weight": tensors["token_embedding.weight"],
        f"{text}.embeddings.position_embedding.weight": tensors["positional_embedding"],
        "text_projection.weight": tensors["text_projection"].T,
        f"{vision}.embeddings.class_embedding": tensors["visual.class_embedding"],
        f"{vision}.embeddings.patch_embedding.weight": tensors["visual.conv1.weight"],
        f"{vision}.embeddings.position_embedding.weight": tensors["visual.positional_embedding"],
        "visual_projection.weight": tensors["visual.proj"].T,
    }
    pairs = [
        ("visual.ln_pre", f"{vision}.pre_layrnorm"),
        ("visual.ln_post", f"{vision}.post_layernorm"),
        ("ln_final", f"{text}.final_layer_norm"),
    ]
    for prefix, tower, layers in (("visual.", vision, config.vision.layers), ("", text, config.text.layers)):
        for layer in range(layers):
            old, new = f"{prefix}transformer.resblocks.{layer}", f"{tower}.encoder.layers.{layer}"
            parts = (("ln_1", "layer_norm1"), ("ln_2", "layer_norm2"), ("mlp.c_fc", "mlp.fc1"))
            parts += (("mlp.c_proj", "mlp.fc2"), ("attn.out_proj", "self_attn.out_proj"))
            pairs += [(f"{old}.{a}", f"{new}.{b}") for a, b in parts]
            for kind in ("weight", "bias"):
                split = np.split(tensors[f"{old}.attn.in_proj_{kind}"], 3)
                renamed |= {f"{new}.self_attn.{n}_proj.{kind}": x for n, x in zip("qkv", split, strict=True)}
    return {name: np.ascontiguousarray(x) for name, x in (renamed | _rename(tensors, pairs)).items()}


def dino_as_transformers(tensors: dict[str, np.ndarray], config: DINOConfig) -> dict[str, np.ndarray]:
    """DINO's tensors as `ViTModel` names and stores them."""
    renamed = {
        "embeddings.cls_token": tensors["cls_token"],
        "embeddings.position_embeddings": tensors["pos_embed"],
    }
    pairs = [("patch_embed.proj", "embeddings.patch_embeddings.projection"), ("norm", "layernorm")]
    for layer in range(config.layers):
        old, new = f"blocks.{layer}", f"encoder.layer.{layer}"
        parts = (
            ("norm1", "layernorm_before"),
            ("norm2", "layernorm_after"),
            ("mlp.fc1", "intermediate.dense"),
        )
        parts += (("mlp.fc2", "output.dense"), ("attn.proj", "attention.output.dense"))
        pairs += [(f"{old}.{a}", f"{new}.{b}") for a, b in parts]
        for kind in ("weight", "bias"):
            split = np.split(tensors[f"{old}.attn.qkv.{kind}"], 3)
            for name, x in zip(("query", "key", "value"), split, strict=True):
                renamed[f"{new}.attention.attention.{name}.{kind}"] = x
    return renamed | _rename(tensors, pairs)


def _block(
    block: str, width: int, hidden: int, norms: tuple[str, str], mlp: tuple[str, str]
) -> dict[str, tuple[int, ...]]:
    shapes = {f"{block}.{norm}.{kind}": (width,) for norm in norms for kind in ("weight", "bias")}
    wide, narrow = (f"{block}.mlp.{name}" for name in mlp)
    shapes |= {f"{wide}.weight": (hidden, width), f"{wide}.bias": (hidden,)}
    return shapes | {f"{narrow}.weight": (width, hidden), f"{narrow}.bias": (width,)}


def _rename(tensors: dict[str, np.ndarray], pairs: list[tuple[str, str]]) -> dict[str, np.ndarray]:
    return {f"{new}.{kind}": tensors[f"{old}.{kind}"] for old, new in pairs for kind in ("weight", "bias")}


def published_shapes(family: str, config, layout: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a network's tensors in a published layout, found by running its table backwards."""
    leaves = shapes_by_path(expected_network(config))
    rules = FAMILIES[family].conversion_table().table(config, layout).rules
    shapes = {}
    for name in {published_name(rules, path): None for path in leaves}:
        rule, match = next((rule, found) for rule in rules if (found := re.fullmatch(rule.source, name)))
        targets = (rule.target,) if isinstance(rule.target, str) else rule.target
        paths = [None if target is None else match.expand(target) for target in targets]
        # A part that our tree drops has the same shape.
        kept = next(path for path in paths if path is not None)
        parts = [_as_published(rule.transform, path or kept, leaves[path or kept]) for path in paths]
        shapes[name] = parts[0] if len(parts) == 1 else (sum(part[0] for part in parts), *parts[0][1:])
    return shapes


def _as_published(transform: str, path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that torch stores of a leaf: heads joined, the output axis first."""
    *_, parent, leaf = ("", *path.split("/"))
    if parent in ("query", "key", "value") and leaf == "bias" and len(shape) == 2:
        shape = (shape[0] * shape[1],)
    elif len(shape) == 3 and leaf == "kernel":
        joined = (shape[0] * shape[1], shape[2]) if parent == "out" else (shape[0], shape[1] * shape[2])
        shape = joined
    match transform:
        case "linear" | "split_linear":
            return shape[::-1]
        case "conv" | "conv_transpose":
            return shape[3], shape[2], shape[0], shape[1]
        case "patches":
            return shape[3], shape[2] * shape[0] * shape[1]
        case "squeeze" if leaf == "pos_embed":
            return 1, *shape
    return shape
