"""Download of published checkpoints: what a repository of the Hugging Face hub holds, and which file is taken.

Nothing is fetched before the files of a repository are listed. Of a model's files `.safetensors` come first; a
pickle is taken only where torch is installed to read it.
"""

import errno
import importlib.util
import inspect
import io
import shutil
import sys
import time
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import tqdm

from corrclip_jax.conversion.find import checkpoint_files, find_vocabulary
from corrclip_jax.conversion.published import Published, Repository, vocabulary_repository
from corrclip_jax.conversion.readers import INDEX_SUFFIX
from corrclip_jax.hub.home import published_place
from corrclip_jax.io.marks import file_digest

NETWORK_ERRORS = (HTTPError, OSError, ValueError)
"""What the hub's client raises: its own errors, those of its HTTP library, and plain ones of the system."""

_VOCABULARY_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "bpe_simple_vocab_16e6.txt.gz")
_BESIDE = ("config.json", "open_clip_config.json", *_VOCABULARY_FILES)
_SHARDS = "*-of-*.safetensors"
_TRIES = 12
_LONGEST_WAIT = 60
_FIRST_LINE, _BETWEEN_LINES = 2.0, 10.0
"""Seconds of a download until its first line of progress, and between lines."""
_TIMEOUT = 20


class DownloadError(OSError):
    """A file that cannot be had; the message is one line and says why."""


class Offer(NamedTuple):
    """Where the weights of a published model can be had.

    Attributes:
      published: the model.
      repository: of the hub.
      files: what is to be converted, then what belongs to it (the shards of an index).
      beside: small files of the repository that go with them.
      size: bytes to download; 0 where all is here.
      sha256: of files that the hub knows it of.
      folder: where the files lie, None before they are fetched.
    """

    published: Published
    repository: str
    files: tuple[str, ...]
    beside: tuple[str, ...] = ()
    size: int = 0
    sha256: Mapping[str, str] = {}
    folder: Path | None = None

    @property
    def checkpoint(self) -> Path:
        """What is to be converted, a file or a folder; for files that are here."""
        if self.folder is None:
            raise ValueError(f"{self.published.title} has not been fetched.")
        return self.folder / self.files[0] if self.files else self.folder


def find_offer(published: Published) -> Offer:
    """Where to get a model: placed by hand, in the hub's cache, or on the hub, of which only lists are fetched.

    Raises:
      DownloadError: no repository holds a file that can be read here; the message says what they hold.
    """
    for place in published.repositories:
        folder = published_place(place.name)
        if folder.is_dir() and checkpoint_files(folder, depth=1):
            return Offer(published, place.name, (), folder=folder)
    for place in published.repositories:
        for name in place.files:
            if can_read(name) and isinstance(cached := try_to_load_from_cache(place.name, name), str):
                return Offer(published, place.name, (name,), folder=Path(cached).parent)
    reasons = []
    for place in published.repositories:
        try:
            return _choose(published, place, _listing(place.name))
        except NETWORK_ERRORS as error:
            reasons.append(f"{place.name}: {reason(error)}")
    raise DownloadError("; ".join(reasons))


def fetch(offer: Offer) -> Offer:
    """The offer with its files on this machine, in the hub's cache.

    Raises:
      DownloadError: the hub, the network or the disk refuses.
    """
    if offer.folder is not None:
        return offer
    try:
        for name in offer.beside:
            _download(offer.repository, name)
        paths = [_download_whole(offer.repository, name, offer.sha256.get(name)) for name in offer.files]
    except NETWORK_ERRORS as error:
        raise DownloadError(f"{offer.repository}: {reason(error)}") from None
    return offer._replace(folder=paths[0].parent)


def vocabulary_here() -> Path | None:
    """A folder on this machine with CLIP's vocabulary, which all published CLIPs share; asks no network."""
    lender = vocabulary_repository()
    if (placed := published_place(lender)).is_dir() and (found := find_vocabulary(placed)):
        return found
    cached = (try_to_load_from_cache(lender, name) for name in _VOCABULARY_FILES)
    return next((Path(path).parent for path in cached if isinstance(path, str)), None)


