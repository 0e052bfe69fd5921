"""`corrclip export`: a model for one photo size, as a program that runs anywhere."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from corrclip_jax.cli.shared.console import UsageError, messages
from corrclip_jax.cli.shared.options import parse_size
from corrclip_jax.config import Dtype, RegionSource, with_fields

HELP = "\n\n".join(
    [
        "Write a model as one lowered program.",
        "The folder --out holds the program for CPUs, NVIDIA GPUs and TPUs (chosen when it runs), its weights, its "
        "classes and export.json, which describes it. [bold]corrclip_jax.load_exported(folder)(images)[/] runs it, "
        "with photos of the size and number given here.",
        "[bold]Examples[/]",
        '  corrclip export --out program -m vit-b -c "cat, grass, sky; cloud" --size 640x480',
        "  corrclip export --out program -m vit-l --classes-file classes.txt --batch 16 --dtype bfloat16",
    ]
)


def export(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the program.", show_default=False)],
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes",
            "-c",
            help='Classes: a comma separates them, a semicolon synonyms: "cat, sky; cloud".',
        ),
    ] = None,
    classes_file: Annotated[
        Path | None,
        typer.Option(
            help="Classes from a text file: a line each, a semicolon separates synonyms.", show_default=False
        ),
    ] = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="tiny, vit-b, vit-l, vit-h, or a model's folder.")
    ] = "tiny",
    size: Annotated[str, typer.Option(help="Width and height of the photos.")] = "500x375",
    batch: Annotated[int, typer.Option(min=1, help="Photos in a call.")] = 1,
    dtype: Annotated[Dtype, typer.Option(help="The towers' compute type.")] = "float32",
    regions: Annotated[
        RegionSource | None,
        typer.Option(help="Where regions come from. [dim]\\[default: the model's][/]", show_default=False),
    ] = None,
    given_regions: Annotated[
        bool, typer.Option("--given-regions", help="The program takes region maps in place of finding them.")
    ] = False,
    points: Annotated[
        int | None, typer.Option(min=1, help="n for a grid of n x n points.", show_default=False)
    ] = None,
) -> None:
    """Export a model; people read `HELP`."""
    width, height = parse_size(size)
    if (classes is None) == (classes_file is None):
        raise UsageError(
            'Name the classes: either --classes "cat, grass, sky; cloud", or --classes-file FILE.'
        )
    console = messages()
    with console.status("Starting") as status:
        from corrclip_jax.hub.presets import load
        from corrclip_jax.inference.export import export as write
        from corrclip_jax.regions.sources import network_to_load
        from corrclip_jax.text.classes import parse_classes, read_classes
        from corrclip_jax.text.embedding import pad_queries, query_bucket
        from corrclip_jax.text.encode import embed_text

        names = read_classes(classes_file) if classes_file is not None else parse_classes(classes or "")
        status.update(f"Loading {escape(model)}")
        network = None if given_regions else network_to_load(regions)
        config, params = load(model, dtype=dtype, region_network=network)
        if regions is not None:
            config = with_fields(config, regions={"source": regions})
        if points is not None:
            config = with_fields(config, regions={"points_per_side": points})
        status.update(f"Reading {len(names)} class names")
        text = embed_text(config, params, names)
        text = pad_queries(text, query_bucket(text.features.shape[0]))
        status.update("Lowering")
        write(
            out,
            config,
            params,
            text,
            height=height,
            width=width,
            batch=batch,
            classes=names,
            given_regions=given_regions,
        )
    console.print(f"Program for {batch} x {width} x {height} -> {escape(str(out))}", soft_wrap=True)
