"""Bank of an exported program: inside of it, or an input that is read from the bank's folder."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np

from corrclip_jax.bank.folder import Network
from corrclip_jax.config import Config
from corrclip_jax.hub.embedded import bank_folder
from corrclip_jax.inference.open_bank import BankLike, open_bank
from corrclip_jax.method.bank import Bank

_MOST_INSIDE = 1 << 30  # bytes; the file of a program may have 2 GiB


def in_memory(bank: Bank) -> Bank:
    """The rows of a bank, to be constants of a program.

    Raises:
      ValueError: if they are too many for that.
    """
    size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(bank))
    if size > _MOST_INSIDE:
        raise ValueError(
            f"a bank of {size / 2**30:.1f} GiB is too large to lie inside a program (at most "
            f"{_MOST_INSIDE >> 30} GiB). Leave it in its folder (without --bank-inside)."
        )
    return jax.device_put(jax.tree.map(np.asarray, bank))


def about(given: BankLike | None, bank: Bank, others: Mapping[str, Network], inside: bool) -> dict[str, Any]:
    """What the description says of a bank and of the CLIPs whose values are used beside the main one's."""
    folder = None if given is None or isinstance(given, Bank) else str(bank_folder(given).resolve())
    return {
        "folder": folder,
        "inside": inside,
        "entries": len(bank.values["main"]),
        "others": {name: asdict(one) for name, one in others.items()},
        "arrays": _arrays(bank),
    }


def _arrays(bank: Bank) -> dict[str, list[Any]]:
    """Type and shape of each array of a bank."""
    leaves = jax.tree_util.tree_leaves_with_path(bank)
    return {jax.tree_util.keystr(path): [str(x.dtype), *x.shape] for path, x in leaves}


def opened(
    path: Path,
    about: Mapping[str, Any] | None,
    given: BankLike | None,
    config: Config,
    params: Mapping[str, Any],
) -> Bank | None:
    """The bank that a program takes as an input, on the device; None for one that takes none.

    Args:
      path: the program's folder.
      about: what its description says of the bank.
      given: the bank to use instead of the one that it was exported with.
      config: the model's.
      params: its parameters.

    Raises:
      FileNotFoundError: if there is no bank where it was.
      ValueError: for a bank that the program does not take.
    """
    if about is None or about["inside"]:
        if given is not None:
            how = "without one" if about is None else "with one inside"
            raise ValueError(f"{path} takes no bank: it was exported {how}.")
        return None
    place = about["folder"] if given is None else given
    if place is None:
        raise ValueError(f"{path} was exported with a bank in memory: give load_exported(path, bank=) one.")
    others = {name: Network(**one) for name, one in about.get("others", {}).items()}
    bank = open_bank(place, config, params, others)
    if (found := _arrays(bank)) != about["arrays"]:
        raise ValueError(
            f"{path} takes a bank of {about['entries']} entries, with the arrays {about['arrays']}. Got {found}. "
            "Export it again with this bank."
        )
    return bank
