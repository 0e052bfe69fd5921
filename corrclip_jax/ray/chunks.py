"""Chunks of sources: the images that an actor reads and labels at once, and what is read of them."""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from corrclip_jax.io.photos import BandsOf, PhotoError, photo_size
from corrclip_jax.ray.sources import THREADS, Source
from corrclip_jax.ray.storage import StorageError, is_address, open_file, read_bytes

_CHUNK = 32  # images of a part
_ROUNDS = 4  # chunks of an actor, at least, if there are enough images
_ROWS = 256  # of a row group of Parquet, which is read as a whole

Size = tuple[int, int]


def chunks(sources: Sequence[Source], sizes: Mapping[str, Size], actors: int = 1) -> Iterator[list[Source]]:
    """The sources in chunks that an actor reads and labels at once.

    Images in files of their own go together by size, so that they share programs; those of one file, or of one row
    group of Parquet, stay together. Few images are divided so that each of the `actors` gets some.
    """
    fair = chunk_size(len(sources), actors)
    alone = [source for source in sources if source.at is None]
    alone.sort(key=lambda source: sizes.get(source.key, (0, 0)))
    together: dict[Any, list[Source]] = {}
    for source in sources:
        if source.at is not None:
            group = source.at[0] if source.column else None
            together.setdefault((source.place, group), []).append(source)
    for members in [alone, *together.values()]:
        step = _ROWS if fair == _CHUNK and members and members[0].column else fair
        for start in range(0, len(members), step):
            yield members[start : start + step]


def chunk_size(images: int, actors: int) -> int:
    """How many images are a chunk."""
    return max(1, min(_CHUNK, -(-images // (_ROUNDS * actors))))


def to_text(chunk: Sequence[Source]) -> str:
    """A chunk as JSON."""
    return json.dumps(chunk)


def from_text(text: str) -> list[Source]:
    """The chunk of `to_text`."""
    return [
        Source(key, place, mark, column, None if at is None else (at[0], at[1]))
        for key, place, mark, column, at in json.loads(text)
    ]


class NamedBytes(io.BytesIO):
    """The bytes of an image with its name, which error messages give."""

    def __init__(self, data: bytes, name: str):
        super().__init__(data)
        self.name = name


def read_sources(
    sources: Sequence[Source], bands: tuple[int, ...] | None = None
) -> list[Path | NamedBytes | BandsOf | PhotoError]:
    """What `Segmenter` reads each image from, or why there is nothing: local files stay paths."""
    rows = _read_rows([source for source in sources if source.column])

    def read(source: Source) -> Any:
        try:
            if source.column:
                data = rows[source]
                if isinstance(data, PhotoError):
                    return data
                return NamedBytes(data, source.key)
            if source.at is not None:
                with open_file(source.place) as file:
                    file.seek(source.at[0])
                    return NamedBytes(file.read(source.at[1]), source.key)
            if not is_address(source.place):
                return Path(source.place)
            return NamedBytes(read_bytes(source.place), source.key)
        except (StorageError, OSError) as error:
            return PhotoError(str(error))

    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(read, sources))
    if bands is None:
        return found
    return [one if isinstance(one, PhotoError) else BandsOf(one, bands) for one in found]


def _read_rows(sources: Sequence[Source]) -> dict[Source, bytes | PhotoError]:
    """The images of rows of Parquet files."""
    groups: dict[tuple[str, str, int], list[Source]] = {}
    for source in sources:
        assert source.at is not None
        groups.setdefault((source.place, source.column, source.at[0]), []).append(source)
    found: dict[Source, bytes | PhotoError] = {}
    for (place, column, group), members in groups.items():
        import pyarrow.parquet as pq

        try:
            with open_file(place) as file:
                values = pq.ParquetFile(file).read_row_group(group, columns=[column])[column]
        except Exception as error:  # every object store raises its own, and PyArrow several
            found |= {source: PhotoError(f"{place} cannot be read: {error}.") for source in members}
            continue
        for source in members:
            assert source.at is not None
            value = values[source.at[1]].as_py()
            data = value.get("bytes") if isinstance(value, dict) else value
            found[source] = PhotoError(f"{source.key} has no image.") if data is None else data
    return found


def measure(sources: Sequence[Source], bands: tuple[int, ...] | None = None) -> list[Size | None]:
    """Height and width of each image, of most from their headers; None where that cannot be read."""

    def size(photo: Any) -> Size | None:
        try:
            return None if isinstance(photo, PhotoError) else photo_size(photo)
        except PhotoError:
            return None

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(size, read_sources(sources, bands)))
