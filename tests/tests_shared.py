"""Where the goldens and photos that live outside the project are, if they are here at all."""

import os
from pathlib import Path

_SHARED = Path(os.environ.get("CORRCLIP_SHARED", Path(__file__).parents[2] / "shared"))

# Outputs of the authors' program; tests/goldens/ is collected only where they are.
GOLDENS = _SHARED / "goldens" if (_SHARED / "goldens" / "seeded.py").is_file() else None
# The same of CorrCLIPv2.
GOLDENS_V2 = _SHARED / "goldens_v2" if (_SHARED / "goldens_v2" / "seeded_v2.py").is_file() else None
# Real photographs, benchmark trees and CLIP's vocabulary.
DATA = _SHARED / "data" if (_SHARED / "data" / "photos").is_dir() else None


def with_devices(count: int) -> str:
    """XLA_FLAGS of a process with this number of simulated CPU devices, besides this process's own flags."""
    return f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={count}".strip()
