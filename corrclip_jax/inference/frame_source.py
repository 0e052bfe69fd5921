"""Frame source: a thread that reads frames ahead from any iterator, as a camera or a file, in bounded memory."""

import threading
from collections import deque
from collections.abc import Generator, Iterable
from types import TracebackType
from typing import Any

Numbered = tuple[int, Any]
"""A frame with its number in the iterator, from 0."""


_GRACE_SECONDS = 5.0


class FrameSource:
    """Frames that a thread reads from an iterator while others are worked on; a context manager.

    With `newest` a frame that has not been taken when the next one comes is dropped. Otherwise the iterator waits
    while `ahead` frames have not been taken. A generator is closed at the end.

    Attributes:
      ahead: may be changed meanwhile.
    """

    def __init__(self, frames: Iterable[Any], *, ahead: int = 2, newest: bool = False):
        """Begin to read."""
        self._frames = iter(frames)
        self._waiting: deque[Numbered] = deque(maxlen=1 if newest else None)
        self.ahead, self._newest = ahead, newest
        self._changed = threading.Condition()
        self._ended = self._stopped = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._read, name="corrclip-frames", daemon=True)
        self._thread.start()

    def __enter__(self) -> "FrameSource":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join(_GRACE_SECONDS)  # what it reads from may be closed next

    def take(self, most: int) -> list[Numbered]:
        """The next frames: at least one, for which this waits, and those up to `most` that are there already.

        Returns:
          The frames; empty at the end.

        Raises:
          BaseException: what the iterator raised, after the frames before it.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended)
            if not self._waiting and self._error is not None:
                raise self._error
            taken = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
            self._changed.notify_all()
            return taken

    def _read(self) -> None:
        try:
            for numbered in enumerate(self._frames):
                with self._changed:
                    self._changed.wait_for(self._has_room)
                    if self._stopped:
                        break
                    self._waiting.append(numbered)
                    self._changed.notify_all()
        except BaseException as error:  # raised again where frames are taken
            self._error = error
        finally:
            if isinstance(self._frames, Generator):
                self._frames.close()
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _has_room(self) -> bool:
        return self._stopped or self._newest or len(self._waiting) < self.ahead
