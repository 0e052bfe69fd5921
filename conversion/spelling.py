"""Published names of tensors: the rules of a table read backwards, from a place in our tree to names in a file."""

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from re import _parser  # type: ignore[attr-defined]  # the standard library's own: the parts of an expression
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
    return list(_spelled(_parser.parse(pattern), groups))


def _spelled(parsed: Any, groups: Mapping[int, str]) -> Iterator[str]:
    parts: list[list[str]] = []
    for kind, value in parsed:
        match str(kind):
            case "LITERAL":
                parts.append([chr(value)])
            case "SUBPATTERN" if value[0] in groups:
                parts.append([groups[value[0]]])
            case "SUBPATTERN":
                parts.append(list(_spelled(value[-1], groups)))
            case "IN":
                parts.append([chr(code) for kind, code in value if str(kind) == "LITERAL"])
            case "BRANCH":
                parts.append([text for branch in value[1] for text in _spelled(branch, groups)])
            case "MAX_REPEAT":
                least, _, repeated = value
                parts.append([text * least for text in _spelled(repeated, groups)])
    yield from map("".join, itertools.product(*parts))
