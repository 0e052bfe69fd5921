"""What conversion says of files that are not what they were given as, and of models that could not be used."""

import json

import jax
import numpy as np
import pytest
from published import (
    CLIP,
    DINO,
    dino_as_transformers,
    dino_shapes,
    open_clip_shapes,
    published_shapes,
    random_tensors,
)
from safetensors.numpy import save_file
from small_models import EOMT, write_vocabulary

from corrclip_jax.config import with_fields
from corrclip_jax.conversion.convert import convert, convert_folder
from corrclip_jax.conversion.families import convert_state_dict, describe, detect
from corrclip_jax.conversion.find import find
from corrclip_jax.conversion.published import published_models
from corrclip_jax.conversion.readers import open_checkpoint
from corrclip_jax.conversion.rules import ConversionError
from corrclip_jax.conversion.tables import eomt
from corrclip_jax.method.branches import spatial_layers
from corrclip_jax.params.model_folder import read

CLIP_TENSORS = random_tensors(open_clip_shapes(CLIP))
DINO_TENSORS = random_tensors(dino_shapes(DINO))


@pytest.fixture
def files(tmp_path):
    paths = {family: tmp_path / f"{family}.safetensors" for family in ("clip", "dino")}
    save_file(CLIP_TENSORS, paths["clip"])
    save_file(DINO_TENSORS, paths["dino"])
    return paths


def assert_same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(np.testing.assert_array_equal, left, right)


def refusal(run, *args, **options) -> str:
    with pytest.raises(ConversionError) as caught:
        run(*args, **options)
    return str(caught.value)


# --- what the files are ---


def test_swapped_checkpoints_are_both_named(files, tmp_path):
    message = refusal(
        convert, {"clip": files["dino"], "dino": files["clip"]}, tmp_path / "out", quick_gelu=True
    )
    assert (
        "dino.safetensors must be CLIP. It looks like DINO (original layout). Give it as dino instead."
        in message
    )
    assert (
        "clip.safetensors must be DINO. It looks like CLIP (open_clip layout). Give it as clip instead."
        in message
    )
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_family_is_described(files, tmp_path):
    (tmp_path / "repository").mkdir()
    files["dino"].rename(tmp_path / "repository" / "model.safetensors")
    message = refusal(find, tmp_path / "repository", "clip")
    assert "No checkpoint of CLIP" in message
    assert "model.safetensors looks like DINO (original layout)" in message


@pytest.mark.parametrize(
    "name",
    [
        "base_model.model.vision_model.encoder.layers.0.self_attn.q_proj.lora_A.weight",
        "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
        "vision_model.encoder.layers.0.self_attn.q_proj.base_layer.weight",
    ],
)
def test_an_adapter_is_told_with_what_to_do(tmp_path, name):
    save_file({name: np.zeros((2, 3), np.float32)}, tmp_path / "adapter_model.safetensors")
    message = refusal(find, tmp_path / "adapter_model.safetensors", "clip")
    assert "an adapter (LoRA)" in message
    assert "merge_and_unload" in message
    save_file(CLIP_TENSORS | {name: np.zeros((2, 3), np.float32)}, tmp_path / "both.safetensors")
    assert "an adapter (LoRA)" in refusal(find, tmp_path / "both.safetensors", "clip")


def test_differences_from_dinov3_are_told_with_where_the_whole_network_is():
    names = [*published_shapes("eomt", EOMT, "original"), "network.encoder.backbone.patch_embed.cls_token"]
    assert detect(names) is None
    assert "differences from DINOv3's weights" in describe(names)
    assert published_models()["eomt/dinov3-vit-large"].repository in describe(names)


@pytest.mark.parametrize(
    ("content", "words"), [(b"GGUF\x03\x00", "a GGUF file"), (b"\x89HDF\r\n", "an HDF5 file")]
)
def test_files_of_other_programs_are_named(tmp_path, content, words):
    (tmp_path / "model.bin").write_bytes(content + bytes(100))
    assert words in refusal(open_checkpoint, tmp_path / "model.bin")


