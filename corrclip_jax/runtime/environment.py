"""Versions of packages and a description of the hardware."""

import importlib.metadata
import os
import platform
from typing import Any

import jax

from corrclip_jax._version import __version__


def versions() -> dict[str, str]:
    """Of this package, Python, and what the numbers pass through."""
    names = ("jax", "jaxlib", "flax", "numpy", "pillow", "grain")
    return {"corrclip_jax": __version__, "python": platform.python_version()} | {
        name: importlib.metadata.version(name) for name in names
    }


def hardware() -> dict[str, Any]:
    """Devices, processes, and the first process's machine."""
    return {
        "platform": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "cpu": platform.processor() or platform.machine(),
        "cpu_cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
    }