def fetch_vocabulary(offer: Offer) -> Path:
    """A folder with CLIP's vocabulary: the fetched offer's own, or that of the repository that lends it.

    Raises:
      DownloadError: the hub, the network or the disk refuses.
    """
    if offer.folder is not None and (found := find_vocabulary(offer.folder) or vocabulary_here()):
        return found
    lender = vocabulary_repository()
    try:
        listing = _listing(lender)
        paths = [_download(lender, name) for name in _VOCABULARY_FILES if name in listing]
        if not paths:
            raise DownloadError("it holds none")
        return paths[0].parent
    except NETWORK_ERRORS as error:
        raise DownloadError(f"{lender}, for CLIP's vocabulary: {reason(error)}") from None


def check_room(offers: Iterable[Offer]) -> None:
    """Check that the disk of the hub's cache takes what is to be downloaded.

    Raises:
      OSError: it does not.
    """
    needed = sum(offer.size for offer in offers)
    cache = Path(constants.HF_HUB_CACHE).expanduser().absolute()
    standing = next(place for place in (cache, *cache.parents) if place.exists())
    if needed > (free := shutil.disk_usage(standing).free):
        raise OSError(
            f"{readable(needed)} are to be downloaded to {cache}, and its disk has {readable(free)} left. "
            "Make room, or set HF_HOME to a folder of a larger disk."
        )


def is_cached(path: Path) -> bool:
    """Whether a file is one of the hub's cache."""
    return Path(constants.HF_HUB_CACHE).expanduser().absolute() in path.absolute().parents


def can_read(name: str) -> bool:
    """Whether a checkpoint of this name can be read with what is installed: pickles need torch."""
    return ".safetensors" in name or importlib.util.find_spec("torch") is not None


def readable(size: int | float) -> str:
    """Bytes for people: three digits, in the units of 1000 that file lists have.

    >>> readable(86_700_000), readable(1_710_000_000)
    ('86.7 MB', '1.71 GB')
    """
    unit, name = (1e9, "GB") if size >= 999.5e6 else (1e6, "MB")
    digits = 2 if size / unit < 10 else 1 if size / unit < 100 else 0
    return f"{size / unit:.{digits}f} {name}"


def reason(error: Exception) -> str:
    """Why a request failed, in one line, with what to do where something can be done."""
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    if isinstance(error, DownloadError):
        return str(error)
    if isinstance(error, OfflineModeIsEnabled):
        return "not in the hub's cache, and HF_HUB_OFFLINE forbids the network"
    if isinstance(error, RepositoryNotFoundError) and not isinstance(error, GatedRepoError):
        return "there is no such repository, or it asks for a login (`hf auth login`)"
    if isinstance(error, GatedRepoError) or status in (401, 403):
        return "access is restricted: accept its terms on its page, then log in with `hf auth login`"
    if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
        return "the file is not in the repository any more"
    if status == 429:
        return "the hub refuses so many requests (429): wait some minutes, or log in with `hf auth login`"
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"the disk is full ({constants.HF_HUB_CACHE}): make room, or set HF_HOME to a folder elsewhere"
    cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) and error.__cause__ else error
    first = str(cause).strip().split("\n")[0]
    return f"no connection ({first or type(cause).__name__})"


def _listing(repository: str) -> dict[str, tuple[int | None, str | None]]:
    """Size and SHA-256 of the files of a repository, by name; None where the hub does not say."""
    for _ in range(_TRIES):
        try:
            info = HfApi().model_info(repository, files_metadata=True, timeout=_TIMEOUT)
            break
        except HfHubHTTPError as error:
            wait = _seconds_to_wait(error)
            if wait is None:
                raise
            time.sleep(wait)
    else:
        raise DownloadError("the hub refuses so many requests (429): wait some minutes")
    return {
        file.rfilename: (file.size, file.lfs.sha256 if file.lfs else None) for file in info.siblings or []
    }


def _seconds_to_wait(error: HfHubHTTPError) -> float | None:
    """How long the hub asks to wait before the next request; None where it does not, or asks for long."""
    if error.response.status_code != 429:
        return None
    try:
        seconds = float(error.response.headers.get("Retry-After", 5))
    except ValueError:
        seconds = 5.0
    return seconds if seconds <= _LONGEST_WAIT else None


