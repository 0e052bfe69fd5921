"""Own files: which files of an output folder this program wrote, and how, by a journal in the folder.

Every command that writes files follows one rule: a file that this program did not write, or that was changed since,
is replaced only if the user asks for it (`--overwrite`).

    own = OwnFiles(folder)
    found = own.look(["a.png", "a.json"], made)           # done, made otherwise, in the way
    with own.writing(["a.png", "a.json"], made) as (labels, description):
        ...                                               # write both partial files

The journal `.corrclip-files.jsonl` has a line for each set of files that were written together: their digests,
and `made`, which says from what and with which settings. A line is written before its files get their names, and
the last file of a set gets its name last. So a run may be killed at any moment: files of a set that is not
complete are known as own and are written again.
"""

import errno
import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from corrclip_jax.io.files import OutputError, explained, is_of_writing, partial_file, remove_stale_partials
from corrclip_jax.io.marks import file_digest

JOURNAL = ".corrclip-files.jsonl"

Made = Mapping[str, Any]
"""From what and how files were made: names of settings and inputs, with their values or digests, as JSON.

Names that begin with "_" are for information: files that differ in them alone were made in the same way.
"""


class ForeignFileError(OutputError):
    """A file in the way that this program did not write, or that was changed since it wrote it."""

    def __init__(self, folder: Path, names: Sequence[str]):
        listed = ", ".join(str(folder / name) for name in names)
        super().__init__(
            f"{listed} {'was' if len(names) == 1 else 'were'} not written by this program, or changed since, and "
            f"{'is' if len(names) == 1 else 'are'} kept. Choose another folder with --out, or replace "
            f"{'it' if len(names) == 1 else 'them'} with --overwrite."
        )


class Standing(NamedTuple):
    """What is there of a set of files.

    Attributes:
      done: the set is complete and was made in the given way. Files that were changed afterwards count, too.
      edited: names of a set that is done, of files that were changed since.
      changed: for own files that were made in another way: the names of the settings or inputs that differ.
      foreign: names of existing files that must not be replaced; empty if the set is done.
      made: how the set was made that is there, or was begun; empty if there is none.
    """

    done: bool
    edited: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    foreign: tuple[str, ...] = ()
    made: Made = MappingProxyType({})


