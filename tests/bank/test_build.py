"""Builds of banks: order of entries, images that are added, interruptions, processes, what is left out."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bank_process import FakeExtractor
from PIL import Image
from tests_shared import GOLDENS_V2

from corrclip_jax.bank.errors import BankError
from corrclip_jax.bank.folder import load_bank, read_description, read_images
from corrclip_jax.inference.bank_build import bank_images, build
from corrclip_jax.io.photos import PhotoError

PROGRAM = Path(__file__).parents[1] / "bank_process.py"


def write_image(path, count, seed=0):
    """An image that the fake extractor finds `count` regions in."""
    pixels = np.random.default_rng([count, seed]).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    pixels[0, 0, 0] = count
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def listed(out):
    return [(image.name, image.first, image.entries) for image in read_images(out, read_description(out))]


def content(out):
    """The bytes of all files of a bank but those that nothing reads."""
    return {
        str(file.relative_to(out)): file.read_bytes()
        for file in sorted(out.rglob("*"))
        if file.is_file() and file.name != ".lock"
    }


def test_entries_are_in_the_order_of_stems_and_later_images_come_last(tmp_path):
    images, out = tmp_path / "images", tmp_path / "bank"
    for name, count in {"b10.png": 2, "sub/a2.PNG": 4, "B3.bmp": 3, "c.png": 0}.items():
        write_image(images / name, count)
    done = build([images], out, FakeExtractor())
    assert listed(out) == [("B3.bmp", 0, 3), ("sub/a2.PNG", 3, 4), ("b10.png", 7, 2)]
    assert (done.added, done.without_regions) == (9, [str(images / "c.png")])

    before = load_bank(out)
    write_image(images / "a1.png", 1)
    extractor = FakeExtractor()
    assert build([images], out, extractor).added == 1
    assert listed(out)[3:] == [("a1.png", 9, 1)]
    assert sorted(extractor.seen) == ["a1.png", "c.png"]
    after = load_bank(out)
    np.testing.assert_array_equal(after.keys[:9], before.keys)
    np.testing.assert_array_equal(after.values["main"][:9], before.values["main"])
    entries = FakeExtractor().entries(images / "a1.png")
    np.testing.assert_array_equal(after.keys[9:], entries.keys)
    assert build([images], out, FakeExtractor()).added == 0


@pytest.mark.skipif(GOLDENS_V2 is None, reason="the outputs of CorrCLIPv2 are not here")
def test_the_manifest_is_the_official_one(tmp_path):
    golden = json.loads((GOLDENS_V2 / "manifest.json").read_text())
    counts = {"B3": 3, "a2": 4, "b10": 2, "c": 0}
    for stem, count in counts.items():
        write_image(tmp_path / "images" / f"{stem}.png", count)

    def lines():
        return "".join(
            f"{Path(name).stem}\t{first}\t{count}\n" for name, first, count in listed(tmp_path / "bank")
        )

    build([tmp_path / "images"], tmp_path / "bank", FakeExtractor())
    assert lines() == golden["images_first"]
    write_image(tmp_path / "images" / "a1.png", 1)
    build([tmp_path / "images"], tmp_path / "bank", FakeExtractor())
    assert lines() == golden["images_after_a1"]


def test_a_broken_image_is_named_and_left_out(tmp_path):
    images, out = tmp_path / "images", tmp_path / "bank"
    for name in ("a.png", "cut.png", "z.png"):
        write_image(images / name, 2, seed=ord(name[0]))
    whole = (images / "cut.png").read_bytes()
    (images / "cut.png").write_bytes(whole[:60])
    (images / "text.jpg").write_text("no image")
    done = build([images], out, FakeExtractor())
    assert sorted(Path(path).name for path in done.unreadable) == ["cut.png", "text.jpg"]
    assert "damaged or cut short" in done.unreadable[str(images / "cut.png")]
    assert listed(out) == [("a.png", 0, 2), ("z.png", 2, 2)]
    (images / "cut.png").write_bytes(whole)  # mended, it is added
    assert build([images], out, FakeExtractor()).added == 2


def test_an_image_is_added_once_through_whichever_folder_it_is_reached(tmp_path):
    for name in ("a/1.png", "a/b/2.png"):
        write_image(tmp_path / name, 2, seed=len(name))
    (tmp_path / "copies").mkdir()
    (tmp_path / "copies" / "1.png").write_bytes((tmp_path / "a" / "1.png").read_bytes())
    out = tmp_path / "bank"
    assert build([tmp_path / "a", tmp_path / "copies"], out, FakeExtractor()).added == 4
    assert listed(out) == [("1.png", 0, 2), ("b/2.png", 2, 2)]
    assert build([tmp_path / "a" / "b"], out, FakeExtractor()).added == 0


def test_a_bank_of_other_networks_is_refused(tmp_path):
    write_image(tmp_path / "images" / "a.png", 2)
    build([tmp_path / "images"], tmp_path / "bank", FakeExtractor())
    write_image(tmp_path / "images" / "b.png", 2)
    with pytest.raises(BankError, match=r"with other backbone: fake of width 6 .* there, radio of width 6"):
        build([tmp_path / "images"], tmp_path / "bank", FakeExtractor("radio"))


def test_other_settings_are_named_without_those_that_agree(tmp_path):
    write_image(tmp_path / "images" / "a.png", 2)
    first, second = FakeExtractor(), FakeExtractor()
    first.settings = {"short": 448, "regions": {"source": "slic", "segments": 6}}
    second.settings = {"short": 448, "regions": {"source": "slic", "segments": 9}}
    build([tmp_path / "images"], tmp_path / "bank", first)
    with pytest.raises(BankError, match=r"with other settings: regions\.segments 6 there, 9 here\. Use"):
        build([tmp_path / "images"], tmp_path / "bank", second)


def test_an_interrupted_build_goes_on_with_its_own_settings_or_is_forgotten(tmp_path):
    for name in "abcd":
        write_image(tmp_path / "images" / f"{name}.png", 2, seed=ord(name))

    def stop(done, total):
        if done == 2:
            raise KeyboardInterrupt

    args = [tmp_path / "images"], tmp_path / "bank"
    with pytest.raises(KeyboardInterrupt):
        build(*args, FakeExtractor(), progress=stop)
    with pytest.raises(BankError, match="holds an interrupted build with other backbone"):
        build(*args, FakeExtractor("radio"))
    write_image(tmp_path / "images" / "b.png", 1)
    with pytest.raises(BankError, match=r"1 images changed since .*b.png"):
        build(*args, FakeExtractor())
    assert build(*args, FakeExtractor("radio"), restart=True).description.backbone.name == "radio"


def test_companion_files_of_macos_are_no_images(tmp_path):
    for name in ("a.jpg", "._a.jpg", "b/c.png", "b/._c.png", ".thumbnails/a.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [name for _, name in bank_images([tmp_path], tmp_path / "bank")[0]] == ["a.jpg", "b/c.png"]


def test_photos_of_all_kinds_are_taken_and_other_files_are_said(tmp_path):
    for name in ("a.webp", "sub/b.tif", "sub/c.JPG", "notes.txt", "sub/d.heic"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    listed, left_out = bank_images([tmp_path], tmp_path / "bank")
    assert [name for _, name in listed] == ["a.webp", "sub/b.tif", "sub/c.JPG"]
    assert left_out == "Left out: 2 other files (.heic 1, .txt 1; convert HEIC images to JPEG)."


def test_an_image_is_named_below_the_first_path_that_it_was_found_at(tmp_path):
    for name in ("a.png", "sub/b.png", "sub/c.png"):
        write_image(tmp_path / name, 1)
    sub = tmp_path / "sub"
    listed, _ = bank_images([sub / "c.png", tmp_path, sub, tmp_path], tmp_path / "bank")
    assert listed == [(sub, "c.png"), (tmp_path, "a.png"), (tmp_path, "sub/b.png")]


def test_folders_without_images_and_no_folders_are_named(tmp_path):
    with pytest.raises(PhotoError, match="is a folder without images"):
        build([tmp_path], tmp_path / "bank", FakeExtractor())
    with pytest.raises(PhotoError, match="does not exist"):
        build([tmp_path / "nowhere"], tmp_path / "bank", FakeExtractor())


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Forty images, two of them broken, and the bank of an undisturbed build."""
    folder = tmp_path_factory.mktemp("many")
    for number in range(40):
        write_image(folder / "images" / f"{number}.png", number % 4, seed=number)
    for number in (7, 30):
        (folder / "images" / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    build([folder / "images"], folder / "undisturbed", FakeExtractor())
    return folder


def run(*arguments):
    paths = [str(PROGRAM.parents[1]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "JAX_PLATFORMS": "cpu"}
    return subprocess.run(
        [sys.executable, PROGRAM, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.process
def test_a_build_killed_again_and_again_loses_and_doubles_nothing(many):
    done = run("killed", many / "images", many / "killed", 20)
    assert done.returncode == 0, done.stderr[-3000:]
    while_computing, while_writing = map(int, done.stdout.split())
    assert while_computing >= 5
    assert while_writing >= 1
    assert content(many / "killed") == content(many / "undisturbed")


@pytest.mark.process
def test_two_processes_build_the_bank_of_one(many):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    done = run("two", many / "images", many / "shared", port)
    assert done.returncode == 0, done.stderr[-3000:]
    assert content(many / "shared") == content(many / "undisturbed")
