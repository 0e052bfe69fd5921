"""Display matrix of a video: how its stored frames are turned and mirrored to stand upright."""

from typing import NamedTuple

import numpy as np

_ONE = 1 << 16  # of fixed point


class DisplayMatrix(NamedTuple):
    """The nine numbers that containers store, by rows; 16.16 fixed point, the last column 2.30.

    Only turns by quarters and reflections are applied to pixels; other matrices are kept for players.
    """

    values: tuple[int, ...]

    @property
    def _steps(self) -> tuple[bool, bool, bool]:
        """Whether axes are swapped, then rows reversed, then columns."""
        a, b, _, c, d, *_ = self.values
        if a == d == 0 and abs(b) == abs(c) == _ONE:
            return True, b < 0, c < 0
        if b == c == 0 and abs(a) == abs(d) == _ONE:
            return False, d < 0, a < 0
        return False, False, False

    def upright(self, stored: np.ndarray) -> np.ndarray:
        """A stored frame [h, w, ...] as it is shown."""
        swap, rows, columns = self._steps
        array = stored.swapaxes(0, 1) if swap else stored
        return np.ascontiguousarray(array[:: -1 if rows else 1, :: -1 if columns else 1])

    def stored(self, upright: np.ndarray) -> np.ndarray:
        """An upright frame as it is stored: the inverse of `upright`."""
        swap, rows, columns = self._steps
        array = upright[:: -1 if rows else 1, :: -1 if columns else 1]
        return np.ascontiguousarray(array.swapaxes(0, 1) if swap else array)


IDENTITY = DisplayMatrix((_ONE, 0, 0, 0, _ONE, 0, 0, 0, 1 << 30))
