"""What is installed is what is here: one import name, converters and register inside, no torch needed."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[1]
USERS = ("converted", "published")  # in weights/, what users make or put there

EVERY_MODULE = """
import importlib, pkgutil, sys
sys.modules["torch"] = None  # importing it fails
import corrclip_jax
for module in pkgutil.walk_packages(corrclip_jax.__path__, "corrclip_jax."):
    importlib.import_module(module.name)
for name in corrclip_jax.__all__:
    getattr(corrclip_jax, name)
from corrclip_jax.hub.presets import available_models
assert "vit-b" in str(available_models())
assert corrclip_jax.load("tiny")[0].name == "tiny"
print(corrclip_jax.__file__)
"""


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The wheel of a checkout in which weights were converted and published ones put, built and unpacked."""
    folder, source = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("source")
    for name in ("corrclip_jax", "conversion", "weights"):
        ignored = shutil.ignore_patterns("__pycache__", "converted", "published")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, source)
    for name in USERS:
        (source / "weights" / name / "vit-b").mkdir(parents=True)
        (source / "weights" / name / "vit-b" / "large").write_text("not in a wheel")
    build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    run = [sys.executable, "-c", build, str(folder)]
    name = subprocess.run(run, cwd=source, check=True, capture_output=True, text=True).stdout.split()[-1]
    with zipfile.ZipFile(folder / name) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def test_the_wheel_adds_one_import_name(wheel):
    names = {path.name for path in wheel.iterdir() if not path.name.endswith(".dist-info")}
    assert names == {"corrclip_jax"}


def test_the_wheel_holds_converters_and_register_as_real_files(wheel):
    package = wheel / "corrclip_jax"
    for folder in ("conversion", "weights"):
        assert not (package / folder).is_symlink()
    assert (package / "conversion" / "convert.py").is_file()
    assert (package / "weights" / "registry.json").is_file()
    for name in USERS:
        assert not (package / "weights" / name).exists()


def modules(package):
    """The content of every module by its path; links to folders are followed."""
    folders = [Path(folder) for folder, *_ in os.walk(package, followlinks=True)]
    return {
        path.relative_to(package): path.read_bytes() for folder in folders for path in folder.glob("*.py")
    }


def test_every_module_imports_without_torch(wheel, tmp_path):
    """Those of the wheel do, and are those of the checkout, byte by byte, but for the recipes of the weights."""
    here = modules(ROOT / "corrclip_jax")
    assert modules(wheel / "corrclip_jax") == {p: here[p] for p in here if p.parts[0] != "weights"}
    run = subprocess.run(
        [sys.executable, "-c", EVERY_MODULE],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(wheel)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert Path(run.stdout.strip()).parents[1] == wheel


def test_the_repository_holds_no_large_file():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    large = [name for name in listed.stdout.split("\0") if name and (ROOT / name).stat().st_size > 10e6]
    assert not large
