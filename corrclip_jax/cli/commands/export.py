"""`corrclip export`: a model for one image size, as a lowered program for CPU, GPU and TPU."""

from typing import Annotated

import typer
from rich.markup import escape

from corrclip_jax.cli.shared.console import UsageError, messages, result_as_json
from corrclip_jax.cli.shared.options import (
    AlsoOption,
    BankOption,
    BatchOption,
    ClassesFileOption,
    ClassesOption,
    DtypeOption,
    ModelOption,
    OutOption,
    OverwriteOption,
    PointsOption,
    Precision,
    RegionSourceOption,
    SetOption,
    SizeOption,
    bank_and_others,
    class_names,
    compute_type,
    parse_size,
)
from corrclip_jax.config import source_family, with_fields
from corrclip_jax.config.assignments import with_assignments

HELP = "\n\n".join(
    [
        "Export a model as one lowered program.",
        "The folder --out holds the program for CPUs, NVIDIA GPUs and TPUs (chosen at run time), its weights, its "
        "classes and its description, export.json. [bold]corrclip_jax.load_exported(folder)(images)[/] runs it, on "
        "--batch images of --size.",
        "[bold]Examples[/]",
        '  corrclip export --out program -m vit-b -c "cat, grass, sky; cloud" --size 640x480',
        '  corrclip export --out program -m v2-b -c "cat, grass, sky; cloud" --bank bank/',
        "  corrclip export --out program -m vit-l --classes-file classes.txt --batch 16 --dtype bfloat16",
    ]
)


def export(
    out: OutOption,
    classes: ClassesOption = None,
    classes_file: ClassesFileOption = None,
    model: ModelOption = "tiny",
    size: SizeOption = "500x375",
    batch: BatchOption = 1,
    dtype: DtypeOption = Precision.float32,
    regions: RegionSourceOption = None,
    given_regions: Annotated[
        bool,
        typer.Option(
            "--given-regions", help="The program takes region maps as an input instead of finding regions."
        ),
    ] = False,
    points: PointsOption = None,
    bank: BankOption = None,
    also: AlsoOption = None,
    bank_inside: Annotated[
        bool,
        typer.Option(
            "--bank-inside", help="Write the bank into the program; otherwise it is read from its folder."
        ),
    ] = False,
    assignments: SetOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Export a model. Users see `HELP`."""
    width, height = parse_size(size)
    names = class_names(classes, classes_file)
    bank_place, others = bank_and_others(bank, also)
    if bank_inside and bank_place is None:
        raise UsageError("--bank-inside needs a bank: name it with --bank.")
    precision = compute_type(dtype, "the platforms of an exported program")
    from corrclip_jax.cli.shared.progress import Progress

    with Progress() as progress:
        progress.phase("Starting")
        from corrclip_jax.hub.presets import load
        from corrclip_jax.inference.export import export as write
        from corrclip_jax.inference.other_clips import embed_in_all, load_text_towers
        from corrclip_jax.regions.sources import network_to_load
        from corrclip_jax.text.embedding import pad_queries, query_bucket

        progress.phase(f"Loading {model}")
        network = None if given_regions else network_to_load(regions)
        config, params = load(model, dtype=precision, region_network=network)
        if regions is not None:
            config = with_fields(config, regions={"source": source_family(regions)})
        if points is not None:
            config = with_fields(config, regions={"points_per_side": points})
        config = with_assignments(config, assignments or ())
        progress.phase(f"Encoding {len(names)} class names")
        clips = load_text_towers(others)
        text = embed_in_all(config, params, clips, names)
        text = pad_queries(text, query_bucket(text.features.shape[0]))
        progress.phase("Lowering")
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
            overwrite=overwrite,
            bank=bank_place,
            bank_inside=bank_inside,
            others=clips,
        )
    result_as_json({"program": str(out)})
    messages().print(f"Program for {batch} x {width} x {height} -> {escape(str(out))}", soft_wrap=True)
