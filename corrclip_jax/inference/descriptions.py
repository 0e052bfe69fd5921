"""Descriptions of earlier results, read to report them again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from corrclip_jax.io.files import OutputError

_T = TypeVar("_T")


def read_description(path: Path, take: Callable[[Any], _T]) -> _T:
    """What `take` finds in the content of a description that this program wrote.

    Args:
      path: the JSON file.
      take: given the content; a KeyError, TypeError, AttributeError or ValueError says that the content is another.

    Raises:
      OutputError: if the file cannot be read, or was damaged or changed since.
    """
    try:
        return take(json.loads(path.read_bytes()))
    except OSError as error:
        raise OutputError(
            f"Cannot read {path}: {error.strerror}. It describes an earlier result; --overwrite makes it again."
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise OutputError(
            f"{path} is damaged or changed: it does not describe an earlier result. --overwrite makes it again."
        ) from error
