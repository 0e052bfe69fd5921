"""The folder where weights and compiled programs are kept: `$CORRCLIP_HOME`, else `~/.cache/corrclip_jax`."""

import os
from pathlib import Path

HOME_VARIABLE = "CORRCLIP_HOME"


def chosen_home() -> Path | None:
    """The folder that the user chose, `$CORRCLIP_HOME`; None where it is not set."""
    named = os.environ.get(HOME_VARIABLE)
    return Path(named).expanduser() if named else None


def default_home() -> Path:
    """The folder where none is chosen."""
    return Path.home() / ".cache" / "corrclip_jax"
