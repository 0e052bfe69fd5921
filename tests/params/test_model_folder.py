"""Converted models on disk, and parameter trees against their configuration."""

import json
import os
import platform
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import small_config, write_vocabulary

from corrclip_jax.config import DINOConfig, with_fields
from corrclip_jax.io.files import atomic_folder
from corrclip_jax.params.model_folder import read, read_description, save
from corrclip_jax.params.structure import check_params, expected_params, init_params
from corrclip_jax.text.tokenizer import Tokenizer

CONFIG = small_config()


@pytest.fixture(scope="module")
def params():
    return init_params(CONFIG, seed=1)


def assert_same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(np.testing.assert_array_equal, left, right)


# --- on disk ---


def test_what_is_saved_is_read_back(params, tmp_path):
    vocabulary = write_vocabulary(tmp_path)
    config = with_fields(CONFIG, vocabulary=str(vocabulary), dtype="bfloat16")
    path = save(tmp_path / "model", params, config, sources={"clip": {"licence": "MIT"}})
    vocabulary.unlink()
    back, tree = read(path)
    assert back == with_fields(config, vocabulary=str(tmp_path / "model" / "vocabulary"))
    assert_same(tree, params)
    assert all(isinstance(leaf, jax.Array) and leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(tree))
    assert Tokenizer.load(back.vocabulary).vocab_size == CONFIG.clip.text.vocab_size
    assert read_description(path)["sources"] == {"clip": {"licence": "MIT"}}


def test_a_saved_model_can_be_moved_and_read_from_anywhere(params, tmp_path, monkeypatch):
    config = with_fields(CONFIG, vocabulary=str(write_vocabulary(tmp_path)))
    save(tmp_path / "model", params, config)
    (tmp_path / "model").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    assert read("moved")[0].vocabulary == str(tmp_path / "moved" / "vocabulary")


def test_sam2_can_be_left_out(params, tmp_path):
    config, tree = read(save(tmp_path / "model", params, CONFIG), region_network=None)
    assert config.sam2 is None
    assert set(tree) == {"clip", "dino"}
    without = with_fields(CONFIG, sam2=None)
    save(tmp_path / "without", {name: params[name] for name in ("clip", "dino")}, without)
    assert read(tmp_path / "without")[0] == without


def test_saving_again_replaces(params, tmp_path):
    save(tmp_path / "model", params, CONFIG)
    other = jax.tree.map(lambda x: np.asarray(x) + 1, params)
    save(tmp_path / "model", other, CONFIG)
    assert_same(read(tmp_path / "model")[1], other)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_params_that_do_not_fit_are_not_saved(params, tmp_path):
    with pytest.raises(ValueError, match="params do not fit config"):
        save(tmp_path / "model", {"clip": params["clip"]}, CONFIG)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is damaged"),
        ("[]", "is damaged"),
        ('{"config": {}}', "is damaged"),
        ('{"format": 99}', "has format 99, this version reads formats 1 and 2"),
        ('{"format": 1, "config": {"flavour": 1}}', "Config has no field flavour"),
    ],
)
def test_a_damaged_description_is_told(tmp_path, content, said):
    (tmp_path / "corrclip.json").write_text(content)
    with pytest.raises(ValueError, match=said):
        read(tmp_path)


