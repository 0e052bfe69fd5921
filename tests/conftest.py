"""Shared set-up: import paths, compiled programs that are kept, and the goldens, where their files are."""

import os
import shutil
import sys
from pathlib import Path

import jax

sys.path.insert(0, str(Path(__file__).parent))

from tests_shared import GOLDENS  # needs the path

MOST_BYTES = 1 << 30  # of compiled programs, before the next run begins anew

collect_ignore_glob = [] if GOLDENS else ["goldens/*"]


def pytest_configure(config):
    """What one test or process compiles serves the others, and the next run (`--cache-clear` forgets it)."""
    folder = config.cache.mkdir("compiled")
    first = not hasattr(config, "workerinput")
    if first and sum(file.stat().st_size for file in folder.iterdir()) > MOST_BYTES:
        shutil.rmtree(folder)
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])


def pytest_report_header():
    return f"goldens of the authors' program: {GOLDENS or 'not here, tests/goldens is not collected'}"
