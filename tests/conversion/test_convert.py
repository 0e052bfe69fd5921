"""Whole conversions: what is written, once, whole or not at all, and in how much memory."""

import json
import shutil
import tracemalloc

import jax
import numpy as np
import pytest
import torch
from published import CLIP, DINO, clip_as_transformers, dino_shapes, open_clip_shapes, random_tensors
from safetensors.numpy import save_file
from small_models import write_vocabulary
from transformers import EomtConfig, EomtForUniversalSegmentation

from corrclip_jax.config import CLIPConfig, CLIPTextConfig, CLIPVisionConfig, DINOConfig, EoMTConfig
from corrclip_jax.conversion import convert as module
from corrclip_jax.conversion.convert import convert, convert_folder
from corrclip_jax.conversion.families import convert_state_dict
from corrclip_jax.conversion.rules import ConversionError
from corrclip_jax.io.marks import file_digest
from corrclip_jax.params.model_folder import read

CLIP_TENSORS = random_tensors(open_clip_shapes(CLIP))
DINO_TENSORS = random_tensors(dino_shapes(DINO))


@pytest.fixture
def sources(tmp_path):
    """Two repositories as they are published."""
    repository = tmp_path / "timm" / "clip"
    repository.mkdir(parents=True)
    save_file(CLIP_TENSORS, repository / "open_clip_model.safetensors")
    (repository / "open_clip_config.json").write_text('{"model_cfg": {"quick_gelu": true}}')
    write_vocabulary(repository)
    torch.save(
        {k: torch.from_numpy(x) for k, x in DINO_TENSORS.items()}, tmp_path / "dino_vitbase8_pretrain.pth"
    )
    return {
        "clip": repository,
        "dino": tmp_path / "dino_vitbase8_pretrain.pth",
    }


def assert_same(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_a_conversion_holds_weights_configuration_vocabulary_and_origin(sources, tmp_path):
    out = convert(sources, tmp_path / "model")
    config, params = read(out)
    assert (config.name, config.clip, config.dino, config.sam2) == ("model", CLIP, DINO, None)
    assert config.vocabulary == str(out / "vocabulary")
    assert [file.suffix for file in (out / "vocabulary").iterdir()] == [".gz"]
    assert_same(params["clip"], convert_state_dict("clip", CLIP_TENSORS, CLIP))
    assert_same(params["dino"], convert_state_dict("dino", DINO_TENSORS, DINO))

    content = json.loads((out / "corrclip.json").read_text())
    assert content["config"]["vocabulary"] == "vocabulary"
    file = sources["clip"] / "open_clip_model.safetensors"
    assert content["sources"]["clip"] == {
        "title": None,
        "repository": None,
        "licence": None,
        "layout": "open_clip",
        "files": [{"name": file.name, "size": file.stat().st_size, "sha256": file_digest(file)}],
    }
    assert content["sources"]["dino"]["licence"] == "Apache-2.0"  # recognised by its name
    assert {"jax", "flax", "orbax-checkpoint", "numpy", "corrclip-jax"} < set(content["versions"])
    assert str(tmp_path) not in (out / "corrclip.json").read_text()


def test_a_second_run_does_nothing_unless_forced(sources, tmp_path, monkeypatch):
    lines: list[str] = []
    out = convert(sources, tmp_path / "model", report=lines.append)
    assert [line.split(" ")[0] for line in lines] == ["CLIP's", "Converting", "Converting", "Converted:"]
    written = (out / "corrclip.json").stat().st_mtime_ns
    monkeypatch.setattr(module, "convert_state_dict", lambda *args: pytest.fail("converted again"))
    assert convert(sources, out, report=lines.append) == out
    assert lines[4:] == [f"Already converted: {out}"]
    assert (out / "corrclip.json").stat().st_mtime_ns == written
    monkeypatch.undo()
    convert(sources, out, force=True)
    assert (out / "corrclip.json").stat().st_mtime_ns > written


def test_other_weights_or_settings_replace_nothing_unless_forced(sources, tmp_path):
    out = convert(sources, tmp_path / "model")
    with pytest.raises(ConversionError, match="conversion of other files, or with other settings"):
        convert(sources, out, quick_gelu=False)
    other = CLIP_TENSORS | {"logit_scale": np.float32(5)[None].reshape(())}
    save_file(other, sources["clip"] / "open_clip_model.safetensors")
    with pytest.raises(ConversionError, match="conversion of other files, or with other settings"):
        convert(sources, out)
    convert(sources, out, quick_gelu=False, force=True)
    config, params = read(out)
    assert not config.clip.quick_gelu
    assert params["clip"]["logit_scale"] == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dino_vitbase8_pretrain.pth", "model", "timm"]


def test_a_folder_of_something_else_is_not_touched(sources, tmp_path):
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "photo.jpg").touch()
    with pytest.raises(ConversionError, match="exists and is no converted model"):
        convert(sources, tmp_path / "holiday")
    assert (tmp_path / "holiday" / "photo.jpg").exists()
    (tmp_path / "empty").mkdir()
    convert(sources, tmp_path / "empty")