def test_a_folder_without_description_is_no_model(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no converted model.*corrclip convert"):
        read(tmp_path)


@pytest.mark.parametrize("damage", ["missing", "empty", "truncated"])
def test_a_damaged_tower_is_told(params, tmp_path, damage):
    save(tmp_path / "model", params, CONFIG)
    tower = tmp_path / "model" / "dino"
    files = sorted((f for f in tower.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    if damage == "truncated":
        files[-1].write_bytes(files[-1].read_bytes()[:100])
    else:
        for file in files:
            file.unlink()
        if damage == "missing":
            tower.rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"dino is damaged or missing .*Convert the model again"):
        read(tmp_path / "model")


def test_weights_of_another_configuration_are_told(params, tmp_path):
    save(tmp_path / "model", params, CONFIG)
    content = read_description(tmp_path / "model")
    content["config"]["dino"]["layers"] = 3
    (tmp_path / "model" / "corrclip.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"(?s)params do not fit config.*dino/blocks_2/attn/query/kernel"):
        read(tmp_path / "model")


# --- folders that appear whole or not at all ---


def test_a_folder_appears_when_its_block_ends_well(tmp_path):
    with atomic_folder(tmp_path / "deep" / "new") as folder:
        (folder / "file").touch()
        assert not (tmp_path / "deep" / "new").exists()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["new"]
    assert (tmp_path / "deep" / "new" / "file").exists()


def test_a_block_that_fails_leaves_what_was_there(tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "old-file").touch()
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "new") as folder:
        (folder / "file").touch()
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.rglob("*")] == ["new", "old-file"]


def test_what_others_put_into_a_folder_survives_its_replacement(tmp_path):
    (tmp_path / "model" / "deep").mkdir(parents=True)
    for name in ("notes.txt", "deep/photo.jpg", "tree", "stale"):
        (tmp_path / "model" / name).write_text(name)
    with atomic_folder(tmp_path / "model", own=["stale"]) as folder:
        (folder / "tree").write_text("new")
    there = {path.name: path.read_text() for path in (tmp_path / "model").rglob("*") if path.is_file()}
    assert there == {"notes.txt": "notes.txt", "photo.jpg": "deep/photo.jpg", "tree": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="a file has this name"), atomic_folder(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_text() == "mine"


def test_what_a_killed_run_left_is_cleared_by_the_next(tmp_path):
    killed = tmp_path / f".new.partial-{platform.node()}-999999999"
    elsewhere = tmp_path / ".new.partial-another.machine-1"
    for folder in (killed, elsewhere):
        folder.mkdir()
        (folder / "file").touch()
    with atomic_folder(tmp_path / "new"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [elsewhere.name, "new"]


def aside(folder, process=999999999, machine=None):
    """What a process has moved aside: a model folder with a file of the user's."""
    old = folder.with_name(f".{folder.name}.partial-{machine or platform.node()}-{process}-old")
    old.mkdir()
    for name in ("tree", "notes.txt"):
        (old / name).write_text(f"old {name}")
    return old


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["model", "model [1]"])
@pytest.mark.parametrize("end", ["well", "badly"])
def test_a_folder_that_a_killed_run_had_moved_aside_comes_back(tmp_path, name, end):
    old = aside(tmp_path / name)
    if end == "badly":
        with pytest.raises(RuntimeError), atomic_folder(tmp_path / name, own=["tree"]):
            assert contents(tmp_path / name) == {"tree": "old tree", "notes.txt": "old notes.txt"}
            raise RuntimeError
        assert contents(tmp_path / name) == {"tree": "old tree", "notes.txt": "old notes.txt"}
    else:
        with atomic_folder(tmp_path / name, own=["tree"]) as folder:
            (folder / "tree").write_text("new")
        assert contents(tmp_path / name) == {"tree": "new", "notes.txt": "old notes.txt"}
    assert not old.exists()


def test_files_of_others_that_a_killed_run_had_yet_to_move_are_moved(tmp_path):
    old = aside(tmp_path / "model")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tree").write_text("new")
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "model", own=["tree"]):
        raise RuntimeError
    assert contents(tmp_path / "model") == {"tree": "new", "notes.txt": "old notes.txt"}
    assert not old.exists()


def test_what_a_running_process_or_another_machine_has_moved_aside_is_left_to_it(tmp_path):
    kept = [
        aside(tmp_path / "new", os.getppid()),
        aside(tmp_path / "new", machine="another.machine"),
        aside(tmp_path / "new", machine=f"{platform.node()}-2"),
    ]
    with atomic_folder(tmp_path / "new") as folder:
        (folder / "tree").write_text("new")
    for old in kept:
        assert contents(old) == {"tree": "old tree", "notes.txt": "old notes.txt"}


def test_a_killed_run_may_have_had_the_same_process_id(tmp_path):
    old = aside(tmp_path / "model", os.getpid())
    left = old.with_name(old.name.removesuffix("-old"))
    left.mkdir()
    with atomic_folder(tmp_path / "model", own=["tree"]) as folder:
        (folder / "tree").write_text("new")
    assert contents(tmp_path / "model") == {"tree": "new", "notes.txt": "old notes.txt"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_that_is_being_written_is_not_disturbed_by_a_second_try(tmp_path):
    with atomic_folder(tmp_path / "model") as folder:
        (folder / "tree").write_text("new")
        with (
            pytest.raises(OSError, match="cannot be written: File exists"),
            atomic_folder(tmp_path / "model"),
        ):
            pass
    assert contents(tmp_path / "model") == {"tree": "new"}


def test_a_folder_that_cannot_get_its_name_leaves_what_was_there(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "notes.txt").write_text("mine")
    rename = Path.rename

    def refuse(path, target):
        if (path / "tree").exists():
            raise PermissionError(13, "Permission denied", str(path), None, str(target))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with (
        pytest.raises(OSError, match="model cannot be written: Permission denied"),
        atomic_folder(tmp_path / "model") as folder,
    ):
        (folder / "tree").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert contents(tmp_path / "model") == {"notes.txt": "mine"}


def test_an_error_of_reading_is_no_error_of_writing_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent") as caught, atomic_folder(tmp_path / "new"):
        (tmp_path / "absent").read_text()
    assert "cannot be written" not in str(caught.value)
    with (
        pytest.raises(OSError, match="new cannot be written: No such file"),
        atomic_folder(tmp_path / "new") as folder,
    ):
        (folder / "deep" / "file").write_text("")
    with (
        pytest.raises(OSError, match="new cannot be written: No space left"),
        atomic_folder(tmp_path / "new") as folder,
    ):
        raise OSError(28, "No space left on device", "source", None, str(folder / "copy"))
    assert not list(tmp_path.iterdir())


# --- trees ---


def test_a_fitting_tree_passes_under_jit_and_without_sam2(params):
    check_params(CONFIG, params)
    check_params(CONFIG, jax.eval_shape(lambda: params))
    jax.jit(lambda tree: check_params(CONFIG, tree))(params)
    towers = {name: params[name] for name in ("clip", "dino")}
    check_params(CONFIG, towers, region_network=None)
    check_params(CONFIG, params, region_network=None)
    check_params(with_fields(CONFIG, sam2=None), towers)


def test_all_that_differs_is_listed_at_once(params):
    tree = jax.tree.map(lambda x: x, params)  # a copy
    del tree["clip"]["visual"]["proj"], tree["sam2"]
    tree["dino"]["cls_token"] = jnp.zeros((1, 2, 32))
    tree["dino"]["head"] = {"kernel": jnp.zeros(3)}
    tree["extra"] = 1.0
    with pytest.raises(ValueError, match="load both from the same model") as caught:
        check_params(CONFIG, tree)
    message = str(caught.value)
    assert "clip/visual/proj/kernel" in message
    assert "sam2/no_mem_embed" in message
    assert "dino/cls_token: wanted (1, 1, 32). Got (1, 2, 32)." in message
    assert "Leaves left over (2):\n  dino/head/kernel\n  extra" in message


def test_random_parameters_are_reproducible_and_scaled(params):
    assert_same(params, init_params(CONFIG, seed=1))
    check_params(CONFIG, params)
    block = params["clip"]["visual"]["transformer"]["resblocks_0"]
    np.testing.assert_array_equal(block["ln_1"]["scale"], 1)
    np.testing.assert_array_equal(block["mlp"]["c_fc"]["bias"], 0)
    np.testing.assert_allclose(np.std(block["mlp"]["c_proj"]["kernel"]), 128**-0.5, rtol=0.05)
    np.testing.assert_allclose(np.std(block["attn"]["query"]["kernel"]), 32**-0.5, rtol=0.05)
    np.testing.assert_allclose(np.std(block["attn"]["out"]["kernel"]), 32**-0.5, rtol=0.05)


def test_expected_params_have_no_sam2_where_the_configuration_has_none():
    assert set(expected_params(with_fields(CONFIG, sam2=None, dino=DINOConfig(layers=1)))) == {"clip", "dino"}
