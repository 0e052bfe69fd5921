"""Published checkpoints to a converted model: one folder with Orbax trees, vocabulary and `corrclip.json`."""

import math
import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from corrclip_jax.config import Config, from_dict, with_fields
from corrclip_jax.conversion.families import FAMILIES, TITLES, convert_state_dict
from corrclip_jax.conversion.find import Found, find, find_all, find_vocabulary, published_beside
from corrclip_jax.conversion.published import Published, recognise
from corrclip_jax.conversion.readers import sha256
from corrclip_jax.conversion.rules import ConversionError
from corrclip_jax.io.files import atomic_folder
from corrclip_jax.params.model_folder import (
    DESCRIPTION,
    VOCABULARY,
    read_description,
    write_description,
    write_tower,
)
from corrclip_jax.params.structure import REGION_TOWERS, Params, TowerConfig, expected_params, towers_of
from corrclip_jax.params.trees import shapes_by_path
from corrclip_jax.text.tokenizer import Tokenizer

Report = Callable[[str], None]


def to_stderr(line: str) -> None:
    """Print a line of progress."""
    print(line, file=sys.stderr, flush=True)


def convert(
    clip: str | Path,
    dino: str | Path,
    sam2: str | Path | None,
    out: str | Path,
    *,
    sam1: str | Path | None = None,
    eomt: str | Path | None = None,
    mask2former: str | Path | None = None,
    vocabulary: str | Path | None = None,
    name: str | None = None,
    quick_gelu: bool | None = None,
    configs: Mapping[str, TowerConfig] | None = None,
    force: bool = False,
    report: Report = to_stderr,
) -> Path:
    """Convert published checkpoints into the folder `out`, which is returned.

    Each source is a file of a published layout, the `.index.json` of a sharded one, or a folder that holds it (a
    repository's). `sam2`, `sam1`, `eomt` and `mask2former` find regions; the first of them that is there is the
    configured source. Without any the model is for given region maps. `vocabulary` is looked for beside the CLIP
    checkpoint; `name` is the folder's by default. `quick_gelu` and `configs` (by family: "clip", "dino" ...) say
    what tensor shapes do not show, where nothing beside the files does.

    An `out` that holds a conversion of the same files with the same settings is left as it is. It appears whole or
    not at all. One tower at a time is in memory, in float32.

    Raises:
      ConversionError: for a source that cannot be converted, with all that is wrong with it; for an `out` that
        holds something else, unless `force`.
      OSError: where `out` cannot be written.
    """
    paths = {"clip": clip, "dino": dino, "sam2": sam2, "sam1": sam1, "eomt": eomt, "mask2former": mask2former}
    found = {family: find(Path(path), family) for family, path in paths.items() if path is not None}
    if vocabulary is None:
        vocabulary = find_vocabulary(found["clip"].path.parent)
    return _convert(found, Path(out), vocabulary, name, quick_gelu, configs or {}, force, report)


def convert_folder(
    folder: str | Path,
    out: str | Path,
    *,
    vocabulary: str | Path | None = None,
    name: str | None = None,
    quick_gelu: bool | None = None,
    force: bool = False,
    report: Report = to_stderr,
) -> Path:
    """As `convert`, for a folder with a CLIP, a DINO and what finds regions, told apart by their content.

    The files may lie in folders of their own, down to the third level.
    """
    folder = Path(folder)
    found = find_all(folder, ("clip", "dino"), REGION_TOWERS)
    if vocabulary is None:
        vocabulary = find_vocabulary(found["clip"].path.parent, folder, folder / VOCABULARY)
    return _convert(
        found, Path(out), vocabulary, name or folder.absolute().name, quick_gelu, {}, force, report
    )


