"""Sources: the images of folders, Parquet files, WebDataset tars and lists of addresses, each with a key.

A source says where an image lies; the actor that labels it reads it from there.
"""

import tarfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from corrclip_jax.io.marks import file_mark
from corrclip_jax.io.photo_files import SUFFIXES, photos_in, survey_photos
from corrclip_jax.io.photos import PhotoError
from corrclip_jax.ray.storage import (
    StorageError,
    StoredFile,
    is_address,
    is_web,
    list_files,
    open_file,
    read_bytes,
    stat_mark,
    stored_file,
)
from corrclip_jax.runtime.extras import require

THREADS = 32
"""That read from a store at once."""
_KEYS = ("key", "__key__", "id", "image_id")
_IMAGES = ("bytes", "image", "jpg", "jpeg", "png", "webp", "img", "content")
_ADDRESSES = ("url", "uri", "image_url", "path")


class Source(NamedTuple):
    """An image, wherever it lies.

    Attributes:
      key: its name, of no other image of the run.
      place: path or address of the image, or of the file that holds it.
      mark: changes when the content of the file does: of an object store the version or size and time, of local
        Parquet files and tars size and time. "" for addresses without, and for local images, whose content is
        digested when it is needed (`content_marks`).
      column: in a Parquet file, the column that holds the image; "" elsewhere.
      at: in a Parquet file row group and row, in a tar offset and size.
    """

    key: str
    place: str
    mark: str
    column: str = ""
    at: tuple[int, int] | None = None


class Found(NamedTuple):
    """The images of a run, what was left out in words, and messages about places without images."""

    sources: list[Source]
    left_out: list[str]
    problems: list[str]


def find_sources(places: Sequence[str], *, recursive: bool = False, out: str = "") -> Found:
    """List the images at places.

    Args:
      places: paths and addresses of images, folders, Parquet files, tars, and text files with an address a line;
        addresses may be patterns with *.
      recursive: look into the folders of a folder, too.
      out: where results go; a folder there is not searched.

    Raises:
      StorageError: for a place that cannot be listed, files of several kinds, and keys that occur twice.
      PhotoError: if there are no images at all.
    """
    files: list[StoredFile] = []
    left_out: list[str] = []
    problems: list[str] = []
    for place in places:
        try:
            files += _files(place, recursive, out, left_out)
        except (StorageError, PhotoError) as error:
            problems.append(str(error))
    files = list({file.place: file for file in files}.values())
    if not files:
        raise PhotoError(" ".join(problems) or "There are no photos.")
    kinds = {_kind(file.place): file.place for file in reversed(files)}
    if len(kinds) > 1:
        named = ", ".join(f"{place} ({kind})" for kind, place in kinds.items())
        raise StorageError(f"these are files of several kinds: {named}. Segment each kind in its own run.")
    sources = [source for file in files for source in _LISTED[next(iter(kinds))](file)]
    counts = Counter(source.key for source in sources)
    if twice := [key for key, count in counts.items() if count > 1]:
        raise StorageError(
            f"keys occur more than once: {twice[0]!r} and {len(twice) - 1} others. Give each image its own key, "
            f"or rename the column ({', '.join(_KEYS)}): rows without one are named by file and number."
        )
    return Found(sources, left_out, problems)


def _files(place: str, recursive: bool, out: str, left_out: list[str]) -> list[StoredFile]:
    """The files at one place, those of a folder only if they hold images."""
    if place.startswith("file://"):
        place = place.removeprefix("file://")
    if is_address(place):
        file = None if "*" in place and not is_web(place) else stored_file(place)
        if file is not None:
            return [file]
        own = _bare(out).rstrip("/") + "/"
        listed = [file for file in list_files(place, recursive=recursive) if not file.place.startswith(own)]
        return _chosen(place, listed, left_out)
    path = Path(place)
    if not path.is_dir():
        if not path.is_file():
            survey_photos([path])  # raises, with the reason
        return [StoredFile(str(path.absolute()), "" if _kind(place) == "images" else stat_mark(path))]
    inside = [
        file
        for file in sorted(path.rglob("*") if recursive else path.iterdir())
        if file.suffix.lower() in (".parquet", ".tar") and file.is_file() and not file.name.startswith(".")
    ]
    if inside:
        listed = [StoredFile(str(file.absolute()), stat_mark(file)) for file in inside]
        photos = photos_in(path, recursive=recursive, out=Path(out))
        return listed + [StoredFile(str(file.absolute()), "") for file in photos[:1]]
    found = survey_photos([path], recursive=recursive, out=None if is_address(out) else Path(out))
    left_out += [found.left_out] if found.left_out else []
    return [StoredFile(str(photo.absolute()), "") for photo in found.photos]


