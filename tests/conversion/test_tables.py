"""CLIP's and DINO's tables and configurations, on both layouts of each."""

import dataclasses
import math

import jax
import numpy as np
import pytest
import torch
from published import (
    CLIP,
    DINO,
    clip_as_transformers,
    dino_as_transformers,
    dino_shapes,
    open_clip_shapes,
    random_tensors,
)
from transformers import CLIPConfig as TorchCLIPConfig
from transformers import CLIPModel, ViTConfig, ViTModel

from corrclip_jax.conversion.families import convert_state_dict, detect
from corrclip_jax.conversion.rules import ConversionError
from corrclip_jax.conversion.tables import clip, dino
from corrclip_jax.hub.presets import PRESETS
from corrclip_jax.params.structure import expected_network
from corrclip_jax.params.trees import shapes_by_path

CLIP_TENSORS = random_tensors(open_clip_shapes(CLIP))
DINO_TENSORS = random_tensors(dino_shapes(DINO))


def assert_same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(np.testing.assert_array_equal, left, right)


def shapes(tensors) -> dict:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def test_both_layouts_of_clip_give_one_tree():
    published = convert_state_dict("clip", CLIP_TENSORS, CLIP)
    assert_same(published, convert_state_dict("clip", clip_as_transformers(CLIP_TENSORS, CLIP), CLIP))


def test_both_layouts_of_dino_give_one_tree():
    published = convert_state_dict("dino", DINO_TENSORS, DINO)
    assert_same(published, convert_state_dict("dino", dino_as_transformers(DINO_TENSORS, DINO), DINO))


def test_of_dinos_last_block_only_query_and_key_are_kept():
    last = convert_state_dict("dino", DINO_TENSORS, DINO)["blocks_2"]
    assert set(last) == {"norm1", "attn"}
    assert set(last["attn"]) == {"query", "key"}
    qkv = DINO_TENSORS["blocks.2.attn.qkv.weight"]
    np.testing.assert_array_equal(last["attn"]["key"]["kernel"], qkv[64:128].T)


def test_constants_and_heads_that_some_files_carry_are_ignored():
    more = {"attn_mask": np.zeros((12, 12)), "context_length": np.int64(12), "input_resolution": np.int64(32)}
    assert_same(
        convert_state_dict("clip", CLIP_TENSORS | more, CLIP), convert_state_dict("clip", CLIP_TENSORS, CLIP)
    )
    renamed = clip_as_transformers(CLIP_TENSORS, CLIP)
    renamed["text_model.embeddings.position_ids"] = np.arange(12)[None]
    convert_state_dict("clip", renamed, CLIP)
    convert_state_dict("dino", DINO_TENSORS | {"head.mlp.0.weight": np.zeros((3, 64))}, DINO)
    renamed = dino_as_transformers(DINO_TENSORS, DINO)
    convert_state_dict("dino", renamed | {"pooler.dense.weight": np.zeros((64, 64))}, DINO)


def test_clip_as_transformers_saves_it_and_holds_it(tmp_path):
    part = {"num_attention_heads": 1, "intermediate_size": 256, "hidden_size": 64}
    model = CLIPModel(
        TorchCLIPConfig(
            text_config=part
            | {"num_hidden_layers": 2, "vocab_size": 521, "max_position_embeddings": 12, "eos_token_id": 520,
               "bos_token_id": 519},
            vision_config=part | {"num_hidden_layers": 3, "image_size": 32, "patch_size": 8},
            projection_dim=24,
        )
    )  # fmt: skip
    convert_state_dict("clip", model.state_dict(), CLIP)
    assert set(clip_as_transformers(CLIP_TENSORS, CLIP)) == set(model.state_dict())


def test_dino_as_transformers_saves_it_and_holds_it(tmp_path):
    config = ViTConfig(
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=1,
        intermediate_size=256,
        image_size=32,
        patch_size=8,
    )
    model = ViTModel(config)
    model.save_pretrained(tmp_path)
    from safetensors.numpy import load_file

    saved = load_file(tmp_path / "model.safetensors")
    assert set(saved) - {"pooler.dense.weight", "pooler.dense.bias"} == set(
        dino_as_transformers(DINO_TENSORS, DINO)
    )
    # Since version 5 the model in memory has other names than its files.
    assert_same(convert_state_dict("dino", saved, DINO), convert_state_dict("dino", model.state_dict(), DINO))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype):
    halves = {name: torch.from_numpy(x).to(dtype) for name, x in DINO_TENSORS.items()}
    tree = convert_state_dict("dino", halves, DINO)
    assert {leaf.dtype for leaf in jax.tree.leaves(tree)} == {np.dtype(np.float32)}
    np.testing.assert_allclose(tree["pos_embed"], DINO_TENSORS["pos_embed"], rtol=1e-2)


def test_a_fault_is_named_with_all_others():
    broken = dict(CLIP_TENSORS)
    del broken["visual.proj"], broken["transformer.resblocks.1.ln_1.bias"]
    broken["visual.surplus"] = np.zeros(3, np.float32)
    broken["visual.conv1.weight"] = np.zeros((64, 3, 4, 4), np.float32)
    with pytest.raises(ConversionError) as caught:
        convert_state_dict("clip", broken, CLIP)
    for name in (
        "CLIP that the file lacks (2):",
        "transformer.resblocks.1.ln_1.bias",
        "visual.proj",
        "visual.surplus",
        "visual.conv1.weight (64, 3, 4, 4): wanted visual/conv1/kernel (8, 8, 3, 64). Got (4, 4, 3, 64).",
    ):
        assert name in str(caught.value)


