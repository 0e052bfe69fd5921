"""The notebooks run from top to bottom, with small models, and are the same as their texts, without outputs."""

import asyncio
import importlib.util
import os
import re
import subprocess
from pathlib import Path

import jupytext
import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image
from small_models import small_config, small_params, write_vocabulary
from tests_shared import with_devices

from corrclip_jax import build_bank, with_fields
from corrclip_jax.datasets.scenes.generate import val_scene
from corrclip_jax.params.model_folder import save

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
DEVICES = 2
CHOSEN = """RUNS = [("vit-b", "none", None, None), ("v2-b", "none", None, "bank")]
BENCHMARKS = ["voc21", "cityscapes"]"""
INSTEAD_OF_EMBEDDED = """import pathlib
from corrclip_jax.hub import presets
presets.EMBEDDED_FOLDER = pathlib.Path({!r})"""

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(notebook):
    return [(cell.cell_type, cell.source) for cell in notebook.cells]


def install_cell(path):
    return next(source for _, source in cells(nbformat.read(path, 4)) if "SOURCE" in source)


def printed(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.text for output in outputs if output.get("name") == "stdout")


def pictures(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def write_benchmark(root):
    """Write PASCAL VOC's tree with two generated scenes, the second one without a class of VOC."""
    folder = root / "VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    for index in range(2):
        scene = val_scene(index)
        Image.fromarray(scene.image[:96, :120]).save(folder / "JPEGImages" / f"{index}.jpg")
        labels = scene.labels[:96, :120] if index == 0 else np.full((96, 120), 255)
        Image.fromarray(labels.astype(np.uint8)).save(folder / "SegmentationClass" / f"{index}.png")
    (folder / "ImageSets" / "Segmentation" / "val.txt").write_text("0\n1\n")


def write_v2(home):
    """Write a small model of CorrCLIPv2 in the place of `v2-b`, and a bank of photos of one region each."""
    model = small_config(write_vocabulary(home), sam2=False)
    model = with_fields(model, method={"similarity_of": "image"}, parts={"merging": False})
    params = small_params(model)
    save(home / "weights" / "converted" / "v2-b", params, model)
    photos = [home / "data" / "VOC2012" / "JPEGImages" / f"{index}.jpg" for index in range(2)]
    for photo in photos:
        np.savez(home / f"{photo.stem}.npz", instance_mask=np.ones((96, 120), np.int32))
    build_bank(photos, home / "bank", (model, params), regions=home)


def write_small(folder, **regions):
    """Write a small model that finds its regions so, for the place of the embedded or of a published one."""
    folder.mkdir()
    config = small_config(write_vocabulary(folder), sam2=regions["source"] == "sam2")
    config = with_fields(config, regions=regions)
    return save(folder / "model", small_params(config), config)


def choose(notebook, first, lines):
    """Set values as users do, below the settings of the cell that begins with `first`."""
    (cell,) = (cell for cell in notebook.cells if cell.source.startswith(first))
    settings, gap, rest = cell.source.partition("\n\n")
    cell.source = f"{settings}\n{lines}{gap}{rest}"


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """All notebooks after a run on the CPU, in kernels of their own, side by side: what they share is time.

    Several devices are pretended to the one that divides a batch, and no address can be reached: all go through a
    proxy that does not exist. Small models stand in the place of the embedded one, whose programs take many times
    as long to compile; the notebook that calls SAM 2 gets one that has it, and keeps all of its masks.
    """
    home = tmp_path_factory.mktemp("notebooks")
    write_benchmark(home / "data")
    every = {"iou_threshold": -99.0, "stability_threshold": 0.0, "nms_threshold": 1.0}
    with_sam2 = write_small(tmp_path_factory.mktemp("models") / "sam2", source="sam2", **every)
    without = write_small(with_sam2.parents[1] / "none", source="none")
    (home / "weights" / "converted").mkdir(parents=True)
    (home / "weights" / "converted" / "vit-b").symlink_to(without)
    write_v2(home)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "JAX_PLATFORMS": "cpu",
        "CORRCLIP_HOME": str(home / "no weights"),
        "HF_HUB_OFFLINE": "1",
        "MPLCONFIGDIR": str(home),
        "https_proxy": "http://127.0.0.1:9",
    }

    async def run(path):
        notebook, variables = nbformat.read(path, 4), environment
        stand_in = with_sam2 if path.stem == "inside_correlations" else without
        notebook.cells.insert(0, nbformat.v4.new_code_cell(INSTEAD_OF_EMBEDDED.format(str(stand_in))))
        if path.stem == "reproduce":
            choose(notebook, "RUNS =", CHOSEN)  # the second benchmark is missing
            variables = environment | {"CORRCLIP_HOME": str(home / "weights")}
        if path.stem == "segment_an_image":
            choose(notebook, "PICTURES_PER_DEVICE =", "PICTURES_PER_DEVICE = 1")
            variables = environment | {"XLA_FLAGS": with_devices(DEVICES)}
        client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(home)}})
        await client.async_execute(env=variables)
        return notebook

    async def run_all():
        return await asyncio.gather(*map(run, NOTEBOOKS), return_exceptions=True)

    def finished(path):
        if isinstance(results[path], BaseException):
            raise results[path]
        return results[path]

    results = dict(zip((path.stem for path in NOTEBOOKS), asyncio.run(run_all()), strict=True))
    return finished


