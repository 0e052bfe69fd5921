"""Banks on disk: damage, emptiness and other networks are one clear error; published ones are imported; merging."""

import json
import shutil

import numpy as np
import pytest
from bank_process import FakeExtractor
from faiss_files import COUNT, IDS, ivfpq, mapped
from PIL import Image

from corrclip_jax.bank.errors import BankError
from corrclip_jax.bank.folder import Network, check_fits, load_bank, read_description, read_images
from corrclip_jax.bank.merge import merge_banks
from corrclip_jax.bank.published import import_bank
from corrclip_jax.bank.rows import Rows, write_rows
from corrclip_jax.conversion.rules import ConversionError
from corrclip_jax.inference.bank_build import build
from corrclip_jax.method.bank import QuantisedKeys


@pytest.fixture
def make_bank(tmp_path):
    """Banks of images with the given numbers of regions."""

    def make(name, *counts, backbone="fake"):
        folder = tmp_path / f"images-{name}"
        folder.mkdir()
        for number, count in enumerate(counts):
            pixels = np.full((4, 5, 3), number, np.uint8)
            pixels[0, 0, 0] = count
            Image.fromarray(pixels).save(folder / f"{name}{number}.png")
        build([folder], tmp_path / name, FakeExtractor(backbone))
        return tmp_path / name

    return make


def test_rows_are_read_where_they_are_used(make_bank):
    out = make_bank("a", 3, 2)
    whole, lazy = load_bank(out), load_bank(out, in_memory=False)
    assert isinstance(lazy.keys, Rows)
    assert len(lazy.keys) == 5
    np.testing.assert_array_equal(lazy.keys[1:4], whole.keys[1:4])
    np.testing.assert_array_equal(np.asarray(lazy.values["main"]), whole.values["main"])


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda out: (out / "keys/c/0/0").unlink(), "missing or not finite"),
        (lambda out: (out / "values/main/c/0/0").write_bytes(b"short"), "cut short or damaged"),
        (lambda out: (out / "keys/zarr.json").unlink(), "missing or damaged"),
        (lambda out: (out / "keys/zarr.json").write_text("{"), "missing or damaged"),
        (lambda out: (out / "bank.json").write_text("{"), "bank.json is damaged"),
        (lambda out: write_rows(out / "keys", 2, np.full((1, 6), np.nan, np.float16)), r"not finite \(NaN\)"),
        (lambda out: edit(out, entries=9), "has 5 rows, the bank 9"),
        (lambda out: edit(out, entries=0), "holds no entries"),
        (lambda out: edit(out, format=2), "another format"),
        (lambda out: edit(out, backbone={"name": "fake", "width": 7}), "of width 6, bank.json says 7"),
    ],
)
def test_a_damaged_bank_is_one_error(make_bank, damage, reason):
    out = make_bank("a", 3, 2)
    damage(out)
    with pytest.raises(BankError, match=reason):
        load_bank(out)


def edit(out, **changes):
    content = json.loads((out / "bank.json").read_text())
    (out / "bank.json").write_text(json.dumps(content | changes))


