"""Our SAM against transformers', stage by stage, on random weights gone through a file and the conversion."""

import json
import re
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest
import torch
from parity.pairs import assert_close
from parity.sam_prompts import decodings
from safetensors.numpy import load_file, save_file
from skimage.data import astronaut
from transformers import SamConfig, SamMaskDecoderConfig, SamModel, SamPromptEncoderConfig, SamVisionConfig
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from corrclip_jax.config import SAM1Config
from corrclip_jax.conversion.families import convert_state_dict
from corrclip_jax.conversion.rules import ConversionError
from corrclip_jax.conversion.tables.sam1 import config_from_shapes
from corrclip_jax.models.sam.sam1 import SAM1, preprocess
from corrclip_jax.models.sam.vit import RelativeAttention

# Small, but with all that can go wrong: windows that do not fit the grid, one that is larger than it, global blocks
# and none, heads of widths that are no power of two.
CONFIGS = {
    "windows": SAM1Config(
        image_size=160, width=48, layers=3, heads=4, global_blocks=(1,), window=4,
        embed_dim=32, decoder_heads=4, decoder_mlp_width=64, mask_channels=8,
    ),
    "no-global": SAM1Config(
        image_size=64, patch_size=8, width=40, layers=2, heads=2, global_blocks=(), window=14, mlp_ratio=3.0,
        embed_dim=64, decoder_heads=2, decoder_mlp_width=96,
    ),
    "all-global": SAM1Config(
        image_size=112, width=36, layers=2, heads=3, global_blocks=(0, 1), window=7, embed_dim=32,
        decoder_heads=8, decoder_layers=1, decoder_mlp_width=48, mask_channels=8,
    ),
}  # fmt: skip
VIT_B = SAM1Config()
# One block of each kind. The attention of 64 x 64 tokens would take 3.5 GB, most of it in torch.
VIT_B_SHALLOW = replace(VIT_B, image_size=768, layers=2, global_blocks=(1,))
PROMPTS = 3


def random_torch_model(config: SAM1Config) -> SamModel:
    """A torch model that looks at all of its parts: norms that are not the identity, positions that matter."""
    vision = SamVisionConfig(
        hidden_size=config.width, output_channels=config.embed_dim, num_hidden_layers=config.layers,
        num_attention_heads=config.heads, image_size=config.image_size, patch_size=config.patch_size,
        mlp_ratio=config.mlp_ratio, window_size=config.window, global_attn_indexes=list(config.global_blocks),
        num_pos_feats=config.embed_dim // 2,
    )  # fmt: skip
    prompts = SamPromptEncoderConfig(
        hidden_size=config.embed_dim, image_size=config.image_size, patch_size=config.patch_size,
        mask_input_channels=config.mask_channels,
    )  # fmt: skip
    decoder = SamMaskDecoderConfig(
        hidden_size=config.embed_dim, mlp_dim=config.decoder_mlp_width, iou_head_hidden_dim=config.embed_dim,
        num_hidden_layers=config.decoder_layers, num_attention_heads=config.decoder_heads,
        layer_norm_eps=1e-5,  # as in the original program; transformers' default is 1e-6
    )  # fmt: skip
    torch.manual_seed(0)
    parts = {"vision_config": vision, "prompt_encoder_config": prompts, "mask_decoder_config": decoder}
    model = SamModel(SamConfig(**{name: part.to_dict() for name, part in parts.items()})).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            noise = torch.randn(tensor.shape)
            if tensor.ndim == 1:
                tensor.copy_(1 + 0.1 * noise if name.endswith("weight") else 0.1 * noise)
            elif "rel_pos" in name:
                tensor.copy_(0.5 * noise)
            else:
                tensor.copy_(noise * (tensor.shape[1:].numel() if "weight" in name else 1) ** -0.5)
        # Published files hold one matrix under both names.
        model.prompt_encoder.shared_embedding.positional_embedding = (
            model.shared_image_embedding.positional_embedding
        )
    return model


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request, tmp_path_factory):
    """The torch model, and our configuration and parameters read from its files alone."""
    folder = tmp_path_factory.mktemp(request.param)
    model = random_torch_model(CONFIGS[request.param])
    model.save_pretrained(folder)
    state = load_file(folder / "model.safetensors")
    published = json.loads((folder / "config.json").read_text())
    config = config_from_shapes({name: x.shape for name, x in state.items()}, "transformers", published)
    return model, config, jax.device_put(convert_state_dict("sam1", state, config))


@pytest.mark.parametrize("name", CONFIGS)
def test_the_configuration_is_read_from_the_file(name, tmp_path):
    config = CONFIGS[name]
    model = random_torch_model(config)
    model.save_pretrained(tmp_path)
    shapes = {key: tuple(x.shape) for key, x in load_file(tmp_path / "model.safetensors").items()}
    published = json.loads((tmp_path / "config.json").read_text())
    assert config_from_shapes(shapes, "transformers", published) == config
    published["vision_config"]["use_rel_pos"] = False
    with pytest.raises(ConversionError, match=r"cannot be: vision_config.use_rel_pos False \(here True\)"):
        config_from_shapes(shapes, "transformers", published)


