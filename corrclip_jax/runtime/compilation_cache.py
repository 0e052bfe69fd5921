"""Compilation cache on disk: programs compiled by an earlier process are loaded instead of compiled."""

from contextlib import suppress

from corrclip_jax.runtime.home import chosen_home, default_home


def keep_compiled_programs() -> None:
    """Enable JAX's cache in `$CORRCLIP_HOME/compiled` (by default `~/.cache/corrclip_jax/compiled`).

    A cache that is set already, such as by JAX_COMPILATION_CACHE_DIR, is kept.
    """
    import jax

    if jax.config.jax_compilation_cache_dir is not None:  # type: ignore[attr-defined]
        return
    home = chosen_home() or default_home()
    with suppress(OSError):  # without a writable folder programs are compiled every time
        (home / "compiled").mkdir(parents=True, exist_ok=True)
        jax.config.update("jax_compilation_cache_dir", str(home / "compiled"))
