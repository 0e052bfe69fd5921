"""Published names of tensors: the rules of a table read backwards, from a place in our tree to names in a file."""

import itertools
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

_GROUP = re.compile(r"\\\\(\d)")


def published_name(rules: Iterable[Any], path: str, present: Iterable[str] = ()) -> str | None:
    r"""The name that a table's rules read a place of our tree from; None where no rule does.

    Args:
      rules: `Rule`s of a table.
      path: the place, '/'-joined.
      present: names of the file at hand; of several spellings the one most like them is taken.

    >>> from corrclip_jax.conversion.rules import norm
    >>> published_name(norm(r"(?:encoder\.layer|layers)\.(\d+)\.norm", r"blocks_\1/norm"), "blocks_3/norm/bias")
    'encoder.layer.3.norm.bias'
    """
    found: list[str] = []
    for rule in rules:
        for target in (rule.target,) if isinstance(rule.target, str) else rule.target:
            if target is None or (match := _target_pattern(target).fullmatch(path)) is None:
                continue
            groups = {int(name[1:]): value for name, value in match.groupdict().items()}
            found += [
                name for name in _spellings(rule.source, groups) if _leads_to(rule.source, name, target, path)
            ]
    present = list(present)
    return max(found, key=lambda name: _likeness(name, present), default=None)


def _leads_to(source: str, name: str, target: str, path: str) -> bool:
    match = re.fullmatch(source, name)
    return match is not None and match.expand(target) == path


def _likeness(name: str, present: Iterable[str]) -> int:
    """The longest beginning that a name shares with one of others."""
    return max((_shared(name, other) for other in present), default=0)


def _shared(left: str, right: str) -> int:
    return next(
        (i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right))
    )


@lru_cache(maxsize=4096)
def _target_pattern(target: str) -> re.Pattern[str]:
    """The regular expression of a rule's target, whose groups are named g1, g2 ..."""
    seen: set[str] = set()

    def group(match: re.Match[str]) -> str:
        name = f"g{match[1]}"
        again = name in seen
        seen.add(name)
        return f"(?P={name})" if again else f"(?P<{name}>.+)"

    return re.compile(_GROUP.sub(group, re.escape(target)))


def _spellings(pattern: str, groups: Mapping[int, str]) -> list[str]:
    """Strings that a regular expression matches, with the content of its groups given: one for each alternative."""
    return _Spelling(pattern, groups).alternatives()


class _Spelling:
    """A reader of the regular expressions of the tables: literals, groups, alternatives, sets, repetitions.

    What may be repeated is spelled as seldom as is allowed.
    """

    def __init__(self, pattern: str, groups: Mapping[int, str]):
        self._rest, self._groups, self._number = pattern, groups, 0

    def alternatives(self) -> list[str]:
        """The spellings up to the end of the group, or of the expression."""
        found: list[str] = []
        parts: list[list[str]] = []
        while self._rest and self._rest[0] != ")":
            if self._rest[0] == "|":
                self._take()
                found += map("".join, itertools.product(*parts))
                parts = []
            else:
                texts = self._atom()
                least = {"?": 0, "*": 0, "+": 1}.get(self._rest[:1])
                if least is not None:
                    self._take()
                parts.append([text * (1 if least is None else least) for text in texts])
        return [*found, *map("".join, itertools.product(*parts))]

    def _atom(self) -> list[str]:
        """The spellings of the next part, without its repetition; none of a class of characters such as \\d."""
        match self._take():
            case "(":
                number = 0
                if self._rest.startswith("?:"):
                    self._rest = self._rest[2:]
                else:
                    number = self._number = self._number + 1
                inside = self.alternatives()
                self._take()
                return [self._groups[number]] if number in self._groups else inside
            case "[":
                inside_set, _, self._rest = self._rest.partition("]")
                return _members(inside_set)
            case "\\":
                return [] if (letter := self._take()) in "dsw" else [letter]
            case ".":
                return [""]
            case char:
                return [char]

    def _take(self) -> str:
        char, self._rest = self._rest[0], self._rest[1:]
        return char


def _members(inside: str) -> list[str]:
    """The characters of a set such as "01" or "0-3"."""
    if first_last := re.fullmatch(r"(.)-(.)", inside):
        return [chr(code) for code in range(ord(first_last[1]), ord(first_last[2]) + 1)]
    return list(inside)