@pytest.mark.parametrize(
    ("width", "layers", "heads", "global_blocks"),
    [(768, 12, 12, (2, 5, 8, 11)), (1024, 24, 16, (5, 11, 17, 23)), (1280, 32, 16, (7, 15, 23, 31))],
    ids=["B", "L", "H"],
)
def test_the_published_sizes_are_known_by_their_shapes(width, layers, heads, global_blocks):
    config = SAM1Config(width=width, layers=layers, heads=heads, global_blocks=global_blocks)
    with torch.device("meta"):
        vision = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
        model = SamModel(SamConfig(vision_config=vision | {"global_attn_indexes": list(global_blocks)}))
    state = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert config_from_shapes(state, "transformers", {}) == config
    shapes = {name: shape for name, shape in original_names(state).items() if isinstance(shape, tuple)}
    assert config_from_shapes(shapes, "original", {}) == config


def test_relative_positions_are_the_published_sum():
    side, heads, width = 5, 3, 6
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, side, side, heads * width)).astype(np.float32)
    module = RelativeAttention(heads * width, heads)
    params = jax.eval_shape(module.init, jax.random.key(0), x)["params"]
    params = jax.tree.map(lambda leaf: rng.standard_normal(leaf.shape).astype(np.float32), params)
    q, k, v = (
        (x @ params[name]["kernel"] + params[name]["bias"]).reshape(2, side * side, heads, width)
        for name in ("query", "key", "value")
    )
    y, x_ = np.divmod(np.arange(side * side), side)
    vertical = params["rel_pos_h"][y[:, None] - y + side - 1]
    horizontal = params["rel_pos_w"][x_[:, None] - x_ + side - 1]
    logits = np.einsum("nqhd,nkhd->nhqk", q, k) * width**-0.5
    logits += np.einsum("nqhd,qkd->nhqk", q, vertical) + np.einsum("nqhd,qkd->nhqk", q, horizontal)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    mixed = np.einsum("nhqk,nkhd->nqhd", weights, v).reshape(x.shape)
    wanted = mixed @ params["proj"]["kernel"] + params["proj"]["bias"]
    assert_close("attention", jax.jit(module.apply)({"params": params}, x), wanted, 1e-5)


def test_the_encoders_map(pair):
    model, config, params = pair
    side = config.image_size
    images = np.random.default_rng(1).standard_normal((2, side, side, 3)).astype(np.float32)
    got = jax.jit(partial(SAM1(config).apply, method="encode"))({"params": params}, images)
    with torch.no_grad():
        wanted = model.get_image_embeddings(torch.tensor(images).permute(0, 3, 1, 2))
    assert_close("map", got, wanted.permute(0, 2, 3, 1))


@pytest.mark.parametrize(
    ("pair", "points", "with_boxes", "with_mask", "multimask"),
    decodings(CONFIGS, "windows"),
    indirect=["pair"],
)
def test_decoding(pair, points, with_boxes, with_mask, multimask):
    model, config, params = pair
    rng = np.random.default_rng(3)
    features = rng.standard_normal((2, config.embed_size, config.embed_size, config.embed_dim))
    features = features.astype(np.float32)
    labels = np.array([[1, 0, -1, 1], [0, 1, 1, -1], [1, 1, 1, 1]], np.int32)[:, :points]
    where = (rng.random((PROMPTS, points, 2)) * config.image_size).astype(np.float32)
    corners = np.sort(rng.random((PROMPTS, 2, 2)) * config.image_size, axis=1).reshape(PROMPTS, 4)
    boxes = corners.astype(np.float32) if with_boxes else None
    side = 4 * config.embed_size
    mask = rng.standard_normal((side, side)).astype(np.float32) if with_mask else None

    def torch_input(x):
        return None if x is None else torch.tensor(x)[None]

    with torch.no_grad():
        wanted = model(
            image_embeddings=torch.tensor(features[1:]).permute(0, 3, 1, 2),
            input_points=torch_input(where) if points else None,
            input_labels=torch_input(labels).long() if points else None,
            input_boxes=torch_input(boxes),
            input_masks=None if mask is None else torch.tensor(mask)[None, None],
            multimask_output=multimask,
        )
    logits, iou = jax.jit(partial(SAM1(config).apply, multimask=multimask, method="decode"))(
        {"params": params},
        features[1],
        where,
        labels,
        boxes=boxes,
        masks=None if mask is None else np.broadcast_to(mask, (PROMPTS, side, side)),
    )
    assert_close("logits", logits, wanted.pred_masks[0])
    assert_close("iou", iou, wanted.iou_scores[0])


