"""Opening of a bank for a model: read from its folder, checked against the model's networks, put on the devices."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from corrclip_jax.bank.folder import load_bank
from corrclip_jax.config import Config
from corrclip_jax.method.bank import Bank
from corrclip_jax.method.bank_arrays import put_bank
from corrclip_jax.method.checks import check_bank


def open_bank(
    bank: str | os.PathLike[str] | Bank, config: Config, params: Mapping[str, Any], mesh: Mesh | None = None
) -> Bank:
    """A bank on the model's devices.

    Args:
      bank: its folder, or a bank in memory. Of a folder the values of the model's own CLIP are read; those of other
        CLIPs need embeddings of the class names by them, which a model has not.
      config: the model's.
      params: its parameters.
      mesh: devices that share the rows of the bank; by default one holds all.

    Raises:
      FileNotFoundError: if the folder holds no bank.
      BankError: for a bank that is damaged or empty, or was made by other networks.
      ValueError: for a model that does without a bank, and for a bank in memory of other widths.
    """
    if not isinstance(bank, Bank):
        folder = Path(bank)
        bank = load_bank(folder, (config, params), in_memory=mesh is None)
        bank = replace(bank, values={"main": bank.values["main"]})
    check_bank(config, bank)
    return jax.device_put(bank) if mesh is None else put_bank(bank, mesh)
