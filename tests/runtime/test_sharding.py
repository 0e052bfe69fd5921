"""Many devices give the results of one: eight simulated in a process, and two processes that talk over loopback."""

import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import jax
import many_devices
import numpy as np
import pytest
from small_models import (
    jitted,
    region_program,
    small_bank,
    small_config,
    small_params,
    small_v2,
    write_vocabulary,
)
from tests_shared import with_devices

from corrclip_jax import embed_text, with_fields
from corrclip_jax.regions.sources import SOURCES

pytestmark = [pytest.mark.slow, pytest.mark.process]

PROGRAM = Path(many_devices.__file__)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A file with two models and the results of this process's one device, which all others must equal.

    The first model is given regions; the second has a bank and, on many devices, finds these regions by SAM 2, with
    thresholds that its random weights pass.
    """
    folder = tmp_path_factory.mktemp("alone")
    config = with_fields(small_config(write_vocabulary(folder), sam2=False), method={"max_windows": 6})
    every = {"iou_threshold": -99.0, "stability_threshold": 0.0, "nms_threshold": 1.0}
    v2 = with_fields(small_v2(small_config()), method={"max_windows": 6}, regions=every)
    v2 = with_fields(v2, method={"max_regions": SOURCES["sam2"].cap(v2) - 1})  # as many rows of support
    params, params_v2, bank = small_params(config), small_params(v2), small_bank(v2, 50)
    text = embed_text(config, params, many_devices.CLASSES)
    _, images, sizes = many_devices.pictures()
    regions = np.maximum(region_program(v2)(params_v2, images, sizes), 0)
    assert regions.max() > 1
    given = {"sizes": sizes, "regions": regions}
    labelled = jitted(config)(params, images, text, **given)
    supported = jitted(v2)(params_v2, images, text, bank=bank, **given)
    arrays = jax.device_get((text, (params, given, labelled), (params_v2, bank, supported)))
    (folder / "alone").write_bytes(pickle.dumps((config, v2, arrays)))
    return folder / "alone"


def start(*arguments, devices):
    paths = [str(PROGRAM.parents[1]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return subprocess.Popen(
        [sys.executable, PROGRAM, *map(str, arguments)],
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join(paths),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": with_devices(devices),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def assert_equal(*programs):
    """Wait for all of them, and show what the first that failed had to say."""
    said = [program.communicate() for program in programs]
    for program, (out, errors) in zip(programs, said, strict=True):
        assert program.returncode == 0, errors[-4000:]
        assert out.splitlines()[-1] == "equal"


def test_eight_devices_equal_one(alone):
    assert_equal(start(alone, devices=8))


def test_two_processes_equal_one(alone):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert_equal(*(start(alone, process, port, devices=2) for process in range(2)))
