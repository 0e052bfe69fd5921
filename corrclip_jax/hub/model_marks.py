"""Marks of models: what stands for a model where results say how they were made. No network is read.

Imports JAX only for a model with a name that is not here yet, which is downloaded and converted first.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from corrclip_jax.config import (
    Config,
    families,
    from_dict,
    networks_of,
    select_regions,
    source_family,
    to_dict,
)
from corrclip_jax.conversion.published import (
    Published,
    preset_models,
    preset_names,
    published_models,
    region_models,
)
from corrclip_jax.hub.embedded import EMBEDDED_FOLDER, EMBEDDED_MODELS
from corrclip_jax.hub.home import part_place
from corrclip_jax.io.marks import folder_digest, folder_digests, vocabulary_digest
from corrclip_jax.io.own_files import value_digest
from corrclip_jax.params.file_names import DESCRIPTION, PART, VOCABULARY


def model_mark(model: str, source: str, *, alone: bool = False) -> str:
    """What stands for a model: its name, and a digest of its configuration, weights and vocabulary.

    Of a folder all bytes count, as in evaluations; it may be moved. Of a model with a name those of the published
    files count, which are noted when they are converted: they are the same after another download.

    Args:
      model: a name, or a folder.
      source: the source of regions. Other networks of regions do not count.
      alone: only the network of regions counts.

    Returns:
      The mark; the bare name of what is no model, which is found out when it is loaded.

    Raises:
      ValueError, FileNotFoundError: as `load`, for a model with a name that is not here.
      OSError: for files that cannot be read.
    """
    network = source if source_family(source) in families("regions") else None
    if model in EMBEDDED_MODELS:
        return f"{model} {_folder_mark(EMBEDDED_FOLDER, network, alone)}"
    if model in preset_names():
        return f"{model} {_published_mark(model, network, alone)}"
    if not (folder := Path(model)).is_dir():
        return model
    is_converted = (folder / DESCRIPTION).is_file()  # else checkpoints, in any folders below it
    mark = _folder_mark(folder, network, alone) if is_converted else folder_digest(folder)[:16]
    return f"{folder.resolve().name} {mark}"


def clip_marks(others: Mapping[str, str]) -> list[list[str]]:
    """What stands for the further CLIPs of a bank, in the order of their names; as `model_mark`."""
    return [[name, _clip_mark(model)] for name, model in sorted(others.items())]


def _clip_mark(model: str) -> str:
    if model in preset_names():
        one = preset_models(model)["clip"]
    elif (found := published_models().get(f"clip/{model}")) is not None:
        one = found
    else:
        return model_mark(model, "none")
    return f"{model} {_marks_of_parts([one], lambda: _provide(model, one))}"


def _folder_mark(folder: Path, network: str | None, alone: bool) -> str:
    """The mark of a converted folder; "damaged" for one that cannot be loaded, which then says why."""
    try:
        content = json.loads((folder / DESCRIPTION).read_text("utf-8"))
        config = select_regions(from_dict(Config, content["config"]), network)
        elsewhere = dict(content.get("networks", {}))
    except (ValueError, KeyError, TypeError):
        return "damaged"
    names = [network] if alone and network else networks_of(config)
    trees = {name: (folder / elsewhere.get(name, name)).resolve() for name in names}
    vocabulary = None if config.vocabulary is None or alone else str(folder / config.vocabulary)
    return value_digest([to_dict(config), folder_digests(trees), vocabulary_digest(vocabulary)])


def _published_mark(model: str, network: str | None, alone: bool) -> str:
    """The mark of a model with a name, which is downloaded and converted where it is not here."""
    own = preset_models(model)
    needed = [one for family, one in own.items() if not alone and family not in families("regions")]
    chosen = own.get(network, region_models().get(network)) if network is not None else None
    needed += [chosen] if chosen is not None else []

    def make() -> None:
        from corrclip_jax.hub.presets import prepare

        if alone and chosen is not None and chosen in own.values():
            _provide(model, chosen)
        else:
            prepare(model, network)

    return _marks_of_parts(needed, make)


def _marks_of_parts(needed: list[Published], make: Callable[[], object]) -> str:
    """The mark of published networks; `make` downloads and converts them where one is not here."""
    found = [_part_mark(one) for one in needed]
    if None in found:
        make()
        found = [_part_mark(one) for one in needed]
    return value_digest(found)


def _provide(model: str, one: Published) -> None:
    from corrclip_jax.conversion.convert import to_stderr
    from corrclip_jax.hub.parts import provide
    from corrclip_jax.hub.presets import PRESETS

    provide(model, one, getattr(PRESETS[model], one.family) if model in PRESETS else None, to_stderr)


def _part_mark(one: Published) -> list[Any] | None:
    """Configuration, published files and vocabulary of a converted network; None where there is none."""
    folder = part_place(one.key)
    try:
        content: Mapping[str, Any] = json.loads((folder / PART).read_text("utf-8"))
        files = [file["sha256"] for file in content["source"]["files"]]
        return [content["config"], files, vocabulary_digest(str(folder / VOCABULARY))]
    except (OSError, ValueError, KeyError, TypeError):
        return None
