"""Compiled programs that outlive the process: the second run of a photo size starts at once."""

import os
from contextlib import suppress
from pathlib import Path


def keep_compiled_programs() -> None:
    """Keep compiled programs in `compiled/` next to the weights, unless the user has named a folder."""
    import jax

    if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
        return
    home = Path(os.environ.get("CORRCLIP_HOME") or Path.home() / ".cache" / "corrclip_jax").expanduser()
    with suppress(OSError):  # nowhere to keep them: compile every time
        (home / "compiled").mkdir(parents=True, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", str(home / "compiled"))
