"""Inventory of published files: the registry, and which of them are converted here."""

from typing import Any, NamedTuple

from corrclip_jax.conversion.published import Published, preset_models, published_models
from corrclip_jax.hub.presets import PRESETS, weights_home
from corrclip_jax.params.model_folder import DESCRIPTION, read_description


class Listed(NamedTuple):
    """A published model: the presets it is part of, the names of the conversions made from it, and its files.

    `size` (bytes) and `sha256` are the registry's or, where that has none, those of the file that was converted
    here; None where neither knows.
    """

    published: Published
    presets: tuple[str, ...]
    converted: tuple[str, ...]
    size: int | None
    sha256: str | None


def published_here() -> tuple[list[Listed], list[str]]:
    """All published models of the registry, and what is wrong with conversions that cannot be read."""
    presets = {name: preset_models(name) for name in PRESETS}
    conversions, faults = _conversions()
    listed = []
    for published in published_models().values():
        made = {
            name: source
            for name, sources in conversions.items()
            if (source := sources.get(published.family, {})).get("repository") == published.repository
        }
        files: list[dict[str, Any]] = next((source.get("files", []) for source in made.values()), [])
        one = files[0] if len(files) == 1 else {}
        listed.append(
            Listed(
                published,
                tuple(name for name, parts in presets.items() if published in parts.values()),
                tuple(made),
                published.size if published.size is not None else one.get("size"),
                published.sha256 if published.sha256 is not None else one.get("sha256"),
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
