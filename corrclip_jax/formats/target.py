"""Target folder of a format: files that appear whole, are kept while they are up to date, and replace no others."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from corrclip_jax.formats.images import Images
from corrclip_jax.io.files import utf8
from corrclip_jax.io.own_files import ForeignFileError, OwnFiles


@dataclass
class Target:
    """Where a format is written.

    Attributes:
      own: the folder with its journal.
      made: settings that decide the content of all files.
      overwrite: write everything again, and replace files that this program did not write.
      current: names of the files that are up to date, as they were written now or found to be so.
      links: the photos of the links that an earlier export made, by the links' names.
    """

    own: OwnFiles
    made: dict[str, Any]
    overwrite: bool = False
    current: set[str] = field(default_factory=set)
    links: dict[str, str] = field(default_factory=dict)

    def is_done(self, name: str, mark: str) -> bool:
        """Whether a file is there that was made in the same way from an input with this mark.

        Raises:
          ForeignFileError: if a file is in the way that this program did not write.
        """
        if self.overwrite:
            return False
        standing = self.own.look([name], self._made(mark))
        if standing.foreign and not standing.done:
            raise ForeignFileError(self.own.folder, standing.foreign)
        if standing.done:
            self.current.add(name)
        return standing.done

    @contextmanager
    def writing(self, name: str, mark: str, images: Images | None = None) -> Iterator[Path]:
        """A partial file, which gets its name if the block succeeds.

        A file of many `images` counts as made in another way, so that it is written again, if one of them failed.

        Raises:
          OutputError: if it cannot be written.
        """
        made = self._made(mark)
        with self.own.writing([name], made, overwrite=self.overwrite) as (path,):
            yield path
            if images is not None and images.failed:
                made["failed"] = len(images.failed)
        self.current.add(name)

    def write(self, name: str, mark: str, content: bytes) -> None:
        """Write a file, unless it is there already."""
        if not self.is_done(name, mark):
            with self.writing(name, mark) as path:
                path.write_bytes(content)

    def _made(self, mark: str) -> dict[str, Any]:
        return {**self.made, "input": mark}


def compact_json(content: Any) -> bytes:
    """JSON on one line, as UTF-8."""
    return utf8(json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")))


class JsonList:
    """The items of a list in a JSON file, written one after the other."""

    def __init__(self, file: IO[bytes]):
        self._file = file
        self._first = True

    def add(self, item: Any) -> None:
        """Write one more item."""
        self._file.write(b"\n" if self._first else b",\n")
        self._file.write(compact_json(item))
        self._first = False