# --- prefixes ---


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "module.backbone."])
def test_prefixes_of_wrappers_are_taken_off_everywhere(tmp_path, prefix):
    wrapped = {prefix + name: tensor for name, tensor in DINO_TENSORS.items()}
    wanted = convert_state_dict("dino", DINO_TENSORS, DINO)
    assert_same(convert_state_dict("dino", wrapped, DINO), wanted)
    save_file(wrapped, tmp_path / "1.safetensors")
    assert_same(convert_state_dict("dino", find(tmp_path / "1.safetensors", "dino").checkpoint, DINO), wanted)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(wrapped, "1.safetensors")}))
    assert_same(convert_state_dict("dino", find(index, "dino").checkpoint, DINO), wanted)


# --- names ---


def test_missing_tensors_have_the_names_and_the_spelling_of_the_file():
    files_names = dino_as_transformers(DINO_TENSORS, DINO)
    renamed = {"encoder.layer.": "layers.", "attention.attention.query": "attention.q_proj"}
    renamed |= {
        "attention.attention.key": "attention.k_proj",
        "attention.attention.value": "attention.v_proj",
    }
    models_names = {}
    for name, tensor in files_names.items():
        for old, new in renamed.items():
            name = name.replace(old, new)
        models_names[name] = tensor
    eomt_names = random_tensors(published_shapes("eomt", EOMT, "original"))
    for family, config, tensors, name in (
        ("dino", DINO, files_names, "encoder.layer.1.attention.attention.query.bias"),
        ("dino", DINO, models_names, "layers.1.attention.q_proj.bias"),
        ("clip", CLIP, CLIP_TENSORS, "visual.transformer.resblocks.2.attn.in_proj_weight"),
        ("eomt", EOMT, eomt_names, "network.upscale.0.norm.weight"),
    ):
        with pytest.raises(ConversionError) as caught:
            convert_state_dict(family, {key: x for key, x in tensors.items() if key != name}, config)
        assert caught.value.faults["missing"] == (name,)


# --- models that can be used ---


def test_a_shallow_tower_converts_to_a_model_that_runs(files, tmp_path):
    lines: list[str] = []
    out = convert(files, tmp_path / "out", quick_gelu=True, report=lines.append)
    config, _ = read(out)
    assert config.clip.vision.layers == 3
    assert spatial_layers(config) == 1
    assert lines[1] == "CLIP's image tower has 3 blocks only: the spatial branch takes 1 of them."


def test_a_tower_that_is_too_shallow_is_refused_before_the_work(files, tmp_path):
    shallow = with_fields(CLIP, vision={"layers": 2})
    save_file(random_tensors(open_clip_shapes(shallow)), files["clip"])
    message = refusal(convert, files, tmp_path / "out", quick_gelu=True)
    assert "CLIP's image tower has 2 blocks, the method needs 3 or more" in message
    assert not (tmp_path / "out").exists()


def test_a_missing_vocabulary_is_said_before_the_work(files, tmp_path):
    lines: list[str] = []
    convert(files, tmp_path / "out", quick_gelu=True, report=lines.append)
    said = next(i for i, line in enumerate(lines) if "No CLIP vocabulary" in line)
    assert said < next(i for i, line in enumerate(lines) if line.startswith("Converting"))


def test_a_vocabulary_of_another_clip_is_refused(files, tmp_path):
    small = with_fields(CLIP, text={"vocab_size": 96})
    save_file(random_tensors(open_clip_shapes(small)), files["clip"])
    write_vocabulary(tmp_path)
    message = refusal(convert_folder, tmp_path, tmp_path / "out" / "model", quick_gelu=True)
    assert "has 521 tokens, the CLIP's text tower knows 96" in message
    assert not (tmp_path / "out").exists()