@pytest.mark.parametrize("failure", [KeyboardInterrupt, MemoryError, ValueError])
def test_a_conversion_that_is_interrupted_leaves_nothing(sources, tmp_path, monkeypatch, failure):
    before = sorted(tmp_path.iterdir())
    calls = []

    def write_one_then_fail(folder, name, params, write=module.write_network):
        if calls:
            raise failure("in the middle")
        calls.append(name)
        write(folder, name, params)

    monkeypatch.setattr(module, "write_network", write_one_then_fail)
    with pytest.raises(failure):
        convert(sources, tmp_path / "model")
    assert calls == ["clip"]
    assert sorted(tmp_path.iterdir()) == before


def test_faulty_weights_leave_nothing_and_name_their_file(sources, tmp_path):
    broken = {name: x for name, x in DINO_TENSORS.items() if name not in ("cls_token", "blocks.1.norm2.bias")}
    save_file(broken, tmp_path / "broken.safetensors")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ConversionError) as caught:
        convert(sources | {"dino": tmp_path / "broken.safetensors"}, tmp_path / "model")
    assert "broken.safetensors: The file does not fit DINO" in str(caught.value)
    assert caught.value.faults["missing"] == ("blocks.1.norm2.bias", "cls_token")
    assert sorted(tmp_path.iterdir()) == before