def test_a_folder_without_a_bank_says_how_to_make_one(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no bank .* `corrclip bank build` makes one"):
        load_bank(tmp_path)


def test_a_list_of_images_that_is_cut_short_is_an_error(make_bank):
    out = make_bank("a", 3, 2)
    lines = (out / "images.jsonl").read_text().splitlines()
    (out / "images.jsonl").write_text(lines[0] + "\n")
    with pytest.raises(BankError, match="lists 1 images, the bank has 2"):
        read_images(out, read_description(out))


@pytest.mark.parametrize(
    ("backbone", "clip", "reason"),
    [
        (
            Network("radio", 6),
            Network("clip", 4),
            "made with the backbone fake of width 6, the model has radio",
        ),
        (Network("fake", 8), Network("clip", 4), "the model has fake of width 8"),
        (Network("fake", 6, "other"), Network("clip", 4), "other weights of the backbone"),
        (
            Network("fake", 6),
            Network("vit-l", 5),
            "made with the CLIP 'main' clip of width 4, the model has vit-l",
        ),
    ],
)
def test_a_bank_of_other_networks_does_not_fit(make_bank, backbone, clip, reason):
    description = read_description(make_bank("a", 1))
    check_fits(description, Network("fake", 6, "abc"), {"main": Network("clip", 4)}, "a")
    with pytest.raises(BankError, match=reason):
        check_fits(description, backbone, {"main": clip}, "a")
    with pytest.raises(BankError, match="has no values of the CLIP 'aux'; it has main"):
        check_fits(description, Network("fake", 6), {"aux": clip}, "a")


def test_merged_banks_follow_each_other_with_each_image_once(make_bank, tmp_path):
    first, second = make_bank("a", 3, 1), make_bank("b", 2, 2, 1)
    shared = tmp_path / "images-a" / "a1.png"
    (tmp_path / "images-c").mkdir()
    for source in (shared, tmp_path / "images-b" / "b0.png"):
        (tmp_path / "images-c" / source.name).write_bytes(source.read_bytes())
    build([tmp_path / "images-c"], tmp_path / "c", FakeExtractor())
    merged = merge_banks([first, tmp_path / "c", second], tmp_path / "merged")
    assert merged.entries == 9
    listed = [(one.name, one.first, one.entries) for one in read_images(tmp_path / "merged", merged)]
    assert listed == [
        ("a0.png", 0, 3),
        ("a1.png", 3, 1),
        ("b0.png", 4, 2),
        ("b1.png", 6, 2),
        ("b2.png", 8, 1),
    ]
    both = load_bank(tmp_path / "merged")
    np.testing.assert_array_equal(both.keys[:4], load_bank(first).keys)
    np.testing.assert_array_equal(both.keys[4:], load_bank(second).keys)
    np.testing.assert_array_equal(both.values["main"][4:], load_bank(second).values["main"])
    with pytest.raises(BankError, match="holds a bank already"):
        merge_banks([first, second], tmp_path / "merged")


def test_banks_of_other_networks_are_not_merged(make_bank, tmp_path):
    with pytest.raises(BankError, match="made with different backbone"):
        merge_banks([make_bank("a", 1), make_bank("b", 1, backbone="radio")], tmp_path / "merged")


def test_merging_keeps_what_is_in_the_folder(make_bank, tmp_path):
    mine = tmp_path / "merged" / "values" / "mine.npy"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(BankError, match="merged holds values, whose place a bank would take"):
        merge_banks([make_bank("a", 1), make_bank("b", 1)], tmp_path / "merged")
    assert mine.read_text() == "mine"


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda out: shutil.rmtree(out / "region" / "c"), "region has rows that are missing"),
        (lambda out: shutil.rmtree(out / "box" / "c"), "box has rows that are missing"),
        (lambda out: edit(out, entries=1), "lists images of 2 entries, the bank has 1"),
        (lambda out: edit(out, entries="many"), "bank.json is damaged"),
    ],
)
def test_damaged_banks_are_not_merged(make_bank, tmp_path, damage, reason):
    first, second = make_bank("a", 1), make_bank("b", 2)
    damage(second)
    with pytest.raises(BankError, match=reason):
        merge_banks([first, second], tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


# --- published banks ---


@pytest.fixture
def published(tmp_path):
    (tmp_path / "coco.faiss").write_bytes(mapped(ivfpq()))
    values = np.random.default_rng(0).standard_normal((3 * COUNT, 4)).astype(np.float16)
    assert IDS.max() < len(values)
    np.save(tmp_path / "values.npy", values)
    return tmp_path, values


def imported(folder, name="values.npy", **options):
    options = {"values": {"main": folder / name}, "clips": {"main": "vit-l"}} | options
    return import_bank(folder / "coco.faiss", out=folder / "bank", backbone="radio", **options)


def test_a_published_bank_is_imported(published):
    folder, values = published
    description = imported(folder)
    assert (description.entries, description.backbone, description.keys) == (
        60,
        Network("radio", 8),
        "quantised",
    )
    bank = load_bank(folder / "bank")
    assert isinstance(bank.keys, QuantisedKeys)
    np.testing.assert_array_equal(bank.values["main"], values)
    with pytest.raises(BankError, match="holds a bank already"):
        imported(folder)


def test_published_values_of_torch(published):
    torch = pytest.importorskip("torch")
    folder, values = published
    torch.save(torch.from_numpy(values), folder / "values.pt")
    imported(folder, "values.pt")
    np.testing.assert_array_equal(load_bank(folder / "bank").values["main"], values)


def test_values_with_code_are_not_run(published):
    torch = pytest.importorskip("torch")
    folder, _ = published
    torch.save(ConversionError("code"), folder / "values.pt")
    with pytest.raises(ConversionError, match="holds code"):
        imported(folder, "values.pt")
    assert not (folder / "bank").exists()


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.zeros((30, 4), np.float16), "has ids up to 57, the values have 30 rows"),
        (np.full((60, 4), np.nan, np.float16), "rows that are not finite"),
        (np.zeros(60, np.float16), r"floating-point values \[N, D\]"),
        (np.zeros((60, 4), np.int32), r"floating-point values \[N, D\]"),
    ],
)
def test_values_that_do_not_fit_are_an_error(published, values, reason):
    folder, _ = published
    np.save(folder / "values.npy", values)
    with pytest.raises(BankError, match=reason):
        imported(folder)
    assert not (folder / "bank").exists()


def test_values_that_are_no_values_are_an_error(published):
    folder, _ = published
    (folder / "values.npy").write_text("text")
    with pytest.raises(ConversionError, match=r"neither a torch pickle nor a .npy file"):
        imported(folder)
    with pytest.raises(FileNotFoundError, match=r"other.pt does not exist"):
        imported(folder, "other.pt")
    with pytest.raises(BankError, match="under the name main"):
        imported(folder, values={"dfn": folder / "values.npy"})
