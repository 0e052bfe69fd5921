"""`corrclip models`: list models and published checkpoints, with licences, sizes and conversions."""

from typing import TYPE_CHECKING, Any

from rich.markup import escape

from corrclip_jax.cli.shared.console import complain, messages, result_as_json, results
from corrclip_jax.cli.shared.tables import plain_table

if TYPE_CHECKING:
    from corrclip_jax.hub.inventory import Listed
    from corrclip_jax.hub.presets import Model

HELP = "\n\n".join(
    [
        "List models and published checkpoints.",
        "First the models with a name, with the size of their files on the hub; then every published network: "
        "size, licence, its name for --regions, and whether it is converted on this machine. Sizes are approximate "
        "for what was not converted here. -NC licences do not permit commercial use. --json also lists "
        "repositories, files, SHA-256 and the models that a network is part of.",
        "[bold]Examples[/]",
        "  corrclip models",
        "  corrclip models --json | jq '.published[].repository'",
    ]
)


def models() -> None:
    """List models. Users see `HELP`."""
    with messages().status("Reading model folders"):
        from corrclip_jax.hub.inventory import published_here
        from corrclip_jax.hub.presets import available_models

        known = available_models()
        listed, faults = published_here()
    _print(known, listed)
    result_as_json(
        {"models": [model._asdict() for model in known], "published": [_as_json(one) for one in listed]}
    )
    for fault in faults:
        complain(fault)


def _as_json(one: "Listed") -> dict[str, Any]:
    published = one.published
    return {
        "key": published.key,
        "title": published.title,
        "repository": published.repository,
        "file": published.file,
        "repositories": {place.name: place.files for place in published.repositories},
        "licence": published.licence,
        "regions": one.regions,
        "presets": one.presets,
        "megabytes": published.megabytes,
        "size": one.size,
        "sha256": one.sha256,
        "converted": one.converted,
    }


def _print(known: list["Model"], listed: list["Listed"]) -> None:
    """Print both lists, 80 columns wide at most."""
    from corrclip_jax.hub.home import weights_home
    from corrclip_jax.io.disk import readable

    here = [model.name for model in known if model.converted]
    console = results()
    console.print(
        f"Here, without a network: {', '.join(here) or 'none'}\n"
        "(tiny is for generated scenes only: corrclip demo)"
    )
    console.print()
    names = plain_table("Model", "Files", "Networks", "Licences")
    for model in known:
        size = readable(model.megabytes * 1e6) if model.megabytes else "none"
        licences = ", ".join(dict.fromkeys(model.licences.values()))
        names.add_row(model.name, size, ", ".join(model.titles.values()), licences)
    console.print(names)
    console.print()
    networks = plain_table("Published network", "Size", "Licence", "--regions", "Here")
    for one in listed:
        exact = one.size if one.size is not None else one.published.megabytes * 1e6
        networks.add_row(
            one.published.title,
            readable(exact),
            one.published.licence,
            ", ".join(one.regions),
            "yes" * one.here,
        )
    console.print(networks)
    console.print(f"\nConversions are kept in {escape(str(weights_home() / 'converted'))}", soft_wrap=True)
