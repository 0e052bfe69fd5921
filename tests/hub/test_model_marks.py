"""Marks of models: what a result depends on changes them, and nothing else does."""

import json
import shutil

import pytest
from safetensors.numpy import load_file, save_file
from small_models import small_model

from corrclip_jax.conversion.published import preset_models
from corrclip_jax.hub.home import published_place
from corrclip_jax.hub.model_marks import clip_marks, model_mark
from corrclip_jax.hub.presets import load


def test_the_weights_vocabulary_and_configuration_of_a_folder_count(tmp_path):
    folder = small_model(tmp_path)
    marks = [model_mark(str(folder), "sam2")]
    assert model_mark(str(folder), "sam2") == marks[0]
    moved = shutil.copytree(folder, tmp_path / "elsewhere" / "small")
    assert model_mark(str(moved), "sam2") == marks[0]
    small_model(tmp_path, seed=1)
    marks.append(model_mark(str(folder), "sam2"))
    [vocabulary] = (folder / "vocabulary").iterdir()
    vocabulary.write_bytes(vocabulary.read_bytes() + b" ")
    marks.append(model_mark(str(folder), "sam2"))
    content = json.loads((folder / "corrclip.json").read_text())
    content["config"]["method"]["logit_scale"] += 1
    (folder / "corrclip.json").write_text(json.dumps(content))
    marks.append(model_mark(str(folder), "sam2"))
    assert len(set(marks)) == 4


def test_networks_that_are_not_used_do_not_count(tmp_path):
    folder = small_model(tmp_path)
    sources = {"whole": ("sam2", False), "none": ("slic", False), "alone": ("sam2", True)}

    def kept_after(network):
        marks = []
        for _ in range(2):
            marks.append(
                {key: model_mark(str(folder), one, alone=alone) for key, (one, alone) in sources.items()}
            )
            (folder / network / "more").write_text("more")
        return [key for key in sources if marks[0][key] == marks[1][key]]

    assert kept_after("sam2") == ["none"]
    assert kept_after("clip") == ["alone"]


def test_every_byte_of_checkpoints_counts_at_equal_sizes(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"1234")
    before = model_mark(str(tmp_path), "none")
    (tmp_path / "a.safetensors").write_bytes(b"1235")
    assert model_mark(str(tmp_path), "none") != before


def test_what_is_no_model_is_left_to_loading(tmp_path):
    assert model_mark("vit-x", "none") == "vit-x"
    folder = small_model(tmp_path, sam2=False)
    assert model_mark(str(folder), "sam2") == "small damaged"
    (folder / "corrclip.json").write_text("{")
    assert model_mark(str(folder), "none") == "small damaged"


@pytest.mark.usefixtures("hub", "small_presets")
def test_a_model_with_a_name_has_one_mark_before_and_after_it_is_loaded(home):
    before = model_mark("vit-b", "sam2"), model_mark("vit-b", "none"), clip_marks({"more": "vit-b"})
    load("vit-b")
    shutil.rmtree(home)  # another download and conversion of the same files
    assert (model_mark("vit-b", "sam2"), model_mark("vit-b", "none"), clip_marks({"more": "vit-b"})) == before
    assert before[0] != before[1]


@pytest.mark.usefixtures("small_presets")
def test_other_published_files_change_the_mark_of_a_name(hub, home):
    one = preset_models("vit-b")["sam2"]
    before = model_mark("vit-b", "sam2", alone=True), model_mark("vit-b", "none")
    assert not (home / "converted" / "vit-b").exists()
    shutil.rmtree(home)
    content = hub.repositories[one.repository][one.file]
    place = published_place(one.repository)
    place.mkdir(parents=True)
    (place / "given.safetensors").write_bytes(content)
    tensors = load_file(place / "given.safetensors")
    first = min(tensors)
    save_file(tensors | {first: tensors[first] + 1}, place / one.file)
    (place / "given.safetensors").unlink()
    assert model_mark("vit-b", "sam2", alone=True) != before[0]
    assert model_mark("vit-b", "none") == before[1]
