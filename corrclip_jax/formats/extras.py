"""Extra packages that a format or a library needs, and what to install where one is missing."""

from importlib.util import find_spec


class MissingExtraError(ImportError):
    """A package that is not installed, with the command that installs it."""


def require(package: str, purpose: str, extra: str | None = None, otherwise: str = "") -> None:
    """Check that a package is installed.

    Args:
      package: its import name.
      purpose: what needs it, a plural, for the message.
      extra: the extra of this package that has it; None for a package that users choose themselves.
      otherwise: what else one can do.

    Raises:
      MissingExtraError: if it is not.
    """
    if find_spec(package) is None:
        what = package if extra is None else f"'corrclip-jax[{extra}]'"
        choice = f", {otherwise}" if otherwise else ""
        raise MissingExtraError(
            f"{purpose} need {package}: python -m pip install {what}{choice}.", name=package
        )
