"""Our SAM 2 against transformers', stage by stage, on random weights gone through a file and the conversion."""

import json
import re
from functools import partial

import jax
import numpy as np
import pytest
import torch
from parity.pairs import assert_close
from parity.sam_prompts import NOTHING, decodings
from reference.sam2 import random_sam2
from safetensors.numpy import load_file
from transformers import Sam2VideoConfig, Sam2VideoModel

from corrclip_jax.config import SAM2Config
from corrclip_jax.conversion.families import convert_state_dict
from corrclip_jax.conversion.tables.sam2 import config_from_shapes
from corrclip_jax.models.sam.hiera import Hiera
from corrclip_jax.models.sam.sam2 import SAM2, ImageFeatures

# Small, but with all that can go wrong: windows that do not fit their grids (before and after pooling), global
# blocks and none, head widths that are no power of two, a background that is not square.
CONFIGS = {
    "tiny": SAM2Config(
        image_size=128, width=24, heads=1, stages=(1, 2, 3, 1), global_blocks=(4,), window_sizes=(8, 4, 14, 7),
        embed_dim=64, decoder_heads=4, decoder_mlp_width=96,
    ),
    "odd-windows": SAM2Config(
        image_size=192, width=20, heads=2, stages=(2, 1, 2, 2), global_blocks=(), window_sizes=(8, 10, 10, 5),
        background_size=(5, 5), embed_dim=32, decoder_heads=8, decoder_mlp_width=64, mask_channels=8,
    ),
    "global": SAM2Config(
        image_size=96, width=16, heads=2, stages=(1, 1, 2, 2), global_blocks=(0, 3, 5), window_sizes=(6, 4, 4, 2),
        background_size=(3, 7), embed_dim=64, decoder_heads=2, decoder_mlp_width=128,
    ),
}  # fmt: skip
PROMPTS = 3


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request, tmp_path_factory):
    """The torch model, and our configuration and parameters read from its files alone."""
    folder = tmp_path_factory.mktemp(request.param)
    model = random_sam2(CONFIGS[request.param])
    model.save_pretrained(folder)
    state = load_file(folder / "model.safetensors")
    published = json.loads((folder / "config.json").read_text())
    config = config_from_shapes({name: x.shape for name, x in state.items()}, "transformers", published)
    assert config == CONFIGS[request.param]
    return model, config, jax.device_put(convert_state_dict("sam2", state, config))