@pytest.mark.slow
@pytest.mark.process
def test_images_are_segmented_on_all_devices_and_without_a_network(executed):
    notebook = executed("segment_an_image")
    text = printed(notebook)
    assert f"s a picture on {DEVICES} device(s)" in text
    assert "Going on with a generated scene." in text
    assert "my_photo.overlay.jpg" in text
    assert pictures(notebook) == 5


@pytest.mark.slow
@pytest.mark.process
def test_every_stage_is_shown_and_every_part_measured(executed):
    notebook = executed("inside_correlations")
    assert pictures(notebook) == 12
    table = re.findall(r"^(\+? ?\w[\w ]*?) +\d\.\d\d +\d+%$", printed(notebook), re.MULTILINE)
    parts = ("scope", "value", "merging", "spatial", "semantic", "correction")
    assert table == ["plain CLIP", *(f"+ {part}" for part in parts)]


@pytest.mark.slow
@pytest.mark.process
def test_scores_stand_beside_the_published_ones_and_missing_data_sets_are_shown(executed):
    text = printed(executed("reproduce"))
    score = re.search(r"voc21-vit-b-none: mIoU (\d+\.\d)\n", text)[1]
    assert "cityscapes: there is no such tree in data." in text
    assert f"| voc21-vit-b-none | {score} | - | - | 2 of 1449: no benchmark score |" in text
    score = re.search(r"voc21-v2-b-none-bank-bank: mIoU (\d+\.\d)\n", text)[1]
    assert f"| voc21-v2-b-none-bank-bank | {score} | - | - | 2 of 1449: no benchmark score |" in text


def test_every_notebook_has_its_text():
    texts = {path.stem for path in (ROOT / "notebooks").glob("*.py")}
    assert texts == {path.stem for path in NOTEBOOKS}
    assert {"segment_an_image", "inside_correlations"} <= texts


@each_notebook
def test_notebook_and_text_are_the_same(path):
    notebook, text = nbformat.read(path, 4), jupytext.read(path.with_suffix(".py"))
    assert cells(notebook) == cells(text), "run: jupytext --sync notebooks/*.ipynb"
    assert notebook.metadata.kernelspec == text.metadata.kernelspec


@each_notebook
def test_outputs_are_stripped(path):
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None, cell.source
        assert set(cell.metadata) <= {"lines_to_next_cell"}, cell.source
    assert set(notebook.metadata) == {"jupytext", "kernelspec"}


@pytest.fixture
def installed(monkeypatch):
    """What the install cell gives to pip where the package, and what else is named, is missing or here."""

    def run(path, folder, here=()):
        commands = []
        monkeypatch.chdir(folder)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: name in here or None)
        monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
        exec(install_cell(path), {})
        return [command[command.index("-q") + 1 :] for command in commands]

    return run


@each_notebook
def test_install_cell_does_nothing_where_the_package_is(path, installed, tmp_path):
    assert installed(path, tmp_path, ["corrclip_jax"]) == []


@each_notebook
def test_install_cell_takes_the_checkout_that_it_lies_in(path, installed):
    assert installed(path, path.parent) == [[str(ROOT), "matplotlib"]]


@each_notebook
def test_install_cell_takes_jax_for_the_accelerator(path, installed):
    assert installed(path, path.parent, ["jax_cuda12_plugin"]) == [[str(ROOT), "matplotlib", "jax[cuda12]"]]
    assert installed(path, path.parent, ["libtpu"]) == [[str(ROOT), "matplotlib", "jax[tpu]"]]


@each_notebook
def test_install_cell_says_what_it_wants(path, installed, tmp_path):
    with pytest.raises(RuntimeError, match="SOURCE"):
        installed(path, tmp_path)