class OwnFiles:
    """The files that this program wrote to a folder. Threads may share an object."""

    def __init__(self, folder: str | os.PathLike):
        """Read the journal of a folder, which need not exist.

        Raises:
          OutputError: if there is a journal that cannot be read.
        """
        self.folder = Path(folder)
        self._lock = threading.Lock()
        self._digests: dict[str, set[str]] = {}
        self._sets: dict[tuple[str, ...], dict[str, Any]] = {}
        self._begun = False
        self._read()

    @property
    def written(self) -> Mapping[tuple[str, ...], Made]:
        """The sets of files that were written, whether they are there or not, and how each was made last."""
        return {names: line["made"] for names, line in self._sets.items()}

    def wrote(self, name: str) -> bool:
        """Whether the file `name` exists and is as this program wrote it.

        Raises:
          OutputError: if it cannot be read.
        """
        path = self.folder / name
        return name in self._digests and path.is_file() and not path.is_symlink() and self._is_intact(name)

    def look(self, names: Sequence[str], made: Made) -> Standing:
        """What is there of a set of files, the last of which is written last.

        Raises:
          OutputError: if a file that is there cannot be read.
        """
        line = self._sets.get(tuple(names))
        present = [name for name in names if os.path.lexists(self.folder / name)]
        intact = {name: self.wrote(name) for name in present}
        foreign = tuple(name for name in present if not intact[name])
        if line is None:
            return Standing(False, foreign=foreign)
        given = json.loads(json.dumps(made))
        then = line["made"]
        keys = [key for key in {**then, **given} if not key.startswith("_")]
        changed = tuple(key for key in keys if then.get(key) != given.get(key))
        last = names[-1]
        is_whole = len(present) == len(names) and (
            not intact[last] or file_digest(self.folder / last) == line["files"][last]
        )
        if is_whole and not changed:
            return Standing(True, edited=foreign, made=then)
        return Standing(False, changed=changed, foreign=foreign, made=then if present else {})

    def check(self, names: Sequence[str], *, overwrite: bool = False) -> None:
        """Refuse, before the work begins, to replace files that this program did not write.

        Raises:
          ForeignFileError: if there are any, and `overwrite` is False.
        """
        if not overwrite and (foreign := self.look(names, {}).foreign):
            raise ForeignFileError(self.folder, foreign)

    @contextmanager
    def writing(self, names: Sequence[str], made: Made, *, overwrite: bool = False) -> Iterator[list[Path]]:
        """Partial files, which get their names in this order if the block succeeds, and are deleted if it fails.

        Missing folders are created.

        Args:
          names: of the files, relative to the folder.
          made: how the set is made; see `look`.
          overwrite: replace files that this program did not write, too.

        Raises:
          ForeignFileError: if one of them would be replaced, and `overwrite` is False. Nothing is changed then.
          OutputError: if a file cannot be written. Other errors of the block are raised as they are.
        """
        paths = [self.folder / name for name in names]
        partials = [partial_file(path) for path in paths]
        current = paths[0]
        try:
            self._begin(paths)
            yield partials
            digests = {name: _kept_digest(file) for name, file in zip(names, partials, strict=True)}
            if not overwrite and self.look(names, made).foreign:
                self._read()  # another process may have written them meanwhile
                if foreign := self.look(names, made).foreign:
                    raise ForeignFileError(self.folder, foreign)
            current = self.folder / JOURNAL
            self._record({"files": digests, "made": dict(made)})
            for partial, path in zip(partials, paths, strict=True):
                current = path
                partial.replace(path)
        except OutputError:
            raise
        except OSError as error:
            if not is_of_writing(error, *paths, *partials, self.folder / JOURNAL):
                raise
            raise OutputError(explained(current, error)) from error
        finally:
            for partial in partials:
                with suppress(OSError):
                    partial.unlink()

    def _is_intact(self, name: str) -> bool:
        try:
            return file_digest(self.folder / name) in self._digests[name]
        except OSError as error:
            raise OutputError(f"Cannot read {self.folder / name}: {error.strerror or error}.") from error

    def _begin(self, paths: Sequence[Path]) -> None:
        for parent in {path.parent for path in paths}:
            parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            if not self._begun:
                self._begun = True
                for parent in {path.parent for path in paths}:
                    remove_stale_partials(parent)

    def _read(self) -> None:
        for line in self._lines():
            self._remember(line)

    def _lines(self) -> Iterator[dict[str, Any]]:
        """The journal's lines, without one that a killed process has cut short."""
        try:
            text = (self.folder / JOURNAL).read_text("utf-8", errors="replace")
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise OutputError(explained(self.folder / JOURNAL, error)) from error
        for line in text.splitlines():
            with suppress(ValueError):
                content = json.loads(line)
                if isinstance(content, dict) and isinstance(content.get("files"), dict):
                    yield {"made": {}, **content}

    def _remember(self, line: dict[str, Any]) -> None:
        for name, digest in line["files"].items():
            self._digests.setdefault(name, set()).add(digest)
        self._sets[tuple(line["files"])] = line

    def _record(self, line: dict[str, Any]) -> None:
        # A line of its own, whatever a killed process has left at the end.
        data = f"\n{json.dumps(line)}\n".encode()
        with self._lock:
            descriptor = os.open(self.folder / JOURNAL, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                written = os.write(descriptor, data)
                if written < len(data):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            self._remember(json.loads(data))


def value_digest(value: Any) -> str:
    """SHA-256 of a value of JSON types, shortened to 16 hexadecimal digits: for long values in `Made`."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _kept_digest(path: Path) -> str:
    """The digest of a file, which then survives a power failure."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())
    return file_digest(path)
