"""`load`: presets and folders, converted once, with and without a network."""

import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np
import pytest
from published import CLIP, DINO, dino_as_transformers, dino_shapes, open_clip_shapes, random_tensors
from safetensors.numpy import save_file
from small_models import small_model, write_vocabulary

from corrclip_jax.cli.shared.options import MODELS, model_names
from corrclip_jax.config import Config
from corrclip_jax.conversion.published import preset_models
from corrclip_jax.conversion.rules import ConversionError
from corrclip_jax.hub import home as place_of_weights
from corrclip_jax.hub import parts as parts_module
from corrclip_jax.hub import presets
from corrclip_jax.hub.embedded import EMBEDDED, EMBEDDED_FOLDER, EMBEDDED_V2
from corrclip_jax.hub.home import weights_home
from corrclip_jax.hub.presets import PRESETS, available_models, load
from corrclip_jax.io.disk import readable
from corrclip_jax.params.structure import expected_params

README = Path(__file__).parents[2] / "README.md"
CLIP_TENSORS = random_tensors(open_clip_shapes(CLIP))
DINO_TENSORS = random_tensors(dino_shapes(DINO))


@pytest.fixture
def small_preset(monkeypatch) -> str:
    """ "vit-b" at a size for tests, without SAM 2."""
    monkeypatch.setitem(presets.PRESETS, "vit-b", Config(name="vit-b", clip=CLIP, dino=DINO, sam2=None))
    parts = {family: part for family, part in preset_models("vit-b").items() if family != "sam2"}
    monkeypatch.setattr(presets, "preset_models", lambda name: parts)
    return "vit-b"


def conversions(home: Path) -> list[str]:
    """The names of what is converted; locks are hidden."""
    return [path.name for path in (home / "converted").iterdir() if not path.name.startswith(".")]


def fill(folder: Path, *, clip: bool = True, dino: bool = True, vocabulary: bool = True) -> Path:
    """Repositories as the hub has them, below `folder`."""
    parts = preset_models("vit-b")
    places = {family: folder / parts[family].repository for family in ("clip", "dino")}
    for place in places.values():
        place.mkdir(parents=True, exist_ok=True)
    if clip:
        save_file(CLIP_TENSORS, places["clip"] / parts["clip"].file)
    if vocabulary:
        write_vocabulary(places["clip"])
    if dino:
        tensors = dino_as_transformers(DINO_TENSORS, DINO)
        save_file(
            {name: np.ascontiguousarray(x) for name, x in tensors.items()},
            places["dino"] / parts["dino"].file,
        )
    return folder


def checkpoints(folder: Path) -> Path:
    """A folder of checkpoints in published layout, with all that shapes do not show."""
    folder.mkdir()
    save_file(CLIP_TENSORS, folder / "clip.safetensors")
    (folder / "open_clip_config.json").write_text('{"model_cfg": {"quick_gelu": true}}')
    save_file(DINO_TENSORS, folder / "dino.safetensors")
    write_vocabulary(folder)
    return folder


# --- folders ---


def test_a_converted_folder_is_read(home, tmp_path):
    config, params = load(small_model(tmp_path))
    assert config.name == "small"
    assert set(params) == {"clip", "dino", "sam2"}
    assert not home.exists()


def test_dtype_and_sam2_are_the_callers(home, tmp_path):
    config, params = load(small_model(tmp_path), dtype="bfloat16", region_network=None)
    assert (config.dtype, config.sam2, set(params)) == ("bfloat16", None, {"clip", "dino"})
    assert params["dino"]["cls_token"].dtype == np.float32


def test_a_folder_of_checkpoints_is_converted_once(home, tmp_path, monkeypatch):
    folder = checkpoints(tmp_path / "mine")
    config, params = load(folder)
    assert (config.name, config.clip, config.dino) == ("mine", CLIP, DINO)
    assert Path(config.vocabulary or "").is_dir()
    monkeypatch.setattr(presets, "convert_folder", lambda *args, **options: pytest.fail("converted again"))
    again = load(folder)
    assert again[0] == config
    jax.tree.map(np.testing.assert_array_equal, again[1], params)


@pytest.mark.parametrize("name", ["mine", "mine [1]"])
def test_changed_checkpoints_are_converted_again_and_the_old_conversion_goes(home, tmp_path, name):
    folder = checkpoints(tmp_path / name)
    load(folder)
    save_file(DINO_TENSORS | {"cls_token": np.full((1, 1, 64), 7, np.float32)}, folder / "dino.safetensors")
    os.utime(folder / "dino.safetensors", ns=(1, 1))
    assert load(folder)[1]["dino"]["cls_token"][0, 0, 0] == 7
    assert len(conversions(home)) == 1


