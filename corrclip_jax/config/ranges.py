"""Ranges of settings: what each number of a configuration may be, and the error for what it may not."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any


@dataclass(frozen=True)
class Range:
    """What a setting may be.

    Attributes:
      whole: only whole numbers.
      least, most: the ends, which belong to it.
      above: `least` does not belong to it.
      optional: None is allowed, too.
    """

    whole: bool = False
    least: float = -math.inf
    most: float = math.inf
    above: bool = False
    optional: bool = False

    def holds(self, value: Any) -> bool:
        """Whether a value is allowed; NaN, infinities and True never are."""
        if value is None:
            return self.optional
        if isinstance(value, bool) or not isinstance(value, Integral if self.whole else Real):
            return False
        number = float(value)
        inside = self.least < number if self.above else self.least <= number
        return math.isfinite(number) and inside and number <= self.most

    def __str__(self) -> str:
        """The range in words."""
        kind = "a whole number" if self.whole else "a finite number"
        if self.most < math.inf:
            kind += f" from {self.least:g} to {self.most:g}"
        elif self.least > -math.inf:
            kind += f" above {self.least:g}" if self.above else f", {self.least:g} or more"
        return f"None or {kind}" if self.optional else kind


COUNT = Range(whole=True, least=1.0)
COUNT_OR_NONE = Range(whole=True, least=1.0, optional=True)
COUNT_OR_ZERO = Range(whole=True, least=0.0)
FINITE = Range()
POSITIVE = Range(least=0.0, above=True)
NOT_NEGATIVE = Range(least=0.0)
SHARE = Range(least=0.0, most=1.0)


def check_ranges(part: str, config: Any, ranges: Mapping[str, Range]) -> None:
    """Check fields of a part of the configuration.

    >>> from types import SimpleNamespace
    >>> check_ranges("method", SimpleNamespace(stride=0), {"stride": COUNT})
    Traceback (most recent call last):
    ValueError: method.stride must be a whole number, 1 or more. Got 0.

    Args:
      part: the name of the part, for messages.
      config: the part.
      ranges: what its fields may be, by their names.

    Raises:
      ValueError: for the first field that is out of its range.
    """
    for name, allowed in ranges.items():
        if not allowed.holds(value := getattr(config, name)):
            raise ValueError(f"{part}.{name} must be {allowed}. Got {value!r}.")
