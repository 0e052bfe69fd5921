"""`dtype="auto"`: what is chosen for which device, and that it is said."""

from types import SimpleNamespace

import jax
from command_line import assert_refused, corrclip

from corrclip_jax.cli.shared.options import Precision, compute_type
from corrclip_jax.config import Config
from corrclip_jax.inference.settings import with_settings
from corrclip_jax.runtime import compute_type as module


def on(monkeypatch, tmp_path, platform, jax_version=(0, 12, 0), flags="fpu avx2", **device):
    (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
    monkeypatch.setattr(module, "_CPU_FLAGS", tmp_path / "cpuinfo")
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(platform=platform, **device)])
    monkeypatch.setattr(jax, "__version_info__", jax_version)
    return module.automatic().dtype


def test_each_device_gets_the_type_that_it_is_fast_in(monkeypatch, tmp_path):
    def chosen(*arguments, **named):
        return on(monkeypatch, tmp_path, *arguments, **named)

    assert chosen("tpu", device_kind="TPU v5 lite") == "bfloat16"
    assert chosen("gpu", device_kind="NVIDIA A100", compute_capability="8.0") == "bfloat16"
    assert chosen("gpu", device_kind="Tesla T4", compute_capability="7.5") == "float32"
    assert chosen("cpu") == "float32"
    assert chosen("cpu", flags="fpu amx_bf16 amx_tile") == "bfloat16"
    assert chosen("cpu", (0, 10, 2), "fpu amx_bf16 amx_tile") == "float32"


def test_a_machine_that_says_nothing_of_its_cpu_has_no_amx(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "_CPU_FLAGS", tmp_path / "missing")
    assert not module.cpu_has_amx()


def test_settings_take_auto_and_the_configuration_says_what_it_is(monkeypatch, tmp_path):
    on(monkeypatch, tmp_path, "tpu", device_kind="TPU v5 lite")
    assert with_settings(Config(), dtype="auto").dtype == "bfloat16"


def test_commands_say_what_they_chose(monkeypatch, tmp_path, capsys):
    on(monkeypatch, tmp_path, "gpu", device_kind="NVIDIA A100", compute_capability="8.0")
    assert compute_type(Precision.auto) == "bfloat16"
    assert "--dtype auto takes bfloat16: NVIDIA A100, compute capability 8" in capsys.readouterr().err
    assert compute_type(Precision.float32) == "float32"
    assert compute_type(None) is None


def test_auto_is_refused_for_devices_elsewhere(tmp_path):
    result = corrclip("export", "--out", tmp_path / "program", "-m", "tiny", "-c", "cat", "--dtype", "auto")
    assert_refused(result, "say nothing of the platforms of an exported program: give float32 or bfloat16")
