"""Notes on photos and class names: warnings of the package, collected and printed as notes of a command."""

import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from corrclip_jax.cli.shared.console import note


class Notes(defaultdict[str, list[str]]):
    """Notes by the path of their photo."""

    def show(self) -> None:
        """Print each note once, with the photos that it is about."""
        photos: dict[str, list[str]] = {}
        for photo, notes in self.items():
            for text in notes:
                photos.setdefault(text, []).append(photo)
        for text, about in photos.items():
            if len(about) == 1:
                note(f"{about[0]} {text}")
            else:
                note(f"{len(about)} photos, {about[0]} among them: each {text}")


@contextmanager
def collected_notes() -> Iterator[Notes]:
    """In the block, warnings about photos are collected; other warnings of the package are printed at once."""
    from corrclip_jax.io.photos import PhotoWarning
    from corrclip_jax.text.classes import ClassNameWarning

    notes = Notes(list)

    def show(message: Any, category: type[Warning], *where: Any, **more: Any) -> None:
        if isinstance(message, PhotoWarning):
            if message.note not in notes[message.photo]:
                notes[message.photo].append(message.note)
        elif issubclass(category, ClassNameWarning):
            note(str(message))
        else:
            shown(message, category, *where, **more)

    with warnings.catch_warnings():
        shown = warnings.showwarning
        warnings.showwarning = show
        warnings.simplefilter("always", PhotoWarning)
        warnings.simplefilter("always", ClassNameWarning)
        yield notes
