"""Merging of banks: the entries of several, one after the other, as one bank."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from corrclip_jax.bank.errors import BankError
from corrclip_jax.bank.folder import (
    BOXES,
    EXACT,
    KEYS,
    REGIONS,
    BankImage,
    Description,
    check_free,
    differences,
    read_description,
    read_images,
    write_description,
    write_images,
)
from corrclip_jax.bank.rows import CHUNK_ROWS, Rows, write_rows
from corrclip_jax.io.files import atomic_folder


def merge_banks(banks: Sequence[Path], out: Path) -> Description:
    """Write the entries of banks into a new one, in the order of the banks; each image once.

    Args:
      banks: folders of banks that were made by the same networks with the same settings.
      out: the new folder; it appears whole or not at all.

    Raises:
      BankError: for banks that do not fit each other, damaged or imported ones, and a folder that holds a bank or
        what one would replace.
      FileNotFoundError: for a folder without a bank.
    """
    check_free(out)
    described = [read_description(bank) for bank in banks]
    first = described[0]
    for bank, one in zip(banks, described, strict=True):
        if one.keys != EXACT or not one.images:
            raise BankError(f"{bank} was imported from a published index; it cannot be merged.")
        for what in ("backbone", "values", "settings"):
            if found := differences(getattr(first, what), getattr(one, what)):
                raise BankError(
                    f"{banks[0]} and {bank} were made with different {what}: {'; '.join(found)}. "
                    "Build them with the same model and options."
                )
    roots = list(dict.fromkeys(root for one in described for root in one.roots))
    images: list[BankImage] = []
    known: set[tuple[str, str]] = set()
    count = 0
    with atomic_folder(out) as folder:
        for bank, one in zip(banks, described, strict=True):
            names = [KEYS, *(f"values/{name}" for name in one.values), REGIONS, BOXES]
            arrays = {name: Rows(bank / name, one.entries) for name in names}
            begin = end = 0  # of entries that are copied together
            for image in [*read_images(bank, one), None]:
                new = image is not None and (image.name, image.mark) not in known
                if not new or end - begin >= CHUNK_ROWS:
                    count += _copy(arrays, begin, end, folder, count)
                    begin = end = end if image is None or new else image.first + image.entries
                if image is not None and new:
                    known.add((image.name, image.mark))
                    images.append(
                        image._replace(root=roots.index(one.roots[image.root]), first=count + end - begin)
                    )
                    end += image.entries
        write_images(folder, images)
        merged = replace(first, entries=count, images=len(images), roots=roots, generation=1)
        write_description(folder, merged)
    return merged


def _copy(arrays: dict[str, Rows], begin: int, end: int, folder: Path, first: int) -> int:
    """Copy entries to row `first` on, and say how many."""
    if end > begin:
        for name, rows in arrays.items():
            write_rows(folder / name, first, rows[begin:end])
    return end - begin
