"""Prompts that the mask decoders of SAM and SAM 2 are compared on."""

from collections.abc import Iterable
from typing import Any

import pytest

# Points a prompt, whether a box, whether a mask, whether three masks are made.
_KINDS = {
    "point": (1, False, False, False),
    "point-three-masks": (1, False, False, True),
    "four-points": (4, False, False, False),
    "box": (0, True, False, False),
    "points-box-mask-three-masks": (3, True, True, True),
    "point-mask": (1, False, True, False),
}
NOTHING = (0, False, False, False)


def decodings(configurations: Iterable[str], whole: str, **more: tuple[int, bool, bool, bool]) -> list[Any]:
    """Parameters of a test: every configuration with the least and the most, `whole` with every kind of prompt.

    Args:
      configurations: names of configurations.
      whole: one of them.
      more: further kinds, by name.
    """
    return [
        pytest.param(name, *kind, id=f"{name}-{prompt}")
        for name in configurations
        for prompt, kind in (_KINDS | more).items()
        if name == whole or prompt in ("point", "points-box-mask-three-masks")
    ]