def _convert(
    found: Mapping[str, Found],
    out: Path,
    vocabulary: str | Path | None,
    name: str | None,
    quick_gelu: bool | None,
    configs: Mapping[str, TowerConfig],
    force: bool,
    report: Report,
) -> Path:
    towers = {family: configs.get(family) or _configure(one, quick_gelu) for family, one in found.items()}
    config = with_fields(Config(name=name or out.name), **({"sam2": None} | towers))
    if finders := [family for family in REGION_TOWERS if family in towers]:
        config = with_fields(config, regions={"source": finders[0]})
    if vocabulary is None:
        report("No CLIP vocabulary beside the checkpoint: class names cannot be embedded with this model.")
    else:
        Tokenizer.load(vocabulary)  # a damaged one is told now, not at the first class name
        config = with_fields(config, vocabulary=str(vocabulary))
    sources = {family: _describe(one) for family, one in found.items()}
    if not force and _is_there(out, config, sources):
        report(f"Already converted: {out}")
        return out
    _check_space(out, config)
    with atomic_folder(out) as folder:
        for family, tower in towers_of(config).items():
            report(
                f"Converting {TITLES[family]} from {found[family].path} ({found[family].layout} layout) ..."
            )
            # No name for the parameters here: it would keep one tower in memory while the next is converted.
            write_tower(folder, family, _convert_tower(found[family], tower))
        write_description(folder, config, sources)
    report(f"Converted: {out}")
    return out


def _convert_tower(found: Found, config: TowerConfig) -> Params:
    try:
        return convert_state_dict(found.family, found.checkpoint, config, found.layout)
    except ConversionError as error:
        raise ConversionError(f"{found.path}: {error}", error.faults) from error


def _configure(found: Found, quick_gelu: bool | None) -> TowerConfig:
    """The configuration of a checkpoint: from its shapes, from what the register or its repository says."""
    published, known = published_beside(found), _recognise(found)
    more: dict[str, Any] = {}
    if found.family == "clip":
        more["quick_gelu"] = known.quick_gelu if quick_gelu is None and known else quick_gelu
    try:
        config = FAMILIES[found.family].config_from_shapes(
            found.checkpoint.shapes, found.layout, published, **more
        )
    except ConversionError as error:
        raise ConversionError(f"{found.path}: {error}") from error
    if known is not None and known.head_width is not None:
        config = with_fields(config, vision={"head_width": known.head_width})
    return config


def _recognise(found: Found) -> Published | None:
    known = recognise(found.path)
    return known if known is not None and known.family == found.family else None


def _describe(found: Found) -> dict[str, Any]:
    """Where a tower comes from, for `corrclip.json`."""
    known = _recognise(found)
    files = [
        {"name": file.name, "size": file.stat().st_size, "sha256": sha256(file)}
        for file in found.checkpoint.files
    ]
    return {
        "title": known.title if known else None,
        "repository": known.repository if known else None,
        "licence": known.licence if known else None,
        "layout": found.layout,
        "files": files,
    }


def _is_there(out: Path, config: Config, sources: Mapping[str, Any]) -> bool:
    """Whether `out` holds this conversion already; an error where it holds anything else."""
    if not out.exists():
        return False
    if out.is_dir() and not any(out.iterdir()):
        return False
    if not (out / DESCRIPTION).is_file():
        raise ConversionError(
            f"{out} exists and is no converted model. Choose another folder, or force the conversion to replace it."
        )
    there = read_description(out)
    if there["sources"] == sources and from_dict(Config, there["config"]) == _as_written(config):
        return True
    raise ConversionError(
        f"{out} holds a conversion of other files, or with other settings. Choose another folder, or force the "
        "conversion to replace it."
    )


def _as_written(config: Config) -> Config:
    return with_fields(config, vocabulary=VOCABULARY if config.vocabulary is not None else None)


def _check_space(out: Path, config: Config) -> None:
    """Tell of a disk that is too full before the work, not after it."""
    needed = 4 * sum(math.prod(shape) for shape in shapes_by_path(expected_params(config)).values())
    standing = next(parent for parent in out.absolute().parents if parent.exists())
    if (free := shutil.disk_usage(standing).free) < needed:
        raise OSError(
            f"{out} cannot be written: the model takes {needed / 2**30:.1f} GiB and {standing} has "
            f"{free / 2**30:.1f} GiB left. Choose another folder, or make room."
        )
