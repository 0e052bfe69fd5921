"""`corrclip bank` and `corrclip explain`: what they print, and what they refuse before a model is loaded."""

import json

import numpy as np
import pytest
from bank_process import FakeExtractor
from command_line import assert_refused, corrclip
from faiss_files import COUNT, ivfpq, mapped
from PIL import Image

from corrclip_jax.inference.bank_build import BankBuild, build


@pytest.fixture
def bank(tmp_path):
    (tmp_path / "images").mkdir()
    Image.new("RGB", (5, 4), (3, 0, 0)).save(tmp_path / "images" / "a.png")
    build([tmp_path / "images"], tmp_path / "bank", FakeExtractor())
    return tmp_path / "bank"


def test_info(bank):
    found = corrclip("bank", "info", bank)
    assert found.exit_code == 0
    for words in ("entries      3", "images       1", "fake, width 6, exact", "clip, width 4"):
        assert words in found.stdout
    assert json.loads(corrclip("bank", "info", bank, "--json").stdout)["backbone"]["name"] == "fake"


def test_only_an_imported_bank_does_not_know_its_images(bank):
    description = json.loads((bank / "bank.json").read_text()) | {"entries": 0, "images": 0}
    (bank / "bank.json").write_text(json.dumps(description))
    assert "images       0" in corrclip("bank", "info", bank).stdout
    (bank / "bank.json").write_text(json.dumps(description | {"settings": {"imported": "coco.faiss"}}))
    assert "images       not known" in corrclip("bank", "info", bank).stdout


def test_merge(bank, tmp_path):
    found = corrclip("bank", "merge", bank, bank, "--out", tmp_path / "both")
    assert found.exit_code == 0
    assert "3 entries of 1 images" in found.stderr
    assert_refused(corrclip("bank", "merge", bank, "--out", tmp_path / "both"), "holds a bank already")


def test_import(tmp_path):
    (tmp_path / "coco.faiss").write_bytes(mapped(ivfpq()))
    np.save(tmp_path / "v.npy", np.ones((3 * COUNT, 4), np.float16))
    arguments = ["--index", tmp_path / "coco.faiss", "--values", f"main={tmp_path / 'v.npy'}"]
    arguments += ["--out", tmp_path / "bank", "--clip", "main=v2-l"]
    assert_refused(
        corrclip("bank", "import", *arguments, "--backbone", "rodio"), "--backbone must be one of dino"
    )
    found = corrclip("bank", "import", *arguments, "--backbone", "dino", "--json")
    assert found.exit_code == 0, found.stderr
    assert json.loads(found.stdout)["entries"] == 3 * COUNT
    wrong = [*arguments[:-1], "aux=dfn", "--backbone", "dino"]
    assert_refused(corrclip("bank", "import", *wrong), "must name the same CLIPs. Got main; aux")
    assert_refused(
        corrclip("bank", "import", *arguments[:-1], "v2-l", "--backbone", "dino"), "takes NAME=VALUE"
    )


def test_what_is_missing_is_refused(tmp_path):
    assert_refused(corrclip("bank", "info", tmp_path), "holds no bank")
    assert_refused(corrclip("bank", "add", tmp_path, "--bank", tmp_path), "holds no bank")
    explain = ["explain", tmp_path / "a.png", "--bank", tmp_path, "--classes", "cat"]
    assert_refused(corrclip(*explain), "holds no bank")


def test_a_page_of_ones_own_is_not_replaced_by_an_explanation(bank, tmp_path):
    (tmp_path / "a.html").write_text("mine")
    explain = ["explain", tmp_path / "a.png", "--bank", bank, "--classes", "cat", "--out", tmp_path]
    assert_refused(corrclip(*explain), r"a\.html was not written by this program")
    assert (tmp_path / "a.html").read_text() == "mine"


def test_build_says_what_it_left_out(bank, tmp_path, monkeypatch):
    asked = {}

    def build_bank(images, out, model, **options):
        asked.update(options, images=images, model=model)
        options["progress"](0, 1)
        options["progress"](1, 1)
        from corrclip_jax.bank.folder import read_description

        return BankBuild(read_description(out), 2, {"b.png": "b.png is damaged"}, ["c.png"])

    monkeypatch.setattr("corrclip_jax.inference.bank.build_bank", build_bank)
    arguments = [
        "bank",
        "build",
        tmp_path / "images",
        "--out",
        bank,
        "--model",
        "tiny",
        "--also",
        "aux=other",
    ]
    found = corrclip(*arguments, "--regions", "slic", "--restart")
    assert found.exit_code == 1
    assert "2 new entries, 3 of 1 images in all" in found.stderr
    assert "1 images have no regions: c.png" in found.stderr
    assert "Error: b.png is damaged" in found.stderr
    assert (asked["model"], asked["others"], asked["regions"]) == ("tiny", {"aux": "other"}, "slic")
    assert asked["restart"]
    assert json.loads(corrclip(*arguments, "--json").stdout)["unreadable"] == {"b.png": "b.png is damaged"}