def test_a_file_of_another_family_is_told_by_its_name():
    with pytest.raises(
        ConversionError, match=r"must be CLIP. It looks like DINO \(original layout\). Give it as dino"
    ):
        convert_state_dict("clip", DINO_TENSORS, CLIP)
    with pytest.raises(ConversionError, match=r"The file looks like DINO \(original layout\)"):
        convert_state_dict("clip", DINO_TENSORS, CLIP, layout="open_clip")
    with pytest.raises(ConversionError, match=r"must be DINO\. It looks like DINOv2"):
        convert_state_dict("dino", DINO_TENSORS | {"blocks.0.ls1.gamma": np.zeros(64)}, DINO)
    with pytest.raises(ConversionError, match="lacks the text tower"):
        convert_state_dict("clip", DINO_TENSORS | {"norm_pre.weight": np.zeros(64)}, CLIP)
    with pytest.raises(ConversionError, match=r"no model known here; its tensors are layer\.\{0-4\}\.weight"):
        convert_state_dict("clip", {f"layer.{i}.weight": np.zeros(1) for i in range(5)}, CLIP)
    assert detect(["fc.weight"]) is None


# --- configurations ---


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_shapes_of_published_sizes_show_their_configuration(name):
    config = PRESETS[name]
    assert (
        clip.config_from_shapes(open_clip_shapes(config.clip), "open_clip", {}, config.clip.quick_gelu)
        == config.clip
    )
    if config.dino is not None:
        assert dino.config_from_shapes(dino_shapes(config.dino), "original", {}) == config.dino


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("vit-b", 149_620_737), ("vit-l", 427_616_513), ("vit-h", 986_109_441)],
)
def test_published_sizes_have_the_published_number_of_parameters(name, parameters):
    shapes = shapes_by_path(expected_network(PRESETS[name].clip))
    assert sum(math.prod(shape) for shape in shapes.values()) == parameters
    assert sum(math.prod(shape) for shape in open_clip_shapes(PRESETS[name].clip).values()) == parameters


def test_both_layouts_show_one_configuration():
    renamed = shapes(clip_as_transformers(CLIP_TENSORS, CLIP))
    assert clip.config_from_shapes(renamed, "transformers", {}, True) == CLIP
    assert (
        dino.config_from_shapes(shapes(dino_as_transformers(DINO_TENSORS, DINO)), "transformers", {}) == DINO
    )


def test_an_mlp_of_any_width_is_restored_exactly():
    odd = dataclasses.replace(
        CLIP, vision=dataclasses.replace(CLIP.vision, width=1408, layers=1, head_width=88)
    )
    wide = open_clip_shapes(odd) | {"visual.transformer.resblocks.0.mlp.c_fc.weight": (6144, 1408)}
    config = clip.config_from_shapes(wide, "open_clip", {"model_cfg": {"vision_cfg": {"head_width": 88}}})
    assert int(config.vision.width * config.vision.mlp_ratio) == 6144


def test_what_is_published_beside_the_file_decides_heads_and_activation():
    open_clip = {
        "model_cfg": {"quick_gelu": True, "vision_cfg": {"head_width": 16}, "text_cfg": {"heads": 2}}
    }
    config = clip.config_from_shapes(open_clip_shapes(CLIP), "open_clip", open_clip)
    assert (config.quick_gelu, config.vision.head_width, config.text.heads) == (True, 16, 2)
    # open_clip's own default is the exact GELU.
    assert not clip.config_from_shapes(open_clip_shapes(CLIP), "open_clip", {"model_cfg": {}}).quick_gelu

    renamed = shapes(clip_as_transformers(CLIP_TENSORS, CLIP))
    part = {"hidden_act": "gelu", "num_attention_heads": 4}
    published = {"vision_config": part, "text_config": part}
    config = clip.config_from_shapes(renamed, "transformers", published)
    assert (config.quick_gelu, config.vision.head_width, config.text.heads) == (False, 16, 4)
    assert clip.config_from_shapes(renamed, "transformers", published, quick_gelu=True).quick_gelu
    assert dino.config_from_shapes(dino_shapes(DINO), "original", {"num_attention_heads": 4}).heads == 4


def test_an_activation_that_nothing_tells_is_asked_for():
    with pytest.raises(ConversionError, match=r"quick_gelu=True.*OpenAI, MetaCLIP or DFN.*LAION"):
        clip.config_from_shapes(open_clip_shapes(CLIP), "open_clip", {})
    mixed = {"vision_config": {"hidden_act": "gelu"}, "text_config": {"hidden_act": "quick_gelu"}}
    with pytest.raises(ConversionError, match="gelu and quick_gelu; CLIP here has one"):
        clip.config_from_shapes(shapes(clip_as_transformers(CLIP_TENSORS, CLIP)), "transformers", mixed)


def test_heads_that_cannot_be_told_are_asked_for():
    odd = dataclasses.replace(DINO, width=48)
    with pytest.raises(ConversionError, match="DINO is 48 wide, no multiple of 64"):
        dino.config_from_shapes(dino_shapes(odd), "original", {})


def test_a_deciding_tensor_that_is_missing_or_misshapen_is_named():
    for surplus in ({}, {"visual.conv1.weight": (64, 3)}):
        rest = {k: v for k, v in open_clip_shapes(CLIP).items() if k != "visual.conv1.weight"}
        with pytest.raises(ConversionError, match=r"visual\.conv1\.weight, which shows the model's size"):
            clip.config_from_shapes(rest | surplus, "open_clip", {}, True)
    with pytest.raises(ConversionError, match="no transformer block"):
        dino.config_from_shapes({"patch_embed.proj.weight": (64, 3, 8, 8)}, "original", {})
