"""Locks of folders: of several processes that want the same weights one makes them, the others wait for it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from huggingface_hub.utils import WeakFileLock

from corrclip_jax.runtime.home import HOME_VARIABLE


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a folder through a file next to it; the folder itself may not exist yet.

    Each folder has one lock, whoever makes it. Who holds that of a model may take those of its parts, one at a
    time, but never the other way round: so nobody waits in a circle.

    Raises:
      OSError: where no file can be written beside the folder; the message says what to do.
    """
    with ExitStack() as stack:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(WeakFileLock(folder.with_name(f".{folder.name}.lock")))
        except OSError as error:
            raise OSError(
                f"{folder} cannot be written: {error.strerror or error}. Allow writing there, or choose another "
                f"place for weights with {HOME_VARIABLE}."
            ) from error
        yield
