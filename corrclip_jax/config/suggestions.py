"""Suggestions: the known name that is nearest to one that does not exist."""

import difflib
from collections.abc import Iterable


def did_you_mean(given: str, known: Iterable[str]) -> str:
    """A sentence with the nearest known name, to be added to a message; nothing if none is near.

    >>> did_you_mean("vit_b", ["tiny", "vit-b", "vit-l"])
    ' Did you mean vit-b?'
    >>> did_you_mean("photos", ["tiny", "vit-b"])
    ''
    """
    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(given.lower(), by_lower, 1, cutoff=0.7)
    return f" Did you mean {by_lower[near[0]]}?" if near else ""
