"""Opening of a bank for a model: read from its folder, checked against the model's networks, put on the devices."""

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import jax
from jax.sharding import Mesh

from corrclip_jax.bank.errors import BankError
from corrclip_jax.bank.folder import Network, load_bank
from corrclip_jax.config import Config
from corrclip_jax.hub.embedded import bank_folder
from corrclip_jax.method.bank import Bank
from corrclip_jax.method.bank_arrays import put_bank
from corrclip_jax.method.checks import check_bank

BankLike: TypeAlias = str | os.PathLike[str] | Bank
"""The folder of a bank, or a bank in memory."""


def read_bank(
    bank: BankLike,
    config: Config,
    params: Mapping[str, Any],
    others: Mapping[str, Network] | None = None,
    *,
    in_memory: bool = False,
) -> Bank:
    """A bank for a model, with the values of the model's own CLIP and of `others`.

    Args:
      bank: its folder ("tiny" is that of `tiny-v2`), or a bank in memory.
      config: the model's.
      params: its parameters.
      others: further CLIPs that the names of classes are embedded with, by the names of their values.
      in_memory: whether the rows of a folder are read at once; else they are read where they are used.

    Raises:
      FileNotFoundError: if the folder holds no bank.
      BankError: for a bank that is damaged or empty, was made by other networks, or has no values of a CLIP.
      ValueError: for a model that does without a bank, and for a bank in memory of other widths.
    """
    clips = others or {}
    if not isinstance(bank, Bank):
        bank = load_bank(bank_folder(bank), (config, params), others=clips, in_memory=in_memory)
    check_bank(config, bank)
    if missing := [name for name in clips if name not in bank.values]:
        raise BankError(
            f"the bank has no values of the CLIP {missing[0]!r}; it has {', '.join(bank.values)}. Build it with "
            "this CLIP, or leave it out."
        )
    return replace(bank, values={name: bank.values[name] for name in ("main", *clips)})


def open_bank(
    bank: BankLike,
    config: Config,
    params: Mapping[str, Any],
    others: Mapping[str, Network] | None = None,
    *,
    mesh: Mesh | None = None,
) -> Bank:
    """A bank on the model's devices.

    Args:
      bank, config, params, others: as for `read_bank`.
      mesh: devices that share the rows of the bank; by default one holds all.

    Raises:
      FileNotFoundError, BankError, ValueError: as `read_bank`.
    """
    bank = read_bank(bank, config, params, others, in_memory=mesh is None)
    return jax.device_put(bank) if mesh is None else put_bank(bank, mesh)
