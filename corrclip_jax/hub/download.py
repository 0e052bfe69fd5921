"""Download of published checkpoints and CLIP's vocabulary into the cache of the Hugging Face hub's client."""

import time
from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HTTPError

from corrclip_jax.conversion.find import find_vocabulary
from corrclip_jax.conversion.published import vocabulary_repository
from corrclip_jax.hub.errors import CLIENT_ERRORS, DownloadError, reason
from corrclip_jax.hub.home import published_place
from corrclip_jax.hub.offers import VOCABULARY_FILES, Offer, list_files
from corrclip_jax.hub.progress_lines import progress_lines
from corrclip_jax.io import disk
from corrclip_jax.io.marks import file_digest

_TRIES = 12


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
    except CLIENT_ERRORS as error:
        raise DownloadError(f"{offer.repository}: {reason(error)}") from None
    return offer._replace(folder=paths[0].parent)


def vocabulary_here() -> Path | None:
    """A folder on this machine with CLIP's vocabulary, which all published CLIPs share; asks no network."""
    lender = vocabulary_repository()
    if (placed := published_place(lender)).is_dir() and (found := find_vocabulary(placed)):
        return found
    cached = (try_to_load_from_cache(lender, name) for name in VOCABULARY_FILES)
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
        listing = list_files(lender)
        paths = [_download(lender, name) for name in VOCABULARY_FILES if name in listing]
        if not paths:
            raise DownloadError("it holds none")
        return paths[0].parent
    except CLIENT_ERRORS as error:
        raise DownloadError(f"{lender}, for CLIP's vocabulary: {reason(error)}") from None


def check_room(offers: Iterable[Offer]) -> None:
    """Check that the disk of the hub's cache takes what is to be downloaded.

    Raises:
      OSError: it does not.
    """
    cache = Path(constants.HF_HUB_CACHE).expanduser()
    disk.check_room(cache, sum(offer.size for offer in offers), "set HF_HOME to a folder of a larger disk")


def is_cached(path: Path) -> bool:
    """Whether a file is one of the hub's cache."""
    return Path(constants.HF_HUB_CACHE).expanduser().absolute() in path.absolute().parents


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
            return Path(hf_hub_download(repository, name, force_download=force, **progress_lines(name)))
        except CLIENT_ERRORS as error:
            if not tries_left or not _is_broken_connection(error):
                raise
            time.sleep(1)
    raise AssertionError("the last try returns or raises")


def _is_broken_connection(error: Exception) -> bool:
    """Whether a download broke off, so that another try may succeed."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500
    if isinstance(error, EntryNotFoundError):  # nothing is in the cache, and the network is down
        return False
    if isinstance(error, OSError):
        return error.errno is None and "Consistency check" in str(error)
    return isinstance(error, HTTPError)