def test_an_out_that_cannot_be_written_is_told(sources, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(
        OSError, match=r"file.model cannot be written: .*Choose another folder, or make room\."
    ):
        convert(sources, tmp_path / "file" / "model")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_network", full)
    with pytest.raises(OSError, match="cannot be written: No space left on device"):
        convert(sources, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_checkpoint_that_cannot_be_read_any_more_is_told(sources, tmp_path, monkeypatch):
    """The system names no file in errors of one that is open."""

    def broken(*args):
        raise OSError(5, "Input/output error")

    for step, name in (("convert_state_dict", r"open_clip_model\.safetensors"), ("file_digest", ".*")):
        with monkeypatch.context() as patch:
            patch.setattr(module, step, broken)
            with pytest.raises(ConversionError, match=rf"{name} cannot be read: Input/output error"):
                convert(sources, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_disk_that_is_too_full_is_told_before_the_work(sources, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    monkeypatch.setattr(module, "convert_state_dict", lambda *args: pytest.fail("worked in vain"))
    with pytest.raises(
        OSError, match=r"model cannot be written: .* MB are needed, .* has 0\.00 MB left\. .*choose"
    ):
        convert(sources, tmp_path / "model")


def test_what_shapes_do_not_show_can_be_given(sources, tmp_path):
    (sources["clip"] / "open_clip_config.json").unlink()
    with pytest.raises(ConversionError, match=r"open_clip_model\.safetensors: Nothing says which activation"):
        convert(sources, tmp_path / "model")
    given = CLIPConfig(
        embed_dim=24,
        quick_gelu=False,
        vision=CLIPVisionConfig(image_size=32, patch_size=8, width=64, layers=3, head_width=16),
        text=CLIPTextConfig(vocab_size=521, context_length=12, width=64, heads=4, layers=2),
    )
    out = convert(sources, tmp_path / "model", configs={"clip": given})
    config, params = read(out)
    assert config.clip == given
    assert params["clip"]["visual"]["transformer"]["resblocks_0"]["attn"]["query"]["kernel"].shape == (
        64,
        4,
        16,
    )


def test_the_register_decides_on_a_published_file(sources, tmp_path):
    # Some conversions of MetaCLIP to transformers' layout name the wrong activation.
    repository = tmp_path / "facebook" / "metaclip-b16-fullcc2.5b"
    repository.mkdir(parents=True)
    save_file(clip_as_transformers(CLIP_TENSORS, CLIP), repository / "model.safetensors")
    wrong = {"hidden_act": "gelu"}
    published = {"model_type": "clip", "vision_config": wrong, "text_config": wrong}
    (repository / "config.json").write_text(json.dumps(published))
    out = convert(sources | {"clip": repository}, tmp_path / "model")
    assert read(out)[0].clip.quick_gelu
    assert json.loads((out / "corrclip.json").read_text())["sources"]["clip"]["licence"] == "CC-BY-NC-4.0"


def test_a_vocabulary_may_be_given_and_must_be_whole(sources, tmp_path):
    (sources["clip"] / "bpe_simple_vocab_16e6.txt.gz").rename(tmp_path / "my.txt.gz")
    lines: list[str] = []
    out = convert(sources, tmp_path / "without", report=lines.append)
    assert read(out)[0].vocabulary is None
    assert "No CLIP vocabulary" in lines[0]
    out = convert(sources, tmp_path / "with", vocabulary=tmp_path / "my.txt.gz")
    assert read(out)[0].vocabulary == str(out / "vocabulary")
    (tmp_path / "my.txt.gz").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="no readable CLIP vocabulary"):
        convert(sources, tmp_path / "other", vocabulary=tmp_path / "my.txt.gz")


def test_a_folder_is_sorted_out_by_content(sources, tmp_path):
    out = convert_folder(tmp_path, tmp_path / "out" / "model", name="mine")
    config, params = read(out)
    assert config.name == "mine"
    assert config.vocabulary is not None
    assert set(params) == {"clip", "dino"}
    with pytest.raises(ConversionError, match="No checkpoint of DINO"):
        convert_folder(sources["clip"], tmp_path / "other")


@pytest.mark.parametrize("by_content", [True, False])
def test_a_network_of_queries_finds_regions_where_it_is_alone(sources, tmp_path, by_content):
    size = EomtConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=32, num_upscale_blocks=1,
        num_blocks=1, num_queries=3, num_register_tokens=1, num_labels=4,
    )  # fmt: skip
    EomtForUniversalSegmentation(size).save_pretrained(tmp_path / "eomt")
    if by_content:
        out = convert_folder(tmp_path, out=tmp_path / "model")
    else:
        out = convert(sources | {"eomt": tmp_path / "eomt"}, tmp_path / "model")
    config, params = read(out)
    assert config.regions.source == "eomt"
    assert config.eomt == EoMTConfig(
        image_size=32,
        width=16,
        layers=2,
        heads=2,
        registers=1,
        queries=3,
        query_blocks=1,
        upscale_blocks=1,
        labels=4,
    )
    assert set(params) == {"clip", "dino", "eomt"}
    assert json.loads((out / "corrclip.json").read_text())["sources"]["eomt"]["layout"] == "transformers"


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_memory_stays_under_two_and_a_half_times_the_file(tmp_path, dtype):
    clip = CLIPConfig(
        embed_dim=256,
        vision=CLIPVisionConfig(image_size=32, patch_size=8, width=256, layers=3),
        text=CLIPTextConfig(vocab_size=9000, width=256, heads=4, layers=3),
    )
    tensors = {name: x.astype(dtype) for name, x in random_tensors(open_clip_shapes(clip)).items()}
    save_file(tensors, tmp_path / "clip.safetensors")
    size = (tmp_path / "clip.safetensors").stat().st_size
    save_file(
        random_tensors(dino_shapes(DINOConfig(width=64, layers=2, heads=1))), tmp_path / "dino.safetensors"
    )
    del tensors
    files = {family: tmp_path / f"{family}.safetensors" for family in ("clip", "dino")}
    convert(files, tmp_path / "first", quick_gelu=True)  # what is traced and imported stays in memory
    tracemalloc.start()
    convert(files, tmp_path / "second", quick_gelu=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size > 20e6 * np.dtype(dtype).itemsize / 4
    assert peak < 2.5 * size
