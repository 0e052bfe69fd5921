"""Downloads through the real client of the hub, from a hub on loopback: what is taken, and what goes wrong."""

import errno
import io
import json
import random
import shutil
import socket
import ssl
import time
from collections import Counter, namedtuple
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from command_line import assert_refused, corrclip
from huggingface_hub import constants, file_download
from PIL import Image
from small_hub import PICKLES_ONLY, published_tensors

from corrclip_jax.config import with_fields
from corrclip_jax.conversion.find import find
from corrclip_jax.conversion.published import preset_models, published_models, region_models
from corrclip_jax.conversion.rules import ConversionError
from corrclip_jax.hub import download, offers, parts, progress_lines
from corrclip_jax.hub.download import fetch, vocabulary_here
from corrclip_jax.hub.errors import DownloadError, reason
from corrclip_jax.hub.home import part_place
from corrclip_jax.hub.offers import find_offer
from corrclip_jax.hub.presets import PRESETS, load, load_lazily, prepare
from corrclip_jax.hub.single_networks import load_network
from corrclip_jax.io.disk import readable
from corrclip_jax.params.model_folder import read_tree
from corrclip_jax.params.structure import expected_network
from corrclip_jax.params.trees import shapes_by_path

DINO = published_models()["dino/vitb8"]


def names(place) -> list[str]:
    return [file.name for file in sorted(place.iterdir())]


def refusal(published=DINO) -> str:
    with pytest.raises(DownloadError) as caught:
        fetch(find_offer(published))
    assert len(str(caught.value).splitlines()) == 1
    assert caught.value.__cause__ is None or isinstance(caught.value.__cause__, OSError)
    return str(caught.value)


# --- presets and sources ---


def assert_trees_load(config, trees):
    """The trees are there, whole, and of the networks of the configuration."""
    for name, tree in trees.items():
        expected = shapes_by_path(expected_network(getattr(config, name)))
        assert shapes_by_path(read_tree(tree)) == expected


def test_every_preset_loads_without_torch_and_shares_its_parts(hub, small_presets, without_torch):
    """A part that presets share is read with the first of them."""
    read = set()
    for name in PRESETS:
        config, params = load_lazily(name)
        assert (config.name, set(params)) == (name, set(preset_models(name)))
        assert config == with_fields(PRESETS[name], vocabulary=config.vocabulary)
        assert_trees_load(config, {part: tree for part, tree in params.trees.items() if tree not in read})
        read |= set(params.trees.values())
    fetched = hub.downloads()
    assert set(fetched.values()) == {1}
    wanted = {one.key for name in PRESETS for one in preset_models(name).values()}
    assert len(fetched) == len(wanted) == len(read)
    assert all(name.endswith(".safetensors") for name in fetched)


def test_sources_of_regions_load_with_a_preset(hub, small_presets, without_torch):
    for name in ("sam2.1-t", "sam1-b", "eomt-s", "mask2former-t"):
        family = region_models()[name].family
        config, params = load("vit-b", region_network=name)
        assert config.regions.source == family
        assert set(params) == {"clip", "dino", family}
    assert set(hub.downloads().values()) == {1}


@pytest.mark.slow
def test_every_network_of_regions_is_made_part_of_a_preset_and_loads(hub, small_presets, without_torch):
    for name, one in region_models().items():
        if one.repository in PICKLES_ONLY:
            continue
        config, params = load_lazily("vit-b", region_network=name)
        assert config.regions.source == one.family
        assert set(params) == {"clip", "dino", one.family}
        assert_trees_load(config, {one.family: params.trees[one.family]})
    assert set(hub.downloads().values()) == {1}


def test_every_source_of_regions_is_found_and_of_its_family(hub, without_torch):
    for one in region_models().values():
        if one.repository not in PICKLES_ONLY:
            offer = fetch(find_offer(one))
            assert offer.checkpoint.suffix == ".safetensors"
            assert find(offer.checkpoint, one.family).family == one.family


def test_mask2former_of_the_largest_size_loads_with_torch(hub, home, small_presets):
    torch = pytest.importorskip("torch")
    one = region_models()["mask2former"]
    content = io.BytesIO()
    tensors = published_tensors("mask2former", "transformers")
    torch.save({name: torch.from_numpy(tensor) for name, tensor in tensors.items()}, content)
    hub.repositories[one.repository]["pytorch_model.bin"] = content.getvalue()
    assert set(load("vit-b", region_network="mask2former")[1]) == {"clip", "dino", "mask2former"}


