"""Embedded model: the names of the small networks and of the bank that come with the package (weights/tiny)."""

import os
from pathlib import Path
from typing import Any

EMBEDDED = "tiny"
"""The model that comes with the package, and its bank: trained on, and made of, generated scenes."""
EMBEDDED_V2 = "tiny-v2"
"""The same networks with the method of CorrCLIPv2, which the bank is for."""
EMBEDDED_MODELS = (EMBEDDED, EMBEDDED_V2)
"""The names of both."""
EMBEDDED_FOLDER = Path(__file__).parents[1] / "weights" / EMBEDDED
EMBEDDED_BANK = EMBEDDED_FOLDER / "bank"

# DINO was trained on scenes of 168 x 168 pixels at half their size; that is how it sees whole images, too.
V2_FIELDS: dict[str, Any] = {
    "name": EMBEDDED_V2,
    "method": {"similarity_of": "image", "similarity_side": 84},
    "parts": {"merging": False},
}
"""What the configuration of `tiny-v2` has otherwise than that of `tiny`."""


def bank_folder(bank: str | os.PathLike[str]) -> Path:
    """The folder of a bank: that of the embedded one for the name "tiny", else itself."""
    return EMBEDDED_BANK if bank == EMBEDDED else Path(bank)