@pytest.fixture(scope="module")
def features(pair):
    """Maps of two images, which both decoders are given: (torch's, ours)."""
    config, rng = pair[1], np.random.default_rng(2)
    size, width = config.embed_size, config.embed_dim
    shapes = [(size * 4, width // 8), (size * 2, width // 4), (size, width)]
    maps = [rng.standard_normal((2, side, side, c)).astype(np.float32) for side, c in shapes]
    ours = ImageFeatures(embed=maps[2], high0=maps[0], high1=maps[1])
    return [torch.tensor(x).permute(0, 3, 1, 2) for x in maps], ours


def channels_last(x: torch.Tensor) -> np.ndarray:
    return x.detach().permute(0, 2, 3, 1).numpy()


def test_the_trunks_four_stages_and_the_encoders_three_maps(pair):
    model, config, params = pair
    side = config.image_size
    images = np.random.default_rng(1).standard_normal((2, side, side, 3)).astype(np.float32)
    pixels = torch.tensor(images).permute(0, 3, 1, 2)
    with torch.no_grad():
        stages = model.vision_encoder.backbone(pixels).intermediate_hidden_states
        wanted = model.get_image_embeddings(pixels)
    encode = partial(
        SAM2(config).apply,
        method="encode",
        capture_intermediates=lambda module, _: isinstance(module, Hiera),
    )
    got, state = jax.jit(encode)({"params": params}, images)
    (trunk,) = state["intermediates"]["image_encoder"]["trunk"]["__call__"]
    for stage, (ours, theirs) in enumerate(zip(trunk, stages, strict=True)):
        assert_close(f"stage {stage}", ours, theirs)
    for name, theirs in zip(("high0", "high1", "embed"), wanted, strict=True):
        assert_close(name, getattr(got, name), channels_last(theirs))


@pytest.mark.parametrize(
    ("pair", "points", "with_boxes", "with_mask", "multimask"),
    decodings(CONFIGS, "tiny", nothing=NOTHING),
    indirect=["pair"],
)
def test_decoding(pair, features, points, with_boxes, with_mask, multimask):
    labels = np.array([[1, 0, -1, 1], [0, 1, 1, -1], [1, 1, 1, 1]], np.int32)[:, :points]
    if points == 0 and not with_boxes:  # to torch's, an empty prompt is a lone point with label -1
        points, labels = 1, np.full((PROMPTS, 1), -1, np.int32)
    model, config, params = pair
    rng = np.random.default_rng(3)
    where = (rng.random((PROMPTS, points, 2)) * config.image_size).astype(np.float32)
    corners = np.sort(rng.random((PROMPTS, 2, 2)) * config.image_size, axis=1).reshape(PROMPTS, 4)
    boxes = corners.astype(np.float32) if with_boxes else None
    side = 4 * config.embed_size
    mask = rng.standard_normal((side, side)).astype(np.float32) if with_mask else None

    def torch_input(x):
        return None if x is None else torch.tensor(x)[None]

    theirs, ours = features
    with torch.no_grad():
        wanted = model(
            image_embeddings=[x[1:] for x in theirs],
            input_points=torch_input(where) if points else None,
            input_labels=torch_input(labels).long() if points else None,
            input_boxes=torch_input(boxes),
            input_masks=None if mask is None else torch.tensor(mask)[None, None],
            multimask_output=multimask,
        )
    logits, iou = jax.jit(partial(SAM2(config).apply, multimask=multimask, method="decode"))(
        {"params": params},
        jax.tree.map(lambda x: x[1], ours),
        where,
        labels,
        boxes=boxes,
        masks=None if mask is None else np.broadcast_to(mask, (PROMPTS, side, side)),
    )
    assert_close("logits", logits, wanted.pred_masks[0])
    assert_close("iou", iou, wanted.iou_scores[0])


# transformers' names -> those of the published .pt files, first match of each line, in order.
RENAMES = (
    (r"^no_memory_embedding", "no_mem_embed"),
    (r"^shared_image_embedding", "prompt_encoder.pe_layer"),
    (r"positional_embedding", "positional_encoding_gaussian_matrix"),
    (r"^vision_encoder\.backbone", "image_encoder.trunk"),
    (r"^vision_encoder\.neck\.convs\.(\d)", r"image_encoder.neck.convs.\1.conv"),
    (r"^(prompt_encoder|mask_decoder)", r"sam_\1"),
    (r"patch_embed\.projection", "patch_embed.proj"),
    (r"layer_norm_final_attn", "norm_final_attn"),
    (r"(blocks|layers)\.(\d+)\.layer_norm", r"\1.\2.norm"),
    (r"o_proj", "out_proj"),
    (r"(mlps\.\d|head)\.proj_out", r"\1.layers.2"),
    (r"(mlps\.\d|head)\.layers\.0", r"\1.layers.1"),
    (r"proj_in", "layers.0"),
    (r"proj_out", "layers.1"),
    (r"mask_embed\.conv1", "mask_downscaling.0"),
    (r"mask_embed\.layer_norm1", "mask_downscaling.1"),
    (r"mask_embed\.conv2", "mask_downscaling.3"),
    (r"mask_embed\.layer_norm2", "mask_downscaling.4"),
    (r"mask_embed\.conv3", "mask_downscaling.6"),
    (r"upscale_conv1", "output_upscaling.0"),
    (r"upscale_layer_norm", "output_upscaling.1"),
    (r"upscale_conv2", "output_upscaling.3"),
)  # fmt: skip
VIDEO = (
    "maskmem_tpos_enc", "no_mem_pos_enc", "no_obj_ptr", "mask_downsample.weight", "memory_attention.norm.bias",
    "memory_encoder.fuser.layers.0.gamma", "obj_ptr_proj.layers.0.weight",
    "no_obj_embed_spatial", "obj_ptr_tpos_proj.weight",  # SAM 2.1
)  # fmt: skip


def original_names(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    renamed = {name: np.zeros(1, np.float32) for name in VIDEO}
    for name, tensor in state.items():
        if name == "prompt_encoder.shared_embedding.positional_embedding":
            continue
        for pattern, replacement in RENAMES:
            name = re.sub(pattern, replacement, name, count=1)
        if "point_embed.weight" in name and "not_a" not in name:
            rows = {f"sam_prompt_encoder.point_embeddings.{i}.weight": tensor[i : i + 1] for i in range(4)}
            renamed |= rows
        else:
            renamed[name] = tensor
    return renamed


def test_both_layouts_give_the_same_parameters(pair):
    model, config, params = pair
    state = original_names({name: tensor.numpy() for name, tensor in model.state_dict().items()})
    converted = convert_state_dict("sam2", state, config)
    jax.tree.map(np.testing.assert_array_equal, converted, params)


def test_video_models_are_read_without_what_serves_videos():
    config = CONFIGS["global"]
    video = Sam2VideoModel(Sam2VideoConfig(**random_sam2(config).config.to_dict()))
    state = {name: tensor.detach().numpy() for name, tensor in video.state_dict().items()}
    assert any(name.startswith("memory_attention") for name in state)
    tree = convert_state_dict("sam2", state, config)
    assert set(tree) == {"image_encoder", "no_mem_embed", "sam_mask_decoder", "sam_prompt_encoder"}
