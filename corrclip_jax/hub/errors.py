"""Errors of downloads: what the hub's client raises, and why that was, in one line."""

import errno
import socket
import ssl

from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    FileMetadataError,
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

CLIENT_ERRORS = (HTTPError, OSError, ValueError)
"""What the hub's client raises: its own errors, those of its HTTP library, and plain ones of the system."""

_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EDQUOT)
_UNREACHABLE = (errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL)


class DownloadError(OSError):
    """A download failed; the message is one line."""


def reason(error: Exception) -> str:
    """Why a request failed, in one line, with what to do where something can be done."""
    if isinstance(error, DownloadError):
        return str(error)
    # The client hides what came up behind errors of its own.
    if isinstance(error, LocalEntryNotFoundError | ValueError) and isinstance(error.__cause__, Exception):
        error = error.__cause__
    status = error.response.status_code if isinstance(error, HfHubHTTPError) else None
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
    first = str(error).strip().split("\n")[0] or type(error).__name__
    if _is_of_network(error):
        return f"no connection ({first})"
    if isinstance(error, HTTPError | FileMetadataError | ValueError):
        return f"the hub's answer cannot be used ({first})"
    return _of_system(error, first)


def _is_of_network(error: Exception) -> bool:
    """Whether there is no connection, or it broke."""
    if isinstance(error, HTTPError):
        return not isinstance(error, HfHubHTTPError)  # which is an answer
    if isinstance(
        error, LocalEntryNotFoundError | ConnectionError | TimeoutError | socket.gaierror | ssl.SSLError
    ):
        return True
    return isinstance(error, OSError) and error.errno in _UNREACHABLE


def _of_system(error: Exception, first: str) -> str:
    """What is wrong on this machine."""
    if not isinstance(error, OSError) or error.errno is None:
        return first
    elsewhere = "set HF_HOME to a folder elsewhere"
    if error.errno == errno.ENOSPC:
        return f"the disk is full ({constants.HF_HUB_CACHE}): make room, or {elsewhere}"
    why = error.strerror or first
    if error.errno in _FORBIDDEN:
        place = error.filename or constants.HF_HUB_CACHE
        return f"the hub's cache cannot be written ({place}: {why}): allow writing there, or {elsewhere}"
    return f"{error.filename}: {why}" if error.filename else why
