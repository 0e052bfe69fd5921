"""Room on a disk: whether what is to be written fits, before the work begins."""

import shutil
from pathlib import Path


def check_room(folder: Path, needed: int, advice: str) -> None:
    """Raise before the work starts if the disk is too small.

    Args:
      folder: where the files are to be written; it need not exist.
      needed: their size in bytes.
      advice: what to do otherwise than to make room, "choose another folder" for instance.

    Raises:
      OSError: if its disk has less room.
    """
    folder = folder.absolute()
    standing = next(place for place in (folder, *folder.parents) if place.exists())
    if needed > (free := shutil.disk_usage(standing).free):
        raise OSError(
            f"{folder} cannot be written: {readable(needed)} are needed, and the disk of {standing} has "
            f"{readable(free)} left. Make room, or {advice}."
        )


def readable(size: int | float) -> str:
    """Bytes for people: three digits, in the units of 1000 that file lists have.

    >>> readable(86_700_000), readable(1_710_000_000)
    ('86.7 MB', '1.71 GB')
    """
    unit, name = (1e9, "GB") if size >= 999.5e6 else (1e6, "MB")
    digits = 2 if size / unit < 10 else 1 if size / unit < 100 else 0
    return f"{size / unit:.{digits}f} {name}"