def test_a_preset_without_a_network_of_regions_fetches_none(hub, small_presets):
    config, params = load("vit-b", region_network=None)
    assert (config.sam2, set(params)) == (None, {"clip", "dino"})
    assert len(hub.downloads()) == 2


def test_a_network_of_regions_that_is_not_published_is_refused(hub, small_presets):
    with pytest.raises(ValueError, match=r"one of sam2, .*Got 'sam2-x'"):
        load("vit-b", region_network="sam2-x")
    with pytest.raises(ValueError, match=r"sam2\.1-t is a published network, which can be given to vit-b"):
        load("tiny", region_network="sam2.1-t")


def test_processes_that_start_together_do_the_work_once(hub, small_presets):
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(prepare, ["vit-b"] * 4))
    assert len(set(folders)) == 1
    assert set(hub.downloads().values()) == {1}


def test_a_part_that_is_wanted_as_part_of_a_model_and_by_itself_is_made_once(hub, small_presets, monkeypatch):
    made, convert = Counter(), parts.convert_part

    def slowly(family, checkpoint, out, **options):
        made[out] += 1
        time.sleep(0.5)
        return convert(family, checkpoint, out, **options)

    monkeypatch.setattr(parts, "convert_part", slowly)
    wanted = [
        lambda: prepare("vit-b", None),
        lambda: prepare("vit-l", None),
        lambda: load_network("vit-b", "dino"),
        lambda: load_network("vit-b", "clip"),
    ]
    with ThreadPoolExecutor(len(wanted)) as pool:
        for future in [pool.submit(each) for each in wanted]:
            future.result()
    clips = [preset_models(name)["clip"].key for name in ("vit-b", "vit-l")]
    assert made == Counter(part_place(key) for key in (DINO.key, *clips))
    assert set(hub.downloads().values()) == {1}


def test_parts_that_are_gone_are_made_again(hub, home, small_presets):
    load("vit-b")
    shutil.rmtree(home / "converted" / "parts" / "dino")
    assert set(load("vit-b")[1]) == {"clip", "dino", "sam2"}
    assert set(hub.downloads().values()) == {1}  # the file is in the cache of the client


# --- what is taken ---


def test_sizes_and_licences_come_before_the_first_download(hub, small_presets, capfd, monkeypatch):
    seen = []
    fetching = download.hf_hub_download
    monkeypatch.setattr(
        download,
        "hf_hub_download",
        lambda *args, **options: (seen.append(capfd.readouterr().err), fetching(*args, **options))[1],
    )
    load("vit-b")
    total = sum(len(hub.repositories[one.repository][one.file]) for one in preset_models("vit-b").values())
    assert f"vit-b needs a download of {readable(total)}, once:" in seen[0]
    assert "licence CC-BY-NC-4.0 (no commercial use), timm/vit_base_patch16_clip_224" in seen[0]
    assert "DINO B/8: " in seen[0]


def test_safetensors_are_taken_before_a_pickle(hub):
    hub.repositories[DINO.repository]["pytorch_model.bin"] = b"pickle"
    assert find_offer(DINO).files == ("model.safetensors",)


def test_a_pickle_is_taken_where_there_is_nothing_else_and_torch_is_here(hub, monkeypatch):
    hub.repositories[DINO.repository].pop("model.safetensors")
    monkeypatch.setattr(offers, "can_read", lambda name: True)
    assert find_offer(DINO).files == ("pytorch_model.bin",)


def test_without_torch_a_pickle_is_named_with_what_it_needs(hub, without_torch):
    message = refusal(region_models()["mask2former"])
    assert "facebook/mask2former-swin-large-coco-panoptic: holds pytorch_model.bin" in message
    assert "pip install 'corrclip-jax[convert]'" in message
    assert not hub.downloads()


def test_without_torch_another_repository_of_the_same_weights_is_taken(hub, without_torch):
    openai = published_models()["clip/openai-b16"]
    offer = find_offer(openai)
    assert offer.repository == "timm/vit_base_patch16_clip_224.openai"
    del hub.repositories[offer.repository]
    message = refusal(openai)
    assert "timm/vit_base_patch16_clip_224.openai: there is no such repository" in message
    assert "openai/clip-vit-base-patch16: holds pytorch_model.bin, which needs torch" in message


def test_a_repository_without_weights_is_described_by_what_it_holds(hub):
    hub.repositories[DINO.repository] = {"README.md": b"moved", "flax_model.msgpack": b"no"}
    assert "holds no file of weights that is known here. It holds README.md, flax_model.msgpack" in refusal()