def test_folders_of_one_name_do_not_share_a_conversion(home, tmp_path):
    for parent in ("a", "b"):
        (tmp_path / parent).mkdir()
        load(checkpoints(tmp_path / parent / "mine"))
    assert len(conversions(home)) == 2


def test_a_folder_that_several_want_is_converted_once(home, tmp_path, monkeypatch):
    folder, converted, convert = checkpoints(tmp_path / "mine"), [], presets.convert_folder

    def slowly(*args, **options):
        converted.append(args)
        time.sleep(0.5)
        return convert(*args, **options)

    monkeypatch.setattr(presets, "convert_folder", slowly)
    with ThreadPoolExecutor(2) as pool:
        models = list(pool.map(load, [folder] * 2))
    assert models[0][0] == models[1][0]
    assert len(converted) == 1


def test_a_home_that_cannot_be_written_is_told_with_how_to_choose_another(home, tmp_path):
    home.write_text("a file")
    with pytest.raises(OSError, match=r"cannot be written: Not a directory.*CORRCLIP_HOME"):
        load(checkpoints(tmp_path / "mine"))


def test_what_is_no_model_is_told(home, tmp_path):
    with pytest.raises(
        ValueError,
        match=r"one of tiny, tiny-v2, vit-b, vit-l, .*, v2-open, or a folder.*Got 'vit-x'",
    ):
        load("vit-x")
    with pytest.raises(ConversionError, match="neither a converted model"):
        load(tmp_path)


# --- the embedded model ---


def test_the_embedded_model_needs_no_network_and_no_home(home):
    config, params = load("tiny")
    assert (config.name, set(params)) == ("tiny", {"clip", "dino", "sam2"})
    assert Path(config.vocabulary or "").is_dir()
    assert not home.exists()


def test_the_embedded_model_can_do_without_sam2(home):
    config, params = load("tiny", dtype="bfloat16", region_network=None)
    assert (config.dtype, config.sam2, set(params)) == ("bfloat16", None, {"clip", "dino"})


def test_a_broken_installation_is_told(home, tmp_path, monkeypatch):
    monkeypatch.setattr(presets, "EMBEDDED_FOLDER", tmp_path / "tiny")
    with pytest.raises(FileNotFoundError, match=r"embedded model are missing.*installation is broken"):
        load("tiny")
    shutil.copytree(EMBEDDED_FOLDER, tmp_path / "tiny")
    shutil.rmtree(tmp_path / "tiny" / "dino")
    with pytest.raises(FileNotFoundError, match="embedded model are damaged"):
        load("tiny")


# --- presets ---


def test_presets_have_full_size_shapes_of_every_tower():
    for name in ("vit-b", "vit-h", "fast-b"):
        config = PRESETS[name]
        tree = expected_params(config)
        clip, dino, sam2 = config.clip.vision.width, config.dino.width, config.sam2.width
        assert tree["clip"]["visual"]["proj"]["kernel"].shape == (clip, config.clip.embed_dim), name
        assert tree["dino"]["pos_embed"].shape == (1, 785, dino)
        assert tree["sam2"]["image_encoder"]["trunk"]["patch_embed"]["kernel"].shape == (7, 7, 3, sam2)


def test_presets_and_register_agree():
    for name, config in PRESETS.items():
        part = preset_models(name)["clip"]
        assert config.name == name
        assert (config.clip.quick_gelu, config.clip.vision.head_width) == (part.quick_gelu, part.head_width)


def test_networks_that_presets_share_have_one_configuration():
    configs: dict[str, set] = {}
    for name, config in PRESETS.items():
        for family, one in preset_models(name).items():
            configs.setdefault(one.key, set()).add(getattr(config, family))
    assert all(len(found) == 1 for found in configs.values())


def test_models_for_business_have_no_licence_that_forbids_it():
    for name in ("open-b", "fast-b", "v2-open"):
        assert {part.licence for part in preset_models(name).values()} <= {"MIT", "Apache-2.0"}


def test_models_are_listed_with_their_licences(home):
    models = {model.name: model for model in available_models()}
    names = ["tiny", "tiny-v2", "vit-b", "vit-l", "vit-h", "open-b", "fast-b", "v2-b", "v2-l", "v2-open"]
    assert list(models) == names
    assert models["tiny"].converted
    assert set(models["tiny"].licences.values()) == {"Apache-2.0"}
    assert models["vit-b"].licences == {"clip": "CC-BY-NC-4.0", "dino": "Apache-2.0", "sam2": "Apache-2.0"}
    assert models["vit-h"].licences["clip"] == "MIT"
    assert not models["vit-b"].converted


