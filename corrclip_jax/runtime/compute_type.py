"""Compute type of the networks, chosen by the devices at hand: what `dtype="auto"` means."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import jax

from corrclip_jax.config import Dtype, DtypeChoice
from corrclip_jax.runtime.environment import start_backend

_CPU_FLAGS = Path("/proc/cpuinfo")
_FIRST_JAX_WITH_AMX = (0, 12)
_FIRST_GPU = 8.0  # compute capability


class ComputeType(NamedTuple):
    """A compute type, and why it was chosen."""

    dtype: Dtype
    reason: str


def automatic() -> ComputeType:
    """bfloat16 where the devices multiply it faster than float32, else float32.

    Raises:
      BackendError: where JAX cannot start its backend.
    """
    start_backend()
    device: Any = jax.devices()[0]
    if device.platform == "tpu":
        return ComputeType("bfloat16", device.device_kind)
    if device.platform == "gpu":
        capability = float(getattr(device, "compute_capability", 0))
        fast = capability >= _FIRST_GPU
        return ComputeType(
            "bfloat16" if fast else "float32", f"{device.device_kind}, compute capability {capability:g}"
        )
    if not cpu_has_amx():
        return ComputeType("float32", "a CPU without AMX")
    if jax.__version_info__[:2] < _FIRST_JAX_WITH_AMX:
        return ComputeType("float32", f"JAX {jax.__version__} does not use this CPU's AMX; JAX 0.12 does")
    return ComputeType("bfloat16", "a CPU with AMX")


def cpu_has_amx() -> bool:
    """Whether this machine's CPU multiplies tiles of bfloat16; known under Linux only."""
    try:
        return re.search(r"\bamx_bf16\b", _CPU_FLAGS.read_text("utf-8", "replace")) is not None
    except OSError:
        return False


def resolve(dtype: DtypeChoice | None) -> Dtype | None:
    """ "auto" as the devices' compute type; anything else as it is."""
    return automatic().dtype if dtype == "auto" else dtype