def test_an_unknown_name_and_shards_are_taken(hub):
    content = hub.repositories[DINO.repository].pop("model.safetensors")
    hub.repositories[DINO.repository] = {"dino.safetensors": content}
    assert find_offer(DINO).files == ("dino.safetensors",)
    shard = "model-00001-of-00001.safetensors"
    hub.repositories[DINO.repository] = {"model.safetensors.index.json": b"{}", shard: content}
    offer = find_offer(DINO)
    assert offer.files == ("model.safetensors.index.json", shard)
    assert names(fetch(offer).folder) == sorted(offer.files)


# --- what goes wrong ---


def test_a_connection_that_breaks_ten_times_ends_right(hub, no_waiting):
    whole = hub.repositories[DINO.repository]["model.safetensors"]
    rng = random.Random(0)
    hub.breaks["model.safetensors"] = [rng.randrange(len(whole)) for _ in range(10)]
    assert fetch(find_offer(DINO)).checkpoint.read_bytes() == whole
    assert hub.downloads()["facebook/dino-vitb8/model.safetensors"] == 11


def test_a_broken_download_is_taken_up_where_it_broke(hub, no_waiting, monkeypatch):
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    whole = hub.repositories[DINO.repository]["model.safetensors"]
    hub.breaks["model.safetensors"] = [7000, 5000, 3000]
    assert fetch(find_offer(DINO)).checkpoint.read_bytes() == whole


def test_a_damaged_download_is_fetched_again(hub):
    whole = hub.repositories[DINO.repository]["model.safetensors"]
    hub.damage["model.safetensors"] = [bytes(len(whole))]
    assert fetch(find_offer(DINO)).checkpoint.read_bytes() == whole
    hub.damage["model.safetensors"] = []


def test_a_download_that_is_always_damaged_is_refused(hub):
    whole = hub.repositories[DINO.repository]["model.safetensors"]
    hub.damage["model.safetensors"] = [bytes(len(whole))] * 2
    assert "model.safetensors is damaged by the download, twice" in refusal()


def test_a_gated_repository_asks_for_a_login(hub):
    hub.refusals[f"/{DINO.repository}"] = [(401, {"X-Error-Code": "GatedRepo"})] * 9
    assert "accept its terms on its page, then log in with `hf auth login`" in refusal()


def test_a_repository_that_is_gone_is_said(hub):
    del hub.repositories[DINO.repository]
    assert refusal().startswith("facebook/dino-vitb8: there is no such repository, or it asks for a login")


def test_a_file_that_is_gone_is_said(hub):
    offer = find_offer(DINO)
    del hub.repositories[DINO.repository]["model.safetensors"]
    with pytest.raises(DownloadError, match="the file is not in the repository any more"):
        fetch(offer)


def test_the_hubs_request_to_wait_is_followed(hub, no_waiting):
    hub.refusals[f"/api/models/{DINO.repository}"] = [(429, {"Retry-After": "7"})]
    fetch(find_offer(DINO))
    assert no_waiting[0] == 7


def test_a_hub_that_goes_on_refusing_is_said(hub, no_waiting):
    hub.refusals[f"/api/models/{DINO.repository}"] = [(429, {"Retry-After": "7200"})]
    assert "the hub refuses so many requests (429)" in refusal()
    assert no_waiting == []


def test_a_full_disk_is_said(hub, monkeypatch):
    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(file_download, "http_get", full)
    message = refusal()
    assert f"the disk is full ({constants.HF_HUB_CACHE})" in message
    assert "HF_HOME" in message


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "/cache/blobs"),
            "/cache/blobs: Permission denied",
        ),
        (PermissionError(errno.EPERM, "Operation not permitted"), "Operation not permitted"),
        (OSError(errno.EROFS, "Read-only file system"), "Read-only file system"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "Disk quota exceeded"),
    ],
)
def test_a_cache_that_cannot_be_written_is_said_with_how_to_choose_another(hub, monkeypatch, error, words):
    def refuse(*args, **options):
        raise error

    monkeypatch.setattr(file_download, "http_get", refuse)
    message = refusal()
    assert "the hub's cache cannot be written" in message
    assert words in message
    assert "HF_HOME" in message
    assert "no connection" not in message


def test_no_connection_is_said_of_connections_alone():
    for error in (
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        OSError(errno.ENETUNREACH, "Network is unreachable"),
        TimeoutError("timed out"),
        socket.gaierror(-2, "Name or service not known"),
        ssl.SSLCertVerificationError(1, "certificate verify failed"),
    ):
        assert reason(error).startswith("no connection ("), error
    assert reason(NotADirectoryError(errno.ENOTDIR, "Not a directory", "/a/b")) == "/a/b: Not a directory"
    assert reason(OSError(errno.EIO, "Input/output error")) == "Input/output error"
    assert reason(OSError("Consistency check failed")) == "Consistency check failed"
    assert reason(ValueError("no JSON")) == "the hub's answer cannot be used (no JSON)"


