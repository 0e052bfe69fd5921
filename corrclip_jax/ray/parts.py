"""Parts: a folder of Parquet files with one row an image, which a run that was killed continues by key.

A part holds a chunk of images and appears whole, under a name that follows from their keys, the marks of their
content and the settings. `_corrclip.json` beside the parts says how they were made.
"""

import io
import json
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from corrclip_jax.io.files import OutputError, json_bytes
from corrclip_jax.io.own_files import Made, value_digest
from corrclip_jax.ray.chunks import Size, from_text, read_sources
from corrclip_jax.ray.rows import LabelFormat, table
from corrclip_jax.ray.segment_images import SegmentImages
from corrclip_jax.ray.sources import Source, content_marks
from corrclip_jax.ray.storage import (
    file_system,
    is_address,
    list_files,
    open_file,
    read_bytes,
    remove,
    write_bytes,
)

DESCRIPTION = "_corrclip.json"
_PART = re.compile(r"part-[0-9a-f]{16}\.parquet")
_THREADS = 32
_HEAD = ["key", "source", "height", "width", "error"]


class Standing(NamedTuple):
    """What a folder of parts holds of the images of a run.

    Attributes:
      sizes: of the images that are done, by key.
      todo: the others.
      notes: what was removed to be made again, in words.
    """

    sizes: dict[str, Size]
    todo: list[Source]
    notes: list[str]


def look(folder: str, sources: Sequence[Source], made: Made, *, overwrite: bool = False) -> Standing:
    """Which images are done in the same way; the rows of the others are removed.

    Args:
      folder: path or address.
      sources: all images of the run.
      made: the settings (see `io.own_files`).
      overwrite: make everything again.

    Raises:
      OutputError: if the folder holds Parquet files of others, or parts that were made with other settings and are
        not to be replaced.
    """
    parts, foreign = _listed(folder)
    before = _description(folder)
    if foreign or (parts and before is None):
        raise OutputError(
            f"{foreign[0] if foreign else parts[0]} was not written by this program, and would be read together "
            "with the labels. Choose another folder with --out."
        )
    given = json.loads(json.dumps(made))
    if before is not None and before != given and not overwrite and parts:
        changed = [key for key in {**before, **given} if before.get(key) != given.get(key)]
        raise OutputError(
            f"{folder} holds labels that were made with other {', '.join(changed)}. Choose another folder with "
            "--out, or replace them with --overwrite."
        )
    if overwrite:
        for part in parts:
            remove(part)
        return Standing({}, list(sources), [])
    return _compare(parts, sources)


def begin(folder: str, made: Made, classes: Sequence[Sequence[str]], details: dict[str, Any]) -> None:
    """Write the description of a folder of parts, which readers of Parquet leave out."""
    content = {"made": dict(made), "classes": [list(names) for names in classes], **details}
    write_bytes(_inside(folder, DESCRIPTION), json_bytes(content))


def part_name(sources: Sequence[Source], mark: str) -> str:
    """The name of the part of a chunk, made with the settings that `mark` stands for."""
    return f"part-{value_digest([mark, [[one.key, one.mark] for one in sources]])}.parquet"


