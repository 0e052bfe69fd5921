"""COCO-Object's and COCO-Stuff's label files, from the maps that COCO-Stuff publishes (stuffthingmaps).

A raw map holds COCO's category id minus one: 0 .. 90 things, 91 .. 181 stuff, 255 nothing. Eleven of the ids were
never used; the others, in order, are the 171 classes of COCO-Stuff, the first 80 of them things. COCO-Object knows
these, after a background that holds all else.
"""

from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int32, Integer, UInt8
from PIL import Image

from corrclip_jax.datasets.label_files import LabelError, read_ids
from corrclip_jax.io.files import atomic_file

Kind = Literal["coco_object", "coco_stuff"]
SUFFIX: dict[str, str] = {"coco_object": "_instanceTrainIds", "coco_stuff": "_labelTrainIds"}

_UNUSED = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
_RAW_IDS = tuple(id for id in range(182) if id not in _UNUSED)
_THINGS = sum(id < 91 for id in _RAW_IDS)
_NOTHING, _FOREIGN = 255, -1


def train_ids(raw: Integer[np.ndarray, "H W"], kind: Kind) -> UInt8[np.ndarray, "H W"]:
    """A raw COCO-Stuff map as the label map of a benchmark.

    Raises:
      ValueError: for an id that COCO-Stuff does not use: then this is no raw map.
    """
    table = _table(kind)
    inside = (raw >= 0) & (raw < len(table))
    found = np.where(inside, table[np.where(inside, raw, 0)], _FOREIGN)
    if (found == _FOREIGN).any():
        ids = ", ".join(map(str, np.unique(raw[found == _FOREIGN])[:5]))
        raise ValueError(
            f"COCO-Stuff's raw maps hold no {ids}: is this a map that has been converted already?"
        )
    return found.astype(np.uint8)


def prepare_file(path: Path, kind: Kind, folder: Path) -> bool:
    """Write the label file `<stem><suffix>.png` of a raw map into a folder; False where it is there already.

    Raises:
      LabelError: the map cannot be read, or is none of COCO-Stuff's raw maps.
      OutputError: the file cannot be written.
    """
    target = folder / f"{path.stem}{SUFFIX[kind]}.png"
    if target.is_file():
        return False
    try:
        labels = train_ids(read_ids(path), kind)
    except LabelError:
        raise
    except ValueError as error:
        raise LabelError(f"{path}: {error}") from error
    with atomic_file(target) as partial:
        Image.fromarray(labels).save(partial)
    return True


def _table(kind: Kind) -> Int32[np.ndarray, "256"]:
    """The label of every raw id."""
    table = np.full(256, _FOREIGN, np.int32)
    classes = np.arange(len(_RAW_IDS))
    if kind == "coco_stuff":
        table[list(_RAW_IDS)], table[_NOTHING] = classes, _NOTHING
    else:
        table[list(_RAW_IDS)], table[_NOTHING] = np.where(classes < _THINGS, classes + 1, 0), 0
    return table