def _chosen(place: str, files: Sequence[StoredFile], left_out: list[str]) -> list[StoredFile]:
    """The files of a folder at an address that hold images; hidden ones are left out."""
    others: Counter[str] = Counter()
    chosen = []
    for file in files:
        name = PurePosixPath(_bare(file.place)).name
        if _kind(file.place) == "addresses" or (_suffix(file.place) or "none") not in _KNOWN:
            others[_suffix(file.place) or "no suffix"] += 1
        elif not name.startswith((".", "_")):
            chosen.append(file)
    if others:
        kinds = ", ".join(f"{suffix} {number}" for suffix, number in sorted(others.items()))
        left_out.append(
            f"Left out in {place}: {others.total()} other file{'s' * (others.total() != 1)} ({kinds})."
        )
    if not chosen:
        raise StorageError(f"{place} holds no images. {' '.join(left_out[-1:])}".rstrip())
    return chosen


def _bare(place: str) -> str:
    """A path as it is; an address without its query."""
    return place.partition("?")[0] if is_address(place) else place


def _suffix(place: str) -> str:
    return PurePosixPath(_bare(place)).suffix.lower()


_KNOWN = SUFFIXES | {".parquet", ".tar"}


def _kind(place: str) -> str:
    return {".parquet": "Parquet", ".tar": "tar", ".txt": "addresses"}.get(_suffix(place), "images")


def _listed_image(file: StoredFile) -> list[Source]:
    is_stored = is_address(file.place) and not is_web(file.place)
    key = _bare(file.place) if is_stored else file.place  # a query says how to reach the store
    return [Source(key, file.place, file.mark)]


def _listed_addresses(file: StoredFile) -> list[Source]:
    """The images of a text file with an address or a path a line; # begins a comment."""
    lines = read_bytes(file.place).decode("utf-8", "surrogateescape").splitlines()
    stripped = [line.strip().removeprefix("file://") for line in lines]
    places = [line for line in stripped if line and not line.startswith("#")]
    if not places:
        raise StorageError(f"{file.place} names no images: one address or path a line.")
    return [Source(place, place, "") for place in places]


def content_marks(sources: Sequence[Source]) -> list[str]:
    """The mark of each source; of local images a digest of the content, as everywhere in this package."""

    def mark(source: Source) -> str:
        is_local = source.at is None and not is_address(source.place)
        return file_mark(Path(source.place)) if is_local else source.mark

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(mark, sources))


def _listed_tar(file: StoredFile) -> list[Source]:
    """The images of a tar, as WebDataset packs them: keys are the tar's name and the member's."""
    with open_file(file.place) as opened:
        try:
            with tarfile.open(fileobj=opened, mode="r:") as archive:
                members = [
                    (member.name, (member.offset_data, member.size))
                    for member in archive
                    if member.isfile()
                    and _suffix(member.name) in SUFFIXES
                    and not PurePosixPath(member.name).name.startswith(".")
                ]
        except tarfile.TarError as error:
            raise StorageError(f"{file.place} is no tar without compression: {error}.") from error
    if not members:
        raise StorageError(f"{file.place} is a tar without images. Looked for {', '.join(sorted(SUFFIXES))}.")
    return [Source(f"{file.place}/{name}", file.place, file.mark, at=at) for name, at in members]


def _listed_rows(file: StoredFile) -> list[Source]:
    """The images of a Parquet file: bytes, Hugging Face's structs of bytes and path, or addresses."""
    require("pyarrow", "Parquet files", "ray")
    import pyarrow as pa
    import pyarrow.parquet as pq

    with open_file(file.place) as opened:
        try:
            table = pq.ParquetFile(opened)
            schema = table.schema_arrow
            column = _image_column(schema)
            key = next((name for name in _KEYS if name in schema.names), None)
            if column is None:
                column = next((name for name in _ADDRESSES if name in schema.names), None)
                if column is None:
                    raise StorageError(
                        f"{file.place} has no column of image bytes or addresses. Looked for {', '.join(_IMAGES)} "
                        f"(binary, or a struct with bytes) and {', '.join(_ADDRESSES)}. It has "
                        f"{', '.join(schema.names)}."
                    )
                places = table.read([column])[column].to_pylist()
                column = ""
            else:
                places = None
            keys = None if key is None else [str(one) for one in table.read([key])[key].to_pylist()]
            groups = [table.metadata.row_group(i).num_rows for i in range(table.metadata.num_row_groups)]
        except pa.ArrowException as error:
            raise StorageError(f"{file.place} is no Parquet file, or is damaged: {error}") from error
    found: list[Source] = []
    for group, rows in enumerate(groups):
        for row in range(rows):
            name = f"{file.place}#{len(found)}" if keys is None else keys[len(found)]
            if places is None:
                found.append(Source(name, file.place, file.mark, column, (group, row)))
            else:
                found.append(Source(name, str(places[len(found)]), ""))
    return found


def _image_column(schema: Any) -> str | None:
    """The column that holds encoded images, by its name, or the only one of a fitting type."""
    import pyarrow.types as kinds

    def fits(kind: Any) -> bool:
        if kinds.is_struct(kind):
            return kind.get_field_index("bytes") >= 0
        return kinds.is_binary(kind) or kinds.is_large_binary(kind)

    fitting = [field.name for field in schema if fits(field.type)]
    named = [name for name in _IMAGES if name in fitting]
    return named[0] if named else fitting[0] if len(fitting) == 1 else None


_LISTED = {
    "images": _listed_image,
    "addresses": _listed_addresses,
    "tar": _listed_tar,
    "Parquet": _listed_rows,
}
