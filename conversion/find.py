"""Checkpoints in folders: which file is which by its content, and the settings published next to it."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corrclip_jax.config import FAMILIES
from corrclip_jax.conversion.families import describe, detect, layout_of
from corrclip_jax.conversion.readers import (
    ARCHIVE,
    INDEX_SUFFIX,
    SUFFIXES,
    Checkpoint,
    is_pickle,
    open_checkpoint,
)
from corrclip_jax.conversion.rules import ConversionError

_DEPTH = 3
_VOCABULARIES = ("tokenizer.json", "vocab.json", "*bpe_simple_vocab_16e6.txt.gz")


@dataclass(frozen=True)
class Found:
    """A checkpoint whose family and layout are known."""

    family: str
    layout: str
    checkpoint: Checkpoint

    @property
    def path(self) -> Path:
        """The file, or the index of a sharded one."""
        return self.checkpoint.path


def find(path: Path, family: str) -> Found:
    """The checkpoint of a family: the file itself, or the one in a folder (a repository's, say).

    Raises:
      ConversionError: where there is none, or several and nothing tells which is meant.
    """
    if path.is_dir():
        return find_all(path, (family,), depth=1)[family]
    if not path.exists():
        raise ConversionError(f"There is no checkpoint {path}.")
    checkpoint = open_checkpoint(path)
    return Found(family, layout_of(family, checkpoint, str(path)), checkpoint)


def find_all(
    folder: Path,
    needed: tuple[str, ...],
    optional: tuple[str, ...] = (),
    *,
    one_of: tuple[str, ...] = (),
    depth: int = _DEPTH,
) -> dict[str, Found]:
    """The checkpoints in a folder and `depth - 1` levels below it, by family: all `needed`, some of `one_of`.

    Of the same model in several forms, safetensors come before pickles, and the first layout of a family before
    the second.

    Raises:
      ConversionError: where a needed family is missing, with what was found instead; or where there are several
        of a family.
    """
    found: list[Found] = []
    others: list[str] = []
    # Pickles last: they need torch, and often hold again what a .safetensors file has.
    for path in sorted(checkpoint_files(folder, depth), key=lambda path: (is_pickle(path), path)):
        if is_pickle(path) and {*needed, *one_of, *optional} <= {one.family for one in found}:
            break
        try:
            checkpoint = open_checkpoint(path)
        except ConversionError as error:
            others.append(str(error))
            continue
        if (what := detect(checkpoint)) is None:
            others.append(f"{path} looks like {describe(checkpoint)}.")
        else:
            found.append(Found(*what, checkpoint))
    chosen = {
        family: _choose([one for one in found if one.family == family])
        for family in (*needed, *one_of, *optional)
    }
    others += [
        f"{one.path} looks like {describe(one.checkpoint)}." for one in found if one.family not in chosen
    ]
    missing = [FAMILIES[family].title for family in needed if chosen[family] is None]
    if one_of and not any(chosen[family] for family in one_of):
        missing.append(" or ".join(FAMILIES[family].title for family in one_of))
    if missing:
        seen = "\n".join(f"  {line}" for line in others) or "  no other checkpoint"
        raise ConversionError(f"No checkpoint of {' and '.join(missing)} in {folder}. It holds:\n{seen}")
    return {family: one for family, one in chosen.items() if one is not None}


def checkpoint_files(folder: Path, depth: int = _DEPTH) -> list[Path]:
    """Files that may be checkpoints; the shards of a sharded one are left to its index."""
    files = list(_walk(folder, depth))
    indices = [path for path in files if path.name.endswith(INDEX_SUFFIX)]
    shards = {path.parent / name for path in indices for name in _shard_names(path)}
    return indices + [path for path in files if _may_be_one(path) and path not in shards]


def _may_be_one(path: Path) -> bool:
    return path.suffix in SUFFIXES or path.name.endswith(ARCHIVE)


def published_beside(found: Found) -> dict[str, Any]:
    """What was published beside a checkpoint about its model; empty where nothing was, or of another family."""
    open_clip = (found.family, found.layout) == ("clip", "open_clip")
    file = found.path.parent / ("open_clip_config.json" if open_clip else "config.json")
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text("utf-8"))
        fits = open_clip or content.get("model_type") in FAMILIES[found.family].hub_types
    except (ValueError, AttributeError) as error:
        raise ConversionError(f"{file} is no JSON object ({error}). Repair it, or take it away.") from error
    return content if fits else {}


def find_vocabulary(*folders: Path) -> Path | None:
    """The first of the folders that holds a CLIP vocabulary."""
    return next((f for f in folders if any(next(f.glob(name), None) for name in _VOCABULARIES)), None)


def _choose(candidates: list[Found]) -> Found | None:
    """The candidate to take, all being of one family; None of none."""
    if not candidates:
        return None
    layouts = list(FAMILIES[candidates[0].family].conversion_table().SIGNATURES)

    def rank(one: Found) -> tuple[bool, int]:
        return is_pickle(one.path), layouts.index(one.layout)

    best = min(map(rank, candidates))
    first, *more = [one for one in candidates if rank(one) == best]
    if more:
        listed = ", ".join(str(one.path) for one in (first, *more))
        raise ConversionError(
            f"Several checkpoints of {FAMILIES[first.family].title}: {listed}. Name the one you "
            "mean, or leave only one."
        )
    return first


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir() and depth > 1 and not path.name.startswith("."):
            yield from _walk(path, depth - 1)
        elif path.is_file():
            yield path


def _shard_names(index: Path) -> set[str]:
    try:
        return set(json.loads(index.read_text("utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError):  # opening the index says what is wrong with it
        return set()
