"""Which file of a folder is which."""

import json

import numpy as np
import pytest
import torch
from published import CLIP, DINO, clip_as_transformers, dino_shapes, open_clip_shapes, random_tensors
from safetensors.numpy import save_file

from corrclip_jax.config.regions import source_family, takes_points
from corrclip_jax.conversion.families import FAMILIES
from corrclip_jax.conversion.find import checkpoint_files, find, find_all, find_vocabulary, published_beside
from corrclip_jax.conversion.published import (
    preset_models,
    published_models,
    recognise,
    region_models,
    source_or_folder,
)
from corrclip_jax.conversion.rules import ConversionError

CLIP_TENSORS = random_tensors(open_clip_shapes(CLIP))
DINO_TENSORS = random_tensors(dino_shapes(DINO))


def save_pickle(tensors, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({name: torch.from_numpy(np.asarray(x)) for name, x in tensors.items()}, path)


def refusal(*args) -> str:
    with pytest.raises(ConversionError) as caught:
        find_all(*args)
    return str(caught.value)


def test_a_repository_gives_the_file_of_the_family_asked_for(tmp_path):
    # timm's repositories hold the image tower alone under the usual name, both towers under another.
    save_file(DINO_TENSORS | {"norm_pre.weight": np.zeros(64, np.float32)}, tmp_path / "model.safetensors")
    save_file(CLIP_TENSORS, tmp_path / "open_clip_model.safetensors")
    assert find(tmp_path, "clip").path.name == "open_clip_model.safetensors"
    with pytest.raises(ConversionError, match=r"(?s)No checkpoint of DINO in .*lacks the text tower"):
        find(tmp_path, "dino")


def test_of_one_model_in_several_forms_one_is_taken(tmp_path):
    save_pickle(CLIP_TENSORS, tmp_path / "open_clip_pytorch_model.bin")
    save_file(clip_as_transformers(CLIP_TENSORS, CLIP), tmp_path / "model.safetensors")
    assert find(tmp_path, "clip").path.name == "model.safetensors"  # before a pickle
    save_file(CLIP_TENSORS, tmp_path / "open_clip_model.safetensors")
    found = find(tmp_path, "clip")
    assert (found.path.name, found.layout) == ("open_clip_model.safetensors", "open_clip")


def test_two_models_of_one_family_are_ambiguous(tmp_path):
    save_file(CLIP_TENSORS, tmp_path / "a.safetensors")
    save_file(CLIP_TENSORS, tmp_path / "b.safetensors")
    with pytest.raises(
        ConversionError, match=r"Several checkpoints of CLIP: .*a\.safetensors, .*b\.safetensors"
    ):
        find(tmp_path, "clip")


def test_files_are_told_apart_by_content(tmp_path):
    save_file(CLIP_TENSORS, tmp_path / "one.safetensors")
    save_pickle(DINO_TENSORS, tmp_path / "deeper" / "down" / "two.bin")
    found = find_all(tmp_path, ("clip", "dino"), ("sam2",))
    assert {family: one.path.name for family, one in found.items()} == {
        "clip": "one.safetensors",
        "dino": "two.bin",
    }


def test_what_is_missing_is_said_with_what_was_found(tmp_path):
    (tmp_path / "broken.safetensors").write_bytes(b"<html>")
    save_file({"fc.weight": np.zeros(3, np.float32)}, tmp_path / "classifier.safetensors")
    message = refusal(tmp_path, ("clip", "dino"))
    assert "No checkpoint of CLIP and DINO" in message
    assert "web page" in message
    assert "fc.weight" in message
    (tmp_path / "empty").mkdir()
    assert "no other checkpoint" in refusal(tmp_path / "empty", ("clip",))


def test_shards_count_as_one_file(tmp_path):
    save_file(CLIP_TENSORS, tmp_path / "model-00001-of-00001.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(
        json.dumps({"weight_map": dict.fromkeys(CLIP_TENSORS, "model-00001-of-00001.safetensors")})
    )
    assert checkpoint_files(tmp_path) == [index]
    assert find(tmp_path, "clip").path == index


def test_a_file_or_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConversionError, match=r"There is no checkpoint .*nowhere"):
        find(tmp_path / "nowhere", "clip")


def test_a_config_counts_for_its_own_family(tmp_path):
    save_file(clip_as_transformers(CLIP_TENSORS, CLIP), tmp_path / "clip.safetensors")
    found = find(tmp_path / "clip.safetensors", "clip")
    assert published_beside(found) == {}
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    assert published_beside(found) == {}
    (tmp_path / "config.json").write_text('{"model_type": "clip", "projection_dim": 24}')
    assert published_beside(found)["projection_dim"] == 24
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConversionError, match=r"config\.json is no JSON object"):
        published_beside(found)


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json", "clip_bpe_simple_vocab_16e6.txt.gz"])
def test_the_first_folder_with_a_vocabulary_is_taken(tmp_path, name):
    (tmp_path / "with").mkdir()
    (tmp_path / "with" / name).touch()
    assert find_vocabulary(tmp_path) is None
    assert find_vocabulary(tmp_path, tmp_path / "with") == tmp_path / "with"


# --- the register ---


def test_the_register_is_complete():
    for key, entry in published_models().items():
        assert entry.family in FAMILIES, key
        assert entry.licence, key
        assert entry.megabytes > 1, key
        assert entry.repositories and all(place.files for place in entry.repositories), key
        assert (entry.quick_gelu is not None) == (entry.head_width is not None) == (entry.family == "clip"), (
            key
        )
    assert set(preset_models("vit-b")) == {"clip", "dino", "sam2"}
    for name, entry in region_models().items():
        assert source_family(name) == entry.family, name
        assert takes_points(name) == entry.family.startswith("sam"), name


def test_regions_are_a_source_or_a_folder_of_maps(tmp_path):
    (tmp_path / "sam2-maps").mkdir()
    assert source_or_folder("sam2.1-t") == ("sam2.1-t", None)
    assert source_or_folder("truth", also=("truth",)) == ("truth", None)
    for folder in (tmp_path / "sam2-maps", str(tmp_path / "sam2-maps")):
        assert source_or_folder(folder) == ("none", tmp_path / "sam2-maps")
    with pytest.raises(
        ValueError, match=r"--regions must be one of sam2, .*'truht' is no folder.*mean truth\?"
    ):
        source_or_folder("truht", name="--regions", also=("truth",))


def test_safetensors_come_before_pickles_in_the_register():
    for entry in published_models().values():
        for place in entry.repositories:
            pickles = [not name.endswith(".safetensors") for name in place.files]
            assert pickles == sorted(pickles), place


def test_a_published_file_is_recognised_by_its_place(tmp_path):
    by_hand = tmp_path / "facebook/metaclip-l14-fullcc2.5b/model.safetensors"
    cached = (
        tmp_path / "models--laion--CLIP-ViT-H-14-laion2B-s32B-b79K/snapshots/0/open_clip_model.safetensors"
    )
    assert recognise(by_hand) == published_models()["clip/metaclip-l14"]
    assert recognise(cached) == published_models()["clip/laion-h14"]
    assert recognise(tmp_path / "dino_vitbase8_pretrain.pth") == published_models()["dino/vitb8"]
    assert recognise(tmp_path / "model.safetensors") is None