# transformers' names -> those of the published .pth files, first match of each line, in order.
RENAMES = (
    (r"^shared_image_embedding", "prompt_encoder.pe_layer"),
    (r"positional_embedding", "positional_encoding_gaussian_matrix"),
    (r"^vision_encoder\.layers", "image_encoder.blocks"),
    (r"^vision_encoder", "image_encoder"),
    (r"patch_embed\.projection", "patch_embed.proj"),
    (r"neck\.conv1", "neck.0"),
    (r"neck\.layer_norm1", "neck.1"),
    (r"neck\.conv2", "neck.2"),
    (r"neck\.layer_norm2", "neck.3"),
    (r"layer_norm_final_attn", "norm_final_attn"),
    (r"(blocks|layers)\.(\d+)\.layer_norm", r"\1.\2.norm"),
    (r"(mlps\.\d|head)\.proj_out", r"\1.layers.2"),
    (r"(mlps\.\d|head)\.layers\.0", r"\1.layers.1"),
    (r"(mlps\.\d|head)\.proj_in", r"\1.layers.0"),
    (r"point_embed\.(\d)", r"point_embeddings.\1"),
    (r"mask_embed\.conv1", "mask_downscaling.0"),
    (r"mask_embed\.layer_norm1", "mask_downscaling.1"),
    (r"mask_embed\.conv2", "mask_downscaling.3"),
    (r"mask_embed\.layer_norm2", "mask_downscaling.4"),
    (r"mask_embed\.conv3", "mask_downscaling.6"),
    (r"upscale_conv1", "output_upscaling.0"),
    (r"upscale_layer_norm", "output_upscaling.1"),
    (r"upscale_conv2", "output_upscaling.3"),
)  # fmt: skip


def original_names(state: dict) -> dict:
    renamed = {"pixel_mean": np.zeros((3, 1, 1), np.float32), "pixel_std": np.ones((3, 1, 1), np.float32)}
    for name, tensor in state.items():
        if name == "prompt_encoder.shared_embedding.positional_embedding":
            continue
        for pattern, replacement in RENAMES:
            name = re.sub(pattern, replacement, name, count=1)
        renamed[name] = tensor
    return renamed


def test_both_layouts_give_the_same_parameters(pair, tmp_path):
    model, config, params = pair
    tensors = original_names({name: tensor.numpy() for name, tensor in model.state_dict().items()})
    save_file({name: np.ascontiguousarray(x) for name, x in tensors.items()}, tmp_path / "sam.safetensors")
    state = load_file(tmp_path / "sam.safetensors")
    json_parts = {"mask_decoder_config": {"num_attention_heads": config.decoder_heads}}
    shapes = {name: x.shape for name, x in state.items()}
    assert config_from_shapes(shapes, "original", json_parts) == config
    jax.tree.map(np.testing.assert_array_equal, convert_state_dict("sam1", state, config), params)


@pytest.mark.parametrize(("height", "width"), [(2, 1), (400, 10), (90, 133), (64, 64), (300, 200)])
def test_preprocessing_is_pillows_resize_and_padding(height, width):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    processor = SamImageProcessorPil(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64})
    wanted = processor(images=image, return_tensors="np")
    got = np.asarray(jax.jit(preprocess, static_argnums=1)(image[None], 64))
    levels = np.abs(got - wanted["pixel_values"].transpose(0, 2, 3, 1)) * 58
    assert levels.max() < 1.1  # one grey level, and that only where Pillow's fixed point lies between two
    assert (levels > 0.01).mean() < 0.01


@pytest.mark.slow
def test_the_published_widths_on_a_photo():
    model = random_torch_model(VIT_B_SHALLOW)
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    params = {"params": jax.device_put(convert_state_dict("sam1", state, VIT_B_SHALLOW))}
    points = np.array([[[200.0, 300.0]], [[700.0, 512.0]]], np.float32)
    labels = np.ones((2, 1), np.int32)

    @jax.jit
    def run(params, photos, points, labels):
        image, apply = preprocess(photos, VIT_B_SHALLOW.image_size), SAM1(VIT_B_SHALLOW).apply
        features = apply(params, image, method="encode")
        masks = apply(params, features[0], points, labels, multimask=True, method="decode")
        return image, features, masks

    image, features, (logits, iou) = run(params, astronaut()[None], points, labels)
    with torch.inference_mode():
        wanted_map = model.get_image_embeddings(torch.tensor(np.asarray(image)).permute(0, 3, 1, 2))
        wanted = model(
            image_embeddings=wanted_map,
            input_points=torch.tensor(points)[None],
            input_labels=torch.tensor(labels)[None].long(),
        )
    assert_close("map", features, wanted_map.permute(0, 2, 3, 1))
    assert_close("mask logits", logits, wanted.pred_masks[0])
    assert_close("predicted IoU", iou, wanted.iou_scores[0])
