"""Our EoMT against transformers', stage by stage, on random weights gone through a file and the conversion."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from parity.pairs import assert_close
from transformers import (
    EomtConfig,
    EomtDinov3Config,
    EomtDinov3ForUniversalSegmentation,
    EomtForUniversalSegmentation,
)

from corrclip_jax.config import EoMTConfig
from corrclip_jax.conversion.families import convert_state_dict, detect
from corrclip_jax.conversion.find import find, published_beside
from corrclip_jax.conversion.rules import ConversionError
from corrclip_jax.conversion.tables.eomt import config_from_shapes
from corrclip_jax.models.eomt import Block, Embeddings, EoMT

# Small, but with all that can go wrong: blocks that mask and such that do not, one and two upscale blocks, a gated
# MLP whose width is rounded, rotary positions, numbers that differ so that no two axes can be exchanged.
CONFIGS = {
    "plain": EoMTConfig(
        image_size=80, patch_size=16, width=48, layers=4, heads=3, mlp_ratio=3.0, registers=2, queries=7,
        query_blocks=2, labels=5,
    ),
    "gated": EoMTConfig(
        image_size=32, patch_size=8, width=40, layers=2, heads=5, swiglu=True, queries=6, query_blocks=1,
        upscale_blocks=1, labels=3,
    ),
    "on DINOv3": EoMTConfig(
        image_size=48, patch_size=8, width=48, layers=3, heads=3, mlp_ratio=3.0, registers=2, queries=7,
        query_blocks=2, upscale_blocks=1, labels=5, rope_base=50.0,
    ),
}  # fmt: skip
PAIRS = {
    "plain": ("plain", ()), "gated": ("gated", ()), "masked": ("plain", (1,)), "on DINOv3": ("on DINOv3", (1,))
}  # fmt: skip
VIT_L = EoMTConfig()


def torch_config(config: EoMTConfig) -> EomtConfig | EomtDinov3Config:
    shared = {
        "hidden_size": config.width, "num_hidden_layers": config.layers, "num_attention_heads": config.heads,
        "image_size": config.image_size, "patch_size": config.patch_size, "num_blocks": config.query_blocks,
        "num_upscale_blocks": config.upscale_blocks, "num_queries": config.queries,
        "num_register_tokens": config.registers, "num_labels": config.labels,
    }  # fmt: skip
    if config.rope_base is None:
        return EomtConfig(mlp_ratio=int(config.mlp_ratio), use_swiglu_ffn=config.swiglu, **shared)
    rope = {"rope_type": "default", "rope_theta": config.rope_base}
    return EomtDinov3Config(
        intermediate_size=int(config.width * config.mlp_ratio), rope_parameters=rope, **shared
    )


def torch_model(config: EoMTConfig) -> EomtForUniversalSegmentation | EomtDinov3ForUniversalSegmentation:
    kind = EomtForUniversalSegmentation if config.rope_base is None else EomtDinov3ForUniversalSegmentation
    return kind(torch_config(config)).eval()


def random_torch_model(config: EoMTConfig, masked: tuple[int, ...] = ()):
    """A torch model that looks at all of its parts; `masked` are the last blocks with masked attention."""
    torch.manual_seed(0)
    model = torch_model(config)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            noise = torch.randn(tensor.shape)
            if tensor.ndim == 1:
                factor = name.endswith(
                    ("norm1.weight", "norm2.weight", "layernorm.weight", "2d.weight", "lambda1")
                )
                tensor.copy_(1 + 0.1 * noise if factor else 0.1 * noise)
            elif "embeddings" in name or "query" in name:
                tensor.copy_(0.5 * noise)
            else:
                tensor.copy_(noise * tensor.shape[1:].numel() ** -0.5)
        model.attn_mask_probs.zero_()
        model.attn_mask_probs[list(masked)] = 1
    return model


@pytest.fixture(scope="module", params=PAIRS)
def pair(request, tmp_path_factory):
    """The torch model, and our configuration and parameters read from its files alone."""
    folder = tmp_path_factory.mktemp(request.param)
    size, masked = PAIRS[request.param]
    model = random_torch_model(CONFIGS[size], masked)
    model.save_pretrained(folder)
    found = find(folder, "eomt")
    config = config_from_shapes(found.checkpoint.shapes, found.layout, published_beside(found))
    assert config == CONFIGS[size]
    return model, config, jax.device_put(convert_state_dict("eomt", found.checkpoint, config))


def test_every_stage(pair):
    """Embeddings, every block, logits of classes and masks."""
    model, config, params = pair
    stages = []
    hooks = [
        module.register_forward_hook(lambda *args: stages.append(args[2]))
        for module in (model.embeddings, *model.layers)
    ]
    side = config.image_size
    images = np.random.default_rng(1).standard_normal((2, side, side, 3)).astype(np.float32)
    with torch.no_grad():
        wanted = model(torch.tensor(images).permute(0, 3, 1, 2))
    for hook in hooks:
        hook.remove()

    def keep(module, method):
        return method == "__call__" and isinstance(module, Block | Embeddings)

    apply = partial(EoMT(config).apply, capture_intermediates=keep, mutable=["intermediates"])
    (classes, masks), state = jax.jit(apply)({"params": params}, images)
    found = {name: value["__call__"][0] for name, value in state["intermediates"].items()}
    names = ["embeddings", *(f"layers_{index}" for index in range(config.layers))]
    for name, stage in zip(names, stages, strict=True):
        assert_close(name, found[name], stage)
    assert_close("class logits", classes, wanted.class_queries_logits)
    assert_close("mask logits", masks, wanted.masks_queries_logits)


def test_masks_matter():
    """What the masked pairs compare is not what an unmasked model gives."""
    images = torch.tensor(np.random.default_rng(1).standard_normal((1, 3, 80, 80)), dtype=torch.float32)
    with torch.no_grad():
        plain, masked = (
            random_torch_model(CONFIGS["plain"], blocks)(images).masks_queries_logits for blocks in ((), (1,))
        )
    assert (plain - masked).abs().max() > 0.01 * plain.abs().max()


@pytest.mark.parametrize(
    ("config", "size"),
    [
        (EoMTConfig(width=384, layers=12, heads=6, query_blocks=3), "S"),
        (EoMTConfig(width=768, layers=12, heads=12, query_blocks=3), "B"),
        (VIT_L, "L"),
        (EoMTConfig(image_size=1280, width=1536, layers=40, heads=24, swiglu=True, query_blocks=5), "g"),
        (EoMTConfig(width=384, layers=12, heads=6, query_blocks=3, rope_base=100.0), "S on DINOv3"),
        (EoMTConfig(width=768, layers=12, heads=12, query_blocks=3, rope_base=100.0), "B on DINOv3"),
        (EoMTConfig(image_size=1280, rope_base=100.0), "L on DINOv3"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_the_published_sizes_are_known_by_their_shapes(config, size):
    with torch.device("meta"):
        model = torch_model(config)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert detect(shapes) == ("eomt", "transformers")
    published = {} if config.rope_base is None else {"image_size": config.image_size}
    assert config_from_shapes(shapes, "transformers", published) == config


def test_a_configuration_that_ours_cannot_be_is_refused():
    config = CONFIGS["plain"]
    shapes = {name: tuple(x.shape) for name, x in random_torch_model(config).state_dict().items()}
    with pytest.raises(ConversionError, match=r"cannot be: hidden_act relu \(here gelu\)"):
        config_from_shapes(shapes, "transformers", {"hidden_act": "relu"})
    on_dinov3 = {name: tuple(x.shape) for name, x in torch_model(CONFIGS["on DINOv3"]).state_dict().items()}
    with pytest.raises(ConversionError, match=r"cannot be: key_bias True \(here False\)"):
        config_from_shapes(on_dinov3, "transformers", {"key_bias": True})
    with pytest.raises(ConversionError, match=r"Put the config\.json .* beside the file.* Got None"):
        config_from_shapes(on_dinov3, "transformers", {"num_attention_heads": 3})
    del shapes["query.weight"]
    with pytest.raises(ConversionError, match=r"but query\.weight, which shows the model's size, needs"):
        config_from_shapes(shapes, "transformers", {"num_attention_heads": 3})


def test_the_older_names_of_the_gated_mlp_give_the_same_parameters():
    config = CONFIGS["gated"]
    state = {name: tensor.numpy() for name, tensor in random_torch_model(config).state_dict().items()}
    older = {re.sub(r"mlp\.down_proj", "mlp.weights_out", name): x for name, x in state.items()}
    for name in [name for name in older if "gate_proj" in name]:
        parts = older.pop(name), older.pop(name.replace("gate", "up"))
        older[name.replace("gate_proj", "weights_in")] = np.concatenate(parts)
    shapes = {name: x.shape for name, x in older.items()}
    assert config_from_shapes(shapes, "transformers", {"num_attention_heads": 5}) == config
    jax.tree.map(
        np.testing.assert_array_equal,
        convert_state_dict("eomt", older, config),
        convert_state_dict("eomt", state, config),
    )


def test_images_of_another_size_are_refused():
    with pytest.raises(
        ValueError, match=r"images must have shape \(batch, 80, 80, 3\)\. Got \(1, 64, 64, 3\)"
    ):
        jax.eval_shape(EoMT(CONFIGS["plain"]).init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
