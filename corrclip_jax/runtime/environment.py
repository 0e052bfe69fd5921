"""Versions of packages and a description of the hardware: what made a result."""

import importlib.metadata
import os
import platform
import re
from typing import Any

import jax

from corrclip_jax._version import __version__

_RESULTS = ("corrclip_jax", "python", "jax", "jaxlib", "flax", "numpy", "pillow")


class BackendError(OSError):
    """JAX cannot start its backend on the chosen platform."""


def start_backend() -> None:
    """Start JAX's backend, so that a failure to start it is reported as such, before anything is loaded.

    Raises:
      BackendError: JAX's own reason, and which variable chose the platform.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        chosen = os.environ.get("JAX_PLATFORMS")
        # Some assertions of JAX have no text.
        reason = str(error) or "it found no device and gives no reason"
        advice = (
            f"JAX_PLATFORMS is {chosen!r}: unset it to let JAX choose, or set it to cpu."
            if chosen
            else "Run `python -c 'import jax; print(jax.devices())'` to see which devices JAX finds."
        )
        raise BackendError(f"JAX cannot start its backend: {reason}. {advice}") from error


def device_name() -> str:
    """The platform and the kind of the devices, as "cpu: cpu"."""
    device = jax.devices()[0]
    return f"{device.platform}: {device.device_kind}"


def versions(*names: str) -> dict[str, str | None]:
    """Versions by name, None for a package that is not installed.

    Args:
      names: packages in any spelling that the package index takes for one name ("corrclip_jax", "corrclip-jax"), or
        "python"; by default all that a score depends on.
    """
    return {name: _version(name) for name in names or _RESULTS}


def _version(name: str) -> str | None:
    if name == "python":
        return platform.python_version()
    if re.sub(r"[-_.]+", "-", name).lower() == "corrclip-jax":  # known in a plain checkout, too
        return __version__
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def hardware() -> dict[str, Any]:
    """The devices and processes of the run, and the machine of this process."""
    return {
        "platform": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "processes": jax.process_count(),
        "cpu": platform.processor() or platform.machine(),
        "cpu_cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
    }
