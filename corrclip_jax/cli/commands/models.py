"""`corrclip models`: list models and published checkpoints, with licences, sizes and conversions."""

import json
from typing import Annotated

import typer
from rich.markup import escape

from corrclip_jax.cli.shared.console import complain, messages, results
from corrclip_jax.cli.shared.tables import plain_table

HELP = "\n\n".join(
    [
        "List models and published checkpoints.",
        "First the models with a name, then every published file of their families: layout, licence, size, "
        "SHA-256, and the models on this machine that were converted from it. Size and SHA-256 are known "
        "for files that were converted on this machine. -NC licences do not permit commercial use.",
        "[bold]Examples[/]",
        "  corrclip models",
        "  corrclip models --json | jq '.published[].repository'",
    ]
)


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print the lists as JSON.")] = False,
) -> None:
    """List models. Users see `HELP`."""
    with messages().status("Reading model folders"):
        from corrclip_jax.hub.inventory import published_here
        from corrclip_jax.hub.presets import available_models, weights_home

        known = available_models()
        listed, faults = published_here()
    if as_json:
        content = {
            "models": [model._asdict() for model in known],
            "published": [
                {
                    "key": one.published.key,
                    "title": one.published.title,
                    "repository": one.published.repository,
                    "file": one.published.file,
                    "layout": one.published.layout,
                    "licence": one.published.licence,
                    "presets": one.presets,
                    "size": one.size,
                    "sha256": one.sha256,
                    "converted": one.converted,
                }
                for one in listed
            ],
        }
        typer.echo(json.dumps(content, indent=1, ensure_ascii=False))
    else:
        names = plain_table("Model", "Parts", "Licences", "Here")
        for model in known:
            licences = " + ".join(dict.fromkeys(model.licences.values()))
            names.add_row(model.name, ", ".join(model.titles.values()), licences, "yes" * model.converted)
        files = plain_table(
            "Published", "File", "Layout", "Licence", "Size", "SHA-256", "Part of", "Converted as"
        )
        for one in listed:
            published = one.published
            files.add_row(
                published.title,
                escape(f"{published.repository}/{published.file}"),
                published.layout,
                published.licence,
                f"{one.size / 1e6:,.0f} MB" if one.size is not None else "",
                one.sha256[:12] if one.sha256 is not None else "",
                ", ".join(one.presets),
                escape(", ".join(one.converted)),
            )
        console = results()
        console.print(names)
        console.print()
        console.print(files)
        console.print(
            f"\nConversions are kept in {escape(str(weights_home() / 'converted'))}", soft_wrap=True
        )
    for fault in faults:
        complain(fault)
