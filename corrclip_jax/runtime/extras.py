"""Extra packages that a format, a library or a command needs, and what to install where one is missing."""

from collections.abc import Sequence
from importlib.util import find_spec


class MissingExtraError(ImportError):
    """A package that is not installed, with the command that installs it."""


def require(
    packages: str | Sequence[str], purpose: str, extra: str | None = None, otherwise: str = ""
) -> None:
    """Check that packages are installed.

    Args:
      packages: an import name, or several.
      purpose: what needs them, a plural, for the message.
      extra: the extra of this package that has them; None for a package that users choose themselves.
      otherwise: what else one can do.

    Raises:
      MissingExtraError: if one is not.
    """
    names = [packages] if isinstance(packages, str) else packages
    if missing := [name for name in names if find_spec(name) is None]:
        package = ", ".join(missing)
        what = package if extra is None else f"'corrclip-jax[{extra}]'"
        choice = f", {otherwise}" if otherwise else ""
        raise MissingExtraError(
            f"{purpose} need {package}: python -m pip install {what}{choice}.", name=missing[0]
        )