def test_without_a_network_one_message_says_which_files_to_place_where(home):
    with pytest.raises(FileNotFoundError) as caught:
        load("vit-b")
    message = str(caught.value)
    for part in preset_models("vit-b").values():
        assert f"{part.repository}: not in the hub's cache, and HF_HUB_OFFLINE forbids the network" in message
        assert f"{home / 'published' / part.repository}/\n    {part.file}" in message
        assert f"https://huggingface.co/{part.repository}" in message
    assert "tokenizer.json" in message
    assert "CORRCLIP_HOME" in message
    assert len(message.splitlines()) == 13
    assert conversions(home) == []


def test_files_placed_by_hand_are_converted_once(home, small_preset, monkeypatch, capfd):
    fill(home / "published")
    config, _ = load(small_preset)
    assert (config.name, config.clip, config.dino) == ("vit-b", CLIP, DINO)
    assert "licence CC-BY-NC-4.0 (no commercial use)" in capfd.readouterr().err
    assert {model.name for model in available_models() if model.converted} == {"tiny", "tiny-v2", "vit-b"}
    monkeypatch.setattr(parts_module, "convert_part", lambda *args, **options: pytest.fail("converted again"))
    assert load(small_preset)[0] == config


def test_only_what_is_missing_is_asked_for(home, small_preset):
    fill(home / "published", clip=False, vocabulary=False)
    with pytest.raises(FileNotFoundError) as caught:
        load(small_preset)
    assert "timm/vit_base_patch16_clip_224" in str(caught.value)
    assert "facebook/dino" not in str(caught.value)


def test_a_clip_without_vocabulary_asks_for_one(home, small_preset):
    fill(home / "published", vocabulary=False)
    with pytest.raises(
        FileNotFoundError, match=r"(?s)openai/clip.*for CLIP's vocabulary.*and tokenizer\.json"
    ):
        load(small_preset)


def test_another_published_layout_of_the_same_model_will_do(home, small_preset):
    fill(home / "published", dino=False)
    place = home / "published" / "facebook" / "dino-vitb8"
    save_file(DINO_TENSORS, place / "dino_vitbase8_pretrain.safetensors")
    assert load(small_preset)[0].dino == DINO


def test_a_folder_that_an_earlier_version_converted_is_read(home, small_preset, tmp_path):
    old = small_model(tmp_path)
    (home / "converted").mkdir(parents=True)
    shutil.copytree(old, home / "converted" / "vit-b")
    assert load(small_preset)[0].name == "small"
    assert load(small_preset, region_network=None)[0].sam2 is None


def test_weights_of_another_size_than_the_presets_are_refused(home, small_preset, monkeypatch):
    fill(home / "published")
    monkeypatch.setitem(presets.PRESETS, "vit-b", Config(name="vit-b", sam2=None))
    with pytest.raises(
        ConversionError, match=r"(?s)open_clip_model\.safetensors: .*visual\.conv1\.weight \(64, 3, 8, 8\)"
    ):
        load(small_preset)
    assert not (home / "converted" / "vit-b").exists()


# --- the weights' home ---


def test_the_home_is_the_variables_then_the_checkouts(monkeypatch, tmp_path):
    monkeypatch.setenv("CORRCLIP_HOME", str(tmp_path))
    assert weights_home() == tmp_path
    monkeypatch.delenv("CORRCLIP_HOME")
    checkout = Path(presets.__file__).resolve().parents[2]
    assert weights_home() == checkout / "weights"
    monkeypatch.setattr(place_of_weights.os, "access", lambda *args: False)
    assert weights_home() == Path.home() / ".cache" / "corrclip_jax"


def test_the_options_name_every_preset():
    assert model_names() == [EMBEDDED, EMBEDDED_V2, *PRESETS]
    assert all(name in MODELS for name in PRESETS)


def test_the_readme_lists_every_preset_with_the_sizes_and_licences_of_the_register():
    rows = {
        line.split("`")[1]: line for line in README.read_text("utf-8").splitlines() if line.startswith("| `")
    }
    for name in PRESETS:
        parts = list(preset_models(name).values())
        total = readable(sum(part.megabytes for part in parts) * 1e6)
        for text in [total, *(readable(part.megabytes * 1e6) for part in parts)]:
            assert text in rows[name], (name, text)
        assert all(part.licence in rows[name] for part in parts), name