def test_a_spare_vocabulary_is_taken_where_it_fits(files, tmp_path):
    (tmp_path / "spare").mkdir()
    spare = write_vocabulary(tmp_path / "spare")
    out = convert(files, tmp_path / "out", quick_gelu=True, spare_vocabulary=spare)
    assert read(out)[0].vocabulary == str(out / "vocabulary")
    save_file(random_tensors(open_clip_shapes(with_fields(CLIP, text={"vocab_size": 96}))), files["clip"])
    out = convert(files, tmp_path / "other", quick_gelu=True, spare_vocabulary=spare)
    assert read(out)[0].vocabulary is None


def test_a_conversion_that_is_replaced_leaves_no_tree_of_the_old_one_and_all_of_others(files, tmp_path):
    out = convert(files, tmp_path / "out", quick_gelu=True)
    (out / "sam2").mkdir()
    (out / "notes.txt").write_text("mine")
    convert(files, out, quick_gelu=False, force=True)
    assert sorted(path.name for path in out.iterdir()) == ["clip", "corrclip.json", "dino", "notes.txt"]


# --- EoMT as its authors publish it ---


def test_both_layouts_of_eomt_give_one_tree():
    tensors = random_tensors(published_shapes("eomt", EOMT, "transformers"))
    assert detect(original_eomt(tensors)) == ("eomt", "original")
    assert_same(
        convert_state_dict("eomt", original_eomt(tensors), EOMT), convert_state_dict("eomt", tensors, EOMT)
    )
    shapes = {name: tensor.shape for name, tensor in original_eomt(tensors).items()}
    assert eomt.config_from_shapes(shapes, "original", {"num_attention_heads": EOMT.heads}) == EOMT


def original_eomt(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors of transformers' layout under the names of github.com/tue-mps/eomt, as its conversion pairs them."""
    backbone = "network.encoder.backbone"
    pairs = {
        "embeddings.cls_token": f"{backbone}.cls_token",
        "embeddings.register_tokens": f"{backbone}.reg_token",
        "query.weight": "network.q.weight",
        "attn_mask_probs": "network.attn_mask_probs",
    }
    modules = {
        "embeddings.patch_embeddings.projection": f"{backbone}.patch_embed.proj",
        "layernorm": f"{backbone}.norm",
        "class_predictor": "network.class_head",
        "mask_head.fc1": "network.mask_head.0",
        "mask_head.fc2": "network.mask_head.2",
        "mask_head.fc3": "network.mask_head.4",
    }
    for i in range(EOMT.upscale_blocks):
        for ours, theirs in (("conv1", "conv1"), ("conv2", "conv2"), ("layernorm2d", "norm")):
            modules[f"upscale_block.block.{i}.{ours}"] = f"network.upscale.{i}.{theirs}"
    original = {f"{backbone}.pos_embed": tensors["embeddings.position_embeddings.weight"][None]}
    for i in range(EOMT.layers):
        block = f"{backbone}.blocks.{i}"
        for name in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
            modules[f"layers.{i}.{name}"] = f"{block}.{name}"
        modules[f"layers.{i}.attention.out_proj"] = f"{block}.attn.proj"
        for n in (1, 2):
            pairs[f"layers.{i}.layer_scale{n}.lambda1"] = f"{block}.ls{n}.gamma"
        for kind in ("weight", "bias"):
            parts = [tensors[f"layers.{i}.attention.{part}_proj.{kind}"] for part in "qkv"]
            original[f"{block}.attn.qkv.{kind}"] = np.concatenate(parts)
    pairs |= {f"{a}.{kind}": f"{b}.{kind}" for a, b in modules.items() for kind in ("weight", "bias")}
    original |= {theirs: tensors[ours] for ours, theirs in pairs.items() if ours in tensors}
    constants = {name: np.zeros((1, 3, 1, 1), np.float32) for name in ("mean", "std")}
    return original | {f"network.encoder.pixel_{name}": value for name, value in constants.items()}
