"""Commands report why JAX cannot start a platform, and do not blame the weights for it."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from command_line import corrclip
from PIL import Image

from corrclip_jax.runtime.environment import BackendError, start_backend

COMMANDS = {
    "segment": ("segment", "photo.png", "-c", "grass, sky", "--model", "tiny", "--regions", "none"),
    "regions of superpixels": ("regions", "--images", "photo.png", "--source", "slic", "--out", "maps"),
}


@pytest.mark.process
@pytest.mark.parametrize("name", COMMANDS)
def test_a_platform_that_is_not_there(name, tmp_path):
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "photo.png")
    done = subprocess.run(
        [sys.executable, "-m", "corrclip_jax", *COMMANDS[name]],
        cwd=tmp_path,
        env=os.environ | {"JAX_PLATFORMS": "tpu_that_is_not_there"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "JAX cannot start its backend: Unable to initialize backend" in done.stderr
    assert "JAX_PLATFORMS is 'tpu_that_is_not_there'" in done.stderr
    assert "damaged" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_platform_for_whose_absence_jax_gives_no_reason(monkeypatch):
    def devices():
        raise AssertionError

    monkeypatch.setattr(jax, "devices", devices)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    with pytest.raises(
        BackendError, match=r"backend: it found no device.* JAX_PLATFORMS is 'cuda': unset it"
    ):
        start_backend()


def test_an_evaluation_starts_the_backend_before_it_asks_for_processes(monkeypatch, tmp_path):
    def fails(*arguments):
        raise AssertionError

    monkeypatch.setattr(jax, "devices", fails)
    monkeypatch.setattr(jax, "process_index", fails)
    done = corrclip("evaluate", "scenes", "--model", "tiny", "--out", tmp_path / "out")
    assert done.exit_code == 2
    assert "JAX cannot start its backend: it found no device" in done.stderr
