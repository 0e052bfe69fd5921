"""Inventory of published networks: the registry, and which of them are converted here."""

from typing import Any, NamedTuple

from corrclip_jax.conversion.published import Published, preset_models, published_models, region_models
from corrclip_jax.hub.home import part_place, weights_home
from corrclip_jax.hub.presets import PRESETS
from corrclip_jax.params.file_names import DESCRIPTION
from corrclip_jax.params.model_folder import read_description, read_part


class Listed(NamedTuple):
    """A published network, and what of it is on this machine.

    Attributes:
      published: the entry of the registry.
      presets: the models with a name that it is part of.
      regions: its names as a source of regions.
      converted: the names of the model folders that hold it.
      here: whether it is converted, in a model folder or as a part of its own.
      size: of the file that was converted here, in bytes; None where none was.
      sha256: of that file.
    """

    published: Published
    presets: tuple[str, ...]
    regions: tuple[str, ...]
    converted: tuple[str, ...]
    here: bool
    size: int | None
    sha256: str | None


def published_here() -> tuple[list[Listed], list[str]]:
    """All published networks of the registry, and what is wrong with conversions that cannot be read."""
    presets = {name: preset_models(name) for name in PRESETS}
    conversions, faults = _conversions()
    listed = []
    for published in published_models().values():
        made = {
            name: source
            for name, sources in conversions.items()
            if (source := sources.get(published.family, {})).get("repository") == published.repository
        }
        part = read_part(part_place(published.key))
        known = [*made.values(), *([part.source] if part else [])]
        files: list[dict[str, Any]] = next((source.get("files", []) for source in known), [])
        one = files[0] if len(files) == 1 else {}
        listed.append(
            Listed(
                published,
                tuple(name for name, parts in presets.items() if published in parts.values()),
                tuple(name for name, other in region_models().items() if published == other),
                tuple(made),
                bool(known),
                one.get("size"),
                one.get("sha256"),
            )
        )
    return listed, faults


def _conversions() -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The sources of every converted model at home, by its folder's name; and faults."""
    found, faults = {}, []
    for file in sorted((weights_home() / "converted").glob(f"*/{DESCRIPTION}")):
        try:
            found[file.parent.name] = read_description(file.parent)["sources"]
        except (OSError, ValueError, KeyError) as error:
            faults.append(str(error))
    return found, faults
