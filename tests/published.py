"""Random weights under the published names, made from a configuration: what the files of each layout hold."""

import numpy as np

from corrclip_jax.config import CLIPConfig, CLIPTextConfig, CLIPVisionConfig, DINOConfig

CLIP = CLIPConfig(
    embed_dim=24,
    vision=CLIPVisionConfig(image_size=32, patch_size=8, width=64, layers=3),
    text=CLIPTextConfig(vocab_size=96, context_length=12, width=64, heads=1, layers=2),
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