def _choose(
    published: Published, place: Repository, listing: Mapping[str, tuple[int | None, str | None]]
) -> Offer:
    """The best file of a listing that can be read here."""
    known = [name for name in place.files if name in listing]
    # Under a name that is new, but of the kind that can be read anywhere; shards are fetched with their index.
    others = [
        name
        for name in sorted(listing)
        if name.endswith((".safetensors", ".safetensors" + INDEX_SUFFIX)) and not fnmatch(name, _SHARDS)
    ]
    first = next((name for name in (known or others) if can_read(name)), None)
    if first is None:
        raise DownloadError(_unreadable(known, listing))
    files: tuple[str, ...] = (first,)
    if first.endswith(INDEX_SUFFIX):
        files += tuple(name for name in sorted(listing) if fnmatch(name, _SHARDS))
    sizes = [listing[name][0] for name in files]
    total = sum(size for size in sizes if size is not None) or int(published.megabytes * 1e6)
    hashes = {name: listing[name][1] for name in files}
    return Offer(
        published,
        place.name,
        files,
        tuple(name for name in _BESIDE if name in listing),
        total,
        {name: value for name, value in hashes.items() if value is not None},
    )


def _unreadable(known: list[str], listing: Mapping[str, tuple[int | None, str | None]]) -> str:
    if known:
        return (
            f"holds {' and '.join(known)}, which needs torch to be read: pip install 'corrclip-jax[convert]'. "
            "It holds no .safetensors file"
        )
    held = ", ".join(sorted(listing)[:8]) or "nothing"
    return f"holds no file of weights that is known here. It holds {held}{' ...' * (len(listing) > 8)}"


def _download_whole(repository: str, name: str, digest: str | None) -> Path:
    """A file, fetched again where it is not what the hub's list says."""
    path = _download(repository, name)
    if digest is None or file_digest(path) == digest:
        return path
    path = _download(repository, name, force=True)
    if file_digest(path) != digest:
        raise DownloadError(
            f"{name} is damaged by the download, twice: its SHA-256 is not the hub's, {digest}"
        )
    return path


def _download(repository: str, name: str, force: bool = False) -> Path:
    """A file in the hub's cache. The client resumes broken connections; where it gives up, it is called again."""
    for tries_left in reversed(range(_TRIES)):
        try:
            return Path(hf_hub_download(repository, name, force_download=force, **_bar(name)))
        except NETWORK_ERRORS as error:
            if not tries_left or not _is_broken_connection(error):
                raise
            time.sleep(1)
    raise AssertionError("the last try returns or raises")


class _Lines(io.StringIO):
    """A file for a progress bar that prints it as lines on stderr, the first after some seconds."""

    def __init__(self) -> None:
        super().__init__()
        self._next = time.monotonic() + _FIRST_LINE

    def write(self, text: str) -> int:
        """Print the state of the bar, where it is time."""
        if text.strip() and time.monotonic() >= self._next:
            self._next = time.monotonic() + _BETWEEN_LINES
            print(f"  {text.strip()}", file=sys.stderr, flush=True)
        return len(text)


class _Bar(tqdm):
    """A progress bar of the hub's client, as lines: a terminal's own bar would spoil the command's."""

    shown = ""

    def __init__(self, *args: Any, **options: Any) -> None:
        as_lines = {"file": _Lines(), "disable": False, "ncols": 76, "ascii": True, "desc": self.shown}
        super().__init__(*args, **options | as_lines)


def _bar(name: str) -> dict[str, Any]:
    """The argument that names the progress bar, for a file of this name; older clients have none."""
    known = "tqdm_class" in inspect.signature(hf_hub_download).parameters
    return {"tqdm_class": type("_NamedBar", (_Bar,), {"shown": name})} if known else {}


def _is_broken_connection(error: Exception) -> bool:
    """Whether a download broke off, so that another try may succeed."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500
    if isinstance(error, EntryNotFoundError):  # nothing is in the cache, and the network is down
        return False
    if isinstance(error, OSError):
        return error.errno is None and "Consistency check" in str(error)
    return isinstance(error, HTTPError)
