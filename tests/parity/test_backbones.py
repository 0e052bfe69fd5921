"""Our backbones for similarities against transformers', block by block, through files and conversion."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from parity.pairs import assert_close
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    RadioModel,
)
from transformers import RadioConfig as TorchRadioConfig

from corrclip_jax.config import FAMILIES, DINOv2Config, DINOv3Config, RadioConfig
from corrclip_jax.conversion.families import convert_state_dict, detect
from corrclip_jax.conversion.find import find, published_beside

# Numbers that differ, so that no two axes can be exchanged; gated MLPs whose width is rounded.
SMALL = {"width": 48, "layers": 2, "heads": 3}
CONFIGS = {
    "radio": RadioConfig(
        image_size=96, patch_size=16, mlp_ratio=3.0, prefix_tokens=5, layer_scale=True, **SMALL
    ),
    "dinov2": DINOv2Config(image_size=70, patch_size=14, mlp_ratio=3.0, registers=0, **SMALL),
    "dinov2-registers": DINOv2Config(image_size=70, patch_size=14, registers=2, swiglu=True, **SMALL),
    "dinov3": DINOv3Config(patch_size=16, mlp_ratio=3.0, registers=3, **SMALL),
    "dinov3-gated": DINOv3Config(patch_size=16, mlp_ratio=5.0, registers=3, swiglu=True, **SMALL),
}
GRIDS = [(6, 6), (7, 4), (3, 9)]


def torch_model(name: str) -> torch.nn.Module:
    config = CONFIGS[name]
    common = {
        "hidden_size": config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "patch_size": config.patch_size,
        "image_size": config.image_size,
    }
    if name == "radio":
        sizes = {"mlp_ratio": config.mlp_ratio, "num_cls_tokens": 2, "num_registers": 3}
        return RadioModel(TorchRadioConfig(max_img_size=config.image_size, **common | sizes))
    if name.startswith("dinov3"):
        hidden = int(config.width * config.mlp_ratio)
        sizes = {
            "intermediate_size": hidden * 2 // 3 if config.swiglu else hidden,
            "use_gated_mlp": config.swiglu,
            "hidden_act": "silu" if config.swiglu else "gelu",
            "num_register_tokens": config.registers,
        }
        return DINOv3ViTModel(DINOv3ViTConfig(**common | sizes))
    sizes = {"mlp_ratio": int(config.mlp_ratio), "use_swiglu_ffn": config.swiglu}
    if config.registers:
        sizes["num_register_tokens"] = config.registers
        return Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**common | sizes))
    return Dinov2Model(Dinov2Config(**common | sizes))


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request, tmp_path_factory):
    """The torch model with random weights, and our configuration and parameters read from its files alone."""
    family, wanted = request.param.split("-")[0], CONFIGS[request.param]
    torch.manual_seed(0)
    model = torch_model(request.param).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            noise = torch.randn(tensor.shape)
            if tensor.ndim == 1:
                one = name.endswith(("norm1.weight", "norm2.weight", "norm.weight", "lambda1"))
                tensor.copy_(1 + 0.1 * noise if one else 0.1 * noise)
            else:
                small = "embedding" in name or "token" in name
                tensor.copy_(noise * (0.5 if small and tensor.ndim < 4 else tensor[0].numel() ** -0.5))
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    found = find(folder, family)
    table = FAMILIES[family].conversion_table()
    config = table.config_from_shapes(found.checkpoint.shapes, found.layout, published_beside(found))
    assert config == replace(wanted, image_size=config.image_size)
    params = convert_state_dict(family, found.checkpoint, config)
    in_memory = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    assert detect(in_memory) is not None
    assert detect(in_memory)[0] == family
    jax.tree.map(np.testing.assert_array_equal, params, convert_state_dict(family, in_memory, config))
    return family, model, config, jax.device_put(params)


@pytest.mark.parametrize("grid", GRIDS)
def test_every_block_and_the_features(pair, grid):
    family, model, config, params = pair
    shape = (2, *(config.patch_size * side for side in grid), 3)
    images = np.random.default_rng(0).random(shape).astype(np.float32)
    with torch.inference_mode():
        if family == "radio":
            model.make_preprocessor_external()
        theirs = model(torch.from_numpy(images).permute(0, 3, 1, 2), output_hidden_states=True)
    network = FAMILIES[family].network()(config, jnp.float32)

    @jax.jit
    def run(params, images):
        def is_block(module, name):
            return name == "__call__" and type(module).__name__ == "Block"

        return network.apply(
            {"params": params}, images, capture_intermediates=is_block, mutable=["intermediates"]
        )

    ours, state = run(params, images)
    for index in range(config.layers):
        block = state["intermediates"][f"blocks_{index}"]["__call__"][0]
        assert_close(f"block {index}", block, theirs.hidden_states[index + 1])
    last = theirs.last_hidden_state[:, -grid[0] * grid[1] :]
    assert_close("features", ours, last.reshape(2, *grid, -1))
