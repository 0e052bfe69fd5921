"""`corrclip bench --against torch`: both sides run and are compared, and how it refuses."""

import json
from dataclasses import replace
from io import StringIO

import pytest
import reference  # noqa: F401  (where torch is missing, this file is not collected)
from command_line import corrclip
from rich.console import Console
from sam2_models import SMALL
from small_models import small_config

from corrclip_jax.bench import against_torch as module
from corrclip_jax.cli.runs.bench_tables import against_torch_table
from corrclip_jax.config import with_fields


def run(*arguments):
    return corrclip("bench", *arguments)


@pytest.mark.slow
def test_against_torch_runs_both_and_compares():
    config = replace(small_config(), sam2=SMALL)
    report = json.loads(json.dumps(module.against_torch(config, repeat=1, threads=1)))
    assert list(report["against"]) == ["window", "window, SDPA", "regions"]
    for part in report["against"].values():
        assert part["ratio"] == pytest.approx(part["seconds"]["ours"] / part["seconds"]["torch"])
        [rate] = part["matmul_flops_per_second"]
        assert part["rate_share"] == pytest.approx(part["flops"] / part["seconds"]["ours"] / rate)
    report["huge_pages"] = "madvise"
    lines = StringIO()
    Console(file=lines, width=120).print(against_torch_table(report))
    assert "medians of 1 turns, huge pages: madvise" in lines.getvalue()


def test_against_torch_notices_another_result():
    # The reference has no switch for parts of the method.
    config = with_fields(small_config(), regions={"source": "none"}, parts={"scope": False})
    with pytest.raises(ValueError, match="the two programs disagree"):
        module.against_torch(config, repeat=1, threads=1)


def test_against_torch_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "TESTS", tmp_path)
    result = run("--against", "torch")
    assert result.exit_code == 2
    assert "runs the reference in the tests of a checkout" in result.stderr
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    assert "needs torch, which is not installed" in run("--against", "torch").stderr


def test_against_torch_is_float32():
    assert "computes in float32. Got bfloat16" in run("--against", "torch", "--dtype", "bfloat16").stderr
