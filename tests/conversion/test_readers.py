"""Checkpoint files: both kinds, their wrappers and shards, and everything that can be wrong with one."""

import argparse
import json
import pickle
import sys

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import save_file as save_torch

from corrclip_jax.conversion.readers import open_checkpoint
from corrclip_jax.conversion.rules import ConversionError

TENSORS = {"norm.weight": np.arange(6, dtype=np.float32), "scale": np.array(2.0, np.float32)}
TORCH = {name: torch.from_numpy(tensor) for name, tensor in TENSORS.items()}


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return self.path.touch, ()


def assert_holds(path, tensors=TENSORS):
    checkpoint = open_checkpoint(path)
    assert dict(checkpoint.shapes) == {name: tensor.shape for name, tensor in tensors.items()}
    assert set(checkpoint) == set(tensors)
    for _ in range(2):  # a tensor may be read again
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(np.asarray(checkpoint[name]), tensor)


def refusal(path) -> str:
    with pytest.raises(ConversionError) as caught:
        open_checkpoint(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_safetensors_are_read_without_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    save_numpy(TENSORS, tmp_path / "model.safetensors")
    assert_holds(tmp_path / "model.safetensors")


def test_safetensors_in_half_precision(tmp_path):
    halves = {
        "a": torch.tensor([0.5, 3.0], dtype=torch.bfloat16),
        "b": torch.tensor([0.25], dtype=torch.float16),
    }
    save_torch(halves, tmp_path / "model.safetensors")
    checkpoint = open_checkpoint(tmp_path / "model.safetensors")
    assert checkpoint["a"].dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(checkpoint["a"].astype(np.float32), [0.5, 3.0])
    assert checkpoint["b"].dtype == np.float16


@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_of_both_forms(tmp_path, zipped):
    torch.save(TORCH, tmp_path / "model.pth", _use_new_zipfile_serialization=zipped)
    assert_holds(tmp_path / "model.pth")


@pytest.mark.parametrize("key", ["model", "state_dict", "teacher"])
def test_what_training_programs_wrap_around_weights_is_taken_off(tmp_path, key):
    wrapped = {key: {f"module.{name}": tensor for name, tensor in TORCH.items()}, "epoch": 3}
    torch.save(wrapped, tmp_path / "model.pt")
    assert_holds(tmp_path / "model.pt")


def test_dinos_training_checkpoint_gives_the_teachers_backbone(tmp_path):
    def network(factor, prefix):
        return {f"{prefix}backbone.{name}": tensor * factor for name, tensor in TORCH.items()}

    content = {
        "student": network(2, "module."),
        "teacher": network(1, ""),
        "args": argparse.Namespace(arch="vit_base"),
        "epoch": 100,
    }
    torch.save(content, tmp_path / "full.pth")
    assert_holds(tmp_path / "full.pth")


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards_are_one_checkpoint(tmp_path, kind):
    index = write_shards(tmp_path, kind)
    assert_holds(index)
    assert [file.name for file in open_checkpoint(index).files] == [f"1.{kind}", f"2.{kind}"]


def write_shards(folder, kind="safetensors"):
    owners = {"norm.weight": f"1.{kind}", "scale": f"2.{kind}"}
    for name, file in owners.items():
        if kind == "bin":
            torch.save({name: TORCH[name]}, folder / file)
        else:
            save_numpy({name: TENSORS[name]}, folder / file)
    index = folder / f"model.{kind}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": owners}))
    return index


def test_shards_that_are_missing_or_disagree_are_named(tmp_path):
    index = write_shards(tmp_path)
    save_numpy(TENSORS, tmp_path / "2.safetensors")
    assert "norm.weight in 2.safetensors is not in the index" in refusal(index)
    save_numpy({"other": TENSORS["scale"]}, tmp_path / "2.safetensors")
    assert "scale is not in 2.safetensors" in refusal(index)
    (tmp_path / "2.safetensors").unlink()
    assert "not beside it: 2.safetensors" in refusal(index)
    index.write_text("[]")
    assert "no index of a sharded checkpoint" in refusal(index)


def test_a_file_that_is_cut_short_is_refused(tmp_path):
    save_numpy(TENSORS, tmp_path / "whole.safetensors")
    torch.save(TORCH, tmp_path / "whole.pt")
    torch.save(TORCH, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    for name in ("whole.safetensors", "whole.pt", "legacy.pt"):
        content = (tmp_path / name).read_bytes()
        for length in (len(content) - 3, len(content) // 2):
            cut = tmp_path / f"cut-{name}"
            cut.write_bytes(content[:length])
            message = refusal(cut)
            assert "damaged" in message
            assert "Download it again" in message or "is not run here" in message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html><body>Log in</body></html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "Git LFS pointer"),
        (
            b"neither of the two kinds, whatever the name says",
            "neither a .safetensors file nor a torch pickle",
        ),
    ],
)
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_file_that_is_no_checkpoint_is_told_for_what_it_is(tmp_path, content, said, name):
    (tmp_path / name).write_bytes(content)
    assert said in refusal(tmp_path / name)


def test_code_in_a_pickle_is_not_run(tmp_path):
    trace = tmp_path / "the-code-ran"
    torch.save({"model": TORCH, "extra": Malicious(trace)}, tmp_path / "zip.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps({"extra": Malicious(trace)}, protocol=2))
    for name in ("zip.pt", "plain.pt"):
        message = refusal(tmp_path / name)
        assert "which is not run here" in message
        assert ".safetensors" in message
    assert not trace.exists()


@pytest.mark.filterwarnings("ignore")  # torch's own, about TorchScript
def test_a_torchscript_program_is_told_for_what_it_is(tmp_path):
    class Program(torch.nn.Module):
        def forward(self, x):
            return x

    torch.jit.save(torch.jit.script(Program()), tmp_path / "ViT-B-16.pt")
    assert "TorchScript program" in refusal(tmp_path / "ViT-B-16.pt")


def test_a_pickle_without_torch_says_what_to_install(tmp_path, monkeypatch):
    torch.save(TORCH, tmp_path / "model.bin")
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "pip install 'corrclip-jax[convert]'" in refusal(tmp_path / "model.bin")


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.zeros(3)])
def test_a_pickle_without_named_tensors_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "model.pt")
    assert "holds no tensors by name" in refusal(tmp_path / "model.pt")


def test_names_that_collide_without_their_prefix_are_refused(tmp_path):
    torch.save({"module.scale": TORCH["scale"], "scale": TORCH["scale"]}, tmp_path / "model.pt")
    assert "differ by the prefix 'module.' alone" in refusal(tmp_path / "model.pt")


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    assert "cannot be read" in refusal(tmp_path / "missing.safetensors")
