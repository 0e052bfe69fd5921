"""Options that several commands share."""

import re

from corrclip_jax.cli.shared.console import UsageError


def parse_size(text: str) -> tuple[int, int]:
    """Width and height of "500x375".

    Raises:
      UsageError: for anything else.
    """
    match = re.fullmatch(r"([1-9]\d*)\s*[xX]\s*([1-9]\d*)", text.strip())
    if match is None:
        raise UsageError(f"--size must be width x height in pixels, as in 500x375. Got {text!r}.")
    return int(match[1]), int(match[2])
