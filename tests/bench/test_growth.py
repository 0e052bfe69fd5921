"""`bench.growth`: what it reports and draws; nothing here looks at how long anything took."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from small_models import small_model

from corrclip_jax.bench import growth
from corrclip_jax.io.own_files import ForeignFileError

START = """
from runpy import run_module
from corrclip_jax.hub import embedded
embedded.EMBEDDED = {!r}
run_module("corrclip_jax.bench.growth", run_name="__main__")
"""


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Small amounts of the kinds that share the most code, and a small model in the place of the embedded one."""
    model = str(small_model(tmp_path, sam2=False))
    real = subprocess.run

    def run(command, **options):
        assert command[:3] == [sys.executable, "-m", "corrclip_jax.bench.growth"]
        return real([sys.executable, "-c", START.format(model), *command[3:]], **options)

    monkeypatch.setattr(growth.subprocess, "run", run)
    monkeypatch.setattr(growth, "EMBEDDED", model)
    monkeypatch.setattr(growth, "_IMAGES", 2)
    for name, amounts in {"windows": (1, 2), "images": (2, 3), "devices": (1, 2)}.items():
        monkeypatch.setitem(growth.KINDS, name, replace(growth.KINDS[name], amounts=amounts))


@pytest.mark.slow
def test_costs_are_printed_written_and_drawn(small, tmp_path, monkeypatch, capsys, shared_programs):
    arguments = ["growth", "--only", "windows", "images", "--repeat", "1", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    growth.main()
    lines = capsys.readouterr().out.splitlines()
    names = ["windows 1", "windows 2", "windows", "images 2", "images 3", "images"]
    assert [line.split(":")[0] for line in lines] == names
    report = json.loads((tmp_path / "growth.json").read_text())
    for name, amounts in {"windows": [1, 2], "images": [2, 3]}.items():
        found = report["growth"][name]
        assert [point["amount"] for point in found["points"]] == amounts
        assert all(point["seconds"] > 0 and point["bytes"] > 1 << 18 for point in found["points"])
        assert found["slope"] == growth.slope([growth.Point(**point) for point in found["points"]])
    assert report["device"]["platform"] == "cpu"
    picture = (tmp_path / "growth.svg").read_text()
    assert picture.count('<g id="axes_') == 2 * 2


@pytest.mark.slow
@pytest.mark.process
def test_simulated_devices_are_measured_in_processes_of_their_own(small):
    report = growth.measure(["devices"], 1, show=lambda line: None)
    points = report["growth"]["devices"]["points"]
    assert [point["amount"] for point in points] == [1, 2]
    assert report["device"]["count"] == 1


def test_foreign_files_are_kept(tmp_path, monkeypatch):
    (tmp_path / "growth.json").write_text("mine")
    monkeypatch.setattr(sys, "argv", ["growth", "--out", str(tmp_path)])
    with pytest.raises(ForeignFileError):
        growth.main()
    assert (tmp_path / "growth.json").read_text() == "mine"