class WriteParts:
    """Labels chunks of sources and writes a part for each; existing parts are kept."""

    def __init__(self, folder: str, mark: str, segment: SegmentImages):
        self._folder, self._mark, self._segment = folder, mark, segment

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Work on a batch of chunks.

        Args:
          batch: `chunk`, texts of `chunks.to_text`.

        Returns:
          `key` and `error` of each image, "" for none; or one error with the key "" that ends the run.
        """
        done: dict[str, list[str]] = {"key": [], "error": []}
        try:
            for text in batch["chunk"]:
                for key, error in self._write(from_text(str(text))):
                    done["key"].append(key)
                    done["error"].append(error or "")
        except (ValueError, OSError, ImportError) as error:
            return {"key": [""], "error": [str(error) or type(error).__name__]}
        return done

    def _write(self, sources: list[Source]) -> list[tuple[str, str | None]]:
        place = _inside(self._folder, part_name(sources, self._mark))
        keys = [source.key for source in sources]
        known = _head(place) if _exists(place) else None
        if known is None or known["key"] != keys:
            marks = content_marks(sources)
            rows = self._segment.rows(keys, read_sources(sources, self._segment.bands))
            for row, mark in zip(rows, marks, strict=True):
                row["source"] = mark
            _save(place, rows, self._segment.labels, self._mark)
            known = {"error": [row["error"] for row in rows]}
        return list(zip(keys, known["error"], strict=True))


def _save(place: str, rows: Sequence[dict[str, Any]], labels: LabelFormat, mark: str) -> None:
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(table(rows, labels, with_source=True, corrclip=mark), file, compression="zstd")
    write_bytes(place, file.getvalue())


def _compare(parts: Sequence[str], sources: Sequence[Source]) -> Standing:
    sizes: dict[str, Size] = {}
    known: set[str] = set()
    failed = changed = 0
    lost: list[str] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        heads = list(pool.map(_head, parts))
    there = {key for head in heads if head is not None for key in head["key"]}
    again = [source for source in sources if source.key in there]
    wanted = {one.key: mark for one, mark in zip(again, content_marks(again), strict=True)}
    for part, head in zip(parts, heads, strict=True):
        if head is None:
            lost.append(part)
            remove(part)
            continue
        kept = []
        for row, key in enumerate(head["key"]):
            is_failed = head["error"][row] is not None and key in wanted
            is_changed = not is_failed and wanted.get(key, head["source"][row]) != head["source"][row]
            failed, changed = failed + is_failed, changed + is_changed
            if is_failed or is_changed or key in known:
                continue
            kept.append(row)
            known.add(key)
            if key in wanted:
                sizes[key] = (head["height"][row], head["width"][row])
        _keep(part, kept, len(head["key"]))
    whys = ((failed, "failed before"), (changed, "changed since labelled"))
    notes = [f"{number} image{'s' * (number != 1)} {why}: made again." for number, why in whys if number]
    notes += [f"{part} is damaged: its images are made again." for part in lost]
    return Standing(sizes, [source for source in sources if source.key not in sizes], notes)


def _keep(part: str, rows: Sequence[int], of: int) -> None:
    """Leave only some rows of a part."""
    import pyarrow.parquet as pq

    if len(rows) == of:
        return
    if not rows:
        remove(part)
        return
    with open_file(part) as file:
        whole = pq.read_table(file)
    buffer = io.BytesIO()
    pq.write_table(whole.take(rows), buffer, compression="zstd")
    write_bytes(part, buffer.getvalue())


def _head(part: str) -> dict[str, list[Any]] | None:
    """Keys, marks, sizes and errors of a part; None for a damaged one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open_file(part) as file:
        try:
            return pq.ParquetFile(file).read(_HEAD).to_pydict()
        except pa.ArrowException:
            return None


def _listed(folder: str) -> tuple[list[str], list[str]]:
    """The parts in a folder, and other Parquet files."""
    if is_address(folder):
        files = [file.place for file in list_files(folder, may_be_empty=True)]
    else:
        path = Path(folder)
        files = sorted(str(file) for file in path.iterdir()) if path.is_dir() else []
    tables = [file for file in files if _name(file).endswith(".parquet")]
    parts = [file for file in tables if _PART.fullmatch(_name(file))]
    return parts, [file for file in tables if file not in set(parts)]


def _description(folder: str) -> Any:
    place = _inside(folder, DESCRIPTION)
    if not _exists(place):
        return None
    try:
        return json.loads(read_bytes(place))["made"]
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"{place} cannot be read ({error}). Delete it and the parts beside it, or choose another folder with "
            "--out."
        ) from error


def _exists(place: str) -> bool:
    if not is_address(place):
        return Path(place).is_file()
    system, path = file_system(place)
    return system.exists(path)


def _name(place: str) -> str:
    return place.partition("?")[0].rpartition("/")[2] if is_address(place) else Path(place).name


def _inside(folder: str, name: str) -> str:
    if not is_address(folder):
        return str(Path(folder) / name)
    bare, mark, query = folder.partition("?")
    return f"{bare.rstrip('/')}/{name}{mark}{query}"
