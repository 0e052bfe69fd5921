"""Offers of published checkpoints: what a repository of the Hugging Face hub holds, and which file is taken.

Nothing is fetched before the files of a repository are listed. Of a model's files `.safetensors` come first; a
pickle is taken only where torch is installed to read it.
"""

import importlib.util
import time
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError

from corrclip_jax.conversion.find import checkpoint_files
from corrclip_jax.conversion.published import Published, Repository
from corrclip_jax.conversion.readers import INDEX_SUFFIX
from corrclip_jax.hub.errors import CLIENT_ERRORS, DownloadError, reason
from corrclip_jax.hub.home import published_place

VOCABULARY_FILES = ("tokenizer.json", "vocab.json", "merges.txt", "bpe_simple_vocab_16e6.txt.gz")

_BESIDE = ("config.json", "open_clip_config.json", *VOCABULARY_FILES)
_SHARDS = "*-of-*.safetensors"
_TRIES = 12
_LONGEST_WAIT = 60
_TIMEOUT = 20


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
            return _choose(published, place, list_files(place.name))
        except CLIENT_ERRORS as error:
            reasons.append(f"{place.name}: {reason(error)}")
    raise DownloadError("; ".join(reasons))


def can_read(name: str) -> bool:
    """Whether a checkpoint of this name can be read with what is installed: pickles need torch."""
    return ".safetensors" in name or importlib.util.find_spec("torch") is not None


def list_files(repository: str) -> dict[str, tuple[int | None, str | None]]:
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
