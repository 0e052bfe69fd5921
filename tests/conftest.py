"""Shared set-up: import paths, and the goldens folder, which is collected only where its files are."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from tests_shared import GOLDENS  # needs the path

collect_ignore_glob = [] if GOLDENS else ["goldens/*"]


def pytest_report_header():
    return f"goldens of the authors' program: {GOLDENS or 'not here, tests/goldens is not collected'}"
