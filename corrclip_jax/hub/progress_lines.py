"""Progress of downloads as lines on stderr, in place of the bar of the hub's client."""

import inspect
import io
import sys
import time
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.utils import tqdm

_FIRST_LINE, _BETWEEN_LINES = 2.0, 10.0
"""Seconds of a download until its first line, and between lines."""


def progress_lines(name: str) -> dict[str, Any]:
    """Arguments of the client's download that print its progress as lines; older clients have none.

    Args:
      name: of the file, which the lines begin with.
    """
    known = "tqdm_class" in inspect.signature(hf_hub_download).parameters
    return {"tqdm_class": type("_NamedBar", (_Bar,), {"shown": name})} if known else {}


class _Lines(io.StringIO):
    """A file for a progress bar that prints it as lines on stderr, the first after some seconds."""

    def __init__(self) -> None:
        super().__init__()
        self._next = time.monotonic() + _FIRST_LINE

    def write(self, text: str) -> int:
        """Print the state of the bar, where it is time."""
        if text.strip() and time.monotonic() >= self._next:
            self._next = time.monotonic() + _BETWEEN_LINES
            print(f"  {text.strip()}", file=sys.stderr, flush=True)
        return len(text)


class _Bar(tqdm):
    """A progress bar of the hub's client, as lines: a terminal's own bar would spoil the command's."""

    shown = ""

    def __init__(self, *args: Any, **options: Any) -> None:
        as_lines = {"file": _Lines(), "disable": False, "ncols": 76, "ascii": True, "desc": self.shown}
        super().__init__(*args, **options | as_lines)