def test_a_disk_that_is_too_small_is_said_before_the_download(hub, small_presets, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1000))
    with pytest.raises(
        OSError, match=r"cache cannot be written: .* MB are needed, .* 0\.00 MB left.*HF_HOME"
    ):
        load("vit-b")
    assert not hub.downloads()


def test_a_hub_that_does_not_answer_is_said_without_a_traceback(hub, home, small_presets, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(FileNotFoundError) as caught:
        load("vit-b")
    assert "facebook/dino-vitb8: no connection (" in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_what_is_in_the_cache_needs_no_network(hub, home, small_presets, monkeypatch):
    load("vit-b")
    shutil.rmtree(home)
    asked = len(hub.log)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert set(load("vit-b")[1]) == {"clip", "dino", "sam2"}
    assert len(hub.log) == asked


def test_a_damaged_file_of_the_cache_is_named_with_how_to_delete_it(hub, home, small_presets):
    cached = fetch(find_offer(DINO)).checkpoint.resolve()
    cached.write_bytes(cached.read_bytes()[:1000])
    with pytest.raises(ConversionError, match="cut short or damaged") as caught:
        load("vit-b")
    assert f"delete it and load again: {cached}" in str(caught.value)
    cached.unlink()
    assert set(load("vit-b")[1]) == {"clip", "dino", "sam2"}


def test_a_token_goes_to_the_hub_alone(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch(find_offer(DINO))
    assert hub.tokens == [False]


def test_a_long_download_says_how_far_it_is_line_by_line(hub, capfd, monkeypatch):
    monkeypatch.setattr(progress_lines, "_FIRST_LINE", 0)
    monkeypatch.setattr(progress_lines, "_BETWEEN_LINES", 0)
    fetch(find_offer(DINO))
    lines = [line for line in capfd.readouterr().err.splitlines() if "model.safetensors" in line]
    assert "100%" in lines[-1]
    assert all(len(line) < 80 and "\r" not in line for line in lines)


def test_the_vocabulary_of_the_cache_is_found_without_a_network(hub, home, small_presets, monkeypatch):
    assert vocabulary_here() is None
    load("vit-b", region_network=None)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert vocabulary_here() is not None


def test_the_command_segments_with_a_model_from_the_hub(hub, small_presets, without_torch, tmp_path):
    Image.fromarray(np.zeros((112, 112, 3), np.uint8)).save(tmp_path / "photo.png")
    result = corrclip(
        "segment", tmp_path / "photo.png", "-c", "cat, the", "--model", "open-b", "--regions", "none",
        "--out", tmp_path / "out",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "photo.png").is_file()
    described = json.loads((tmp_path / "out" / "photo.json").read_text())
    assert set(described["model"]["sources"]) == {"clip", "dino"}
    assert described["model"]["sources"]["clip"]["licence"] == "MIT"


def test_the_command_prepares_a_model_once(hub, home, small_presets, without_torch):
    result = corrclip("prepare", "fast-b", "--regions", "eomt-s", "--regions", "slic")
    assert result.exit_code == 0, result.output
    folders = [home / "converted" / f"fast-b+{name}" for name in ("eomt-s", "none")]
    assert result.stdout.split() == [str(folder) for folder in folders]
    asked = len(hub.log)
    assert load("fast-b", region_network="eomt-s")[0].regions.source == "eomt"
    assert len(hub.log) == asked


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("vit-x",), r"nothing to prepare for 'vit-x'.*vit-b"),
        (("vit-b", "--regions", "sam9"), "'sam9' is no source of regions"),
        (("vit-b", "--maps", "x"), "--maps and --out go with a benchmark"),
        (("coco_stuff", "--out", "x"), "needs --maps"),
        (("coco_stuff", "--regions", "sam2"), "--regions goes with a model"),
    ],
)
def test_what_cannot_be_prepared_is_refused(home, arguments, words):
    assert_refused(corrclip("prepare", *arguments), words)


def test_sizes_are_shown_with_three_digits():
    assert [readable(size) for size in (1_000, 86_700_000, 599e6, 999.6e6, 1_710_000_000)] == [
        "0.00 MB", "86.7 MB", "599 MB", "1.00 GB", "1.71 GB",
    ]  # fmt: skip
