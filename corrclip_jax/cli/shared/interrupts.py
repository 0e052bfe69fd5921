"""Ctrl-C and SIGTERM: every command ends with a message, a whole terminal and the exit code 130 or 143.

A signal raises `KeyboardInterrupt` or `Terminated` in the main thread, but not before the code that runs there
returns to Python, and a compilation takes minutes. So commands do their long work by `run_interruptibly`.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TypeVar

from rich.console import Console

from corrclip_jax.runtime.signals import handled

T = TypeVar("T")

GRACE_SECONDS = 1.0
"""How long the work may take to end after a signal; then the program ends without it."""

_interrupted = threading.Event()


class Terminated(KeyboardInterrupt):
    """SIGTERM was received."""


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """In the block, SIGTERM raises `Terminated` in the main thread. In other threads, the block changes nothing."""

    def handler(number: int, frame: FrameType | None) -> None:
        raise Terminated

    with handled(handler, signal.SIGTERM):
        yield


def run_interruptibly(work: Callable[[threading.Event], T]) -> T:
    """Run `work` in a thread while this one waits for it or for a signal.

    Args:
      work: gets an event that is set when it should stop; it looks at it from time to time.

    Returns:
      What `work` returns.

    Raises:
      KeyboardInterrupt: after Ctrl-C, and `Terminated` after SIGTERM. The work is given `GRACE_SECONDS` to end.
      BaseException: what `work` raises.
    """
    stop = threading.Event()
    results: list[T] = []
    errors: list[BaseException] = []

    def target() -> None:
        try:
            results.append(work(stop))
        except BaseException as error:
            errors.append(error)

    worker = threading.Thread(target=target, name="corrclip-work", daemon=True)
    _interrupted.clear()
    try:
        worker.start()
        while worker.is_alive():
            worker.join(0.5)
    except KeyboardInterrupt:
        _interrupted.set()
        stop.set()
        with suppress(RuntimeError):  # it has not begun
            worker.join(GRACE_SECONDS)
        raise
    if errors:
        raise errors[0]
    return results[0]


def end_if_interrupted(code: int) -> None:
    """End the process with this exit code if work was interrupted.

    A compilation or a program on the device may go on, even where the work has ended. Python would wait for it, or
    crash in the middle of it. Files are written so that this does no harm.
    """
    if _interrupted.is_set():
        Console(stderr=True).show_cursor()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
