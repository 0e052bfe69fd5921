"""`corrclip bench`: where a model's time goes on this machine, and how near that is to what the machine can do."""

import json
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from corrclip_jax.cli.shared.console import UsageError, messages, results
from corrclip_jax.cli.shared.options import (
    BatchOption,
    DtypeOption,
    ModelOption,
    PointsOption,
    Precision,
    RegionSourceOption,
    SizeOption,
    parse_size,
)
from corrclip_jax.config import FAMILIES, Config, RegionSource, families, with_fields

HELP = "\n\n".join(
    [
        "Measure a model on this machine.",
        "For every stage (regions, DINO, correlation, CLIP, labels) and for the whole program: seconds, share, "
        "arithmetic, share of the device's own rate of matrix products (measured in the same run, in the same "
        "precision), memory, time to compile. Photos and texts are drawn; weights may be, with --random.",
        "With --against torch the window step and SAM 2 run beside the torch reference of a checkout's tests, in "
        "turns, on the same random weights.",
        "[bold]Examples[/]",
        "  corrclip bench",
        "  corrclip bench -m vit-b --random --size 500x375 --threads 2 --json vit-b.json",
        "  corrclip bench -m vit-b --random --batch 16 --dtype bfloat16 --chunk 32",
        "  corrclip bench -m vit-b --against torch --threads 2",
    ]
)


class Other(StrEnum):
    """What to compare with."""

    torch = "torch"


def bench(
    model: ModelOption = "tiny",
    random: Annotated[
        bool, typer.Option("--random", help="Draw the weights: nothing is downloaded.")
    ] = False,
    size: SizeOption = "500x375",
    batch: BatchOption = 1,
    dtype: DtypeOption = Precision.float32,
    regions: RegionSourceOption = None,
    points: PointsOption = None,
    chunk: Annotated[
        int | None,
        typer.Option(min=1, help="Windows that go through the towers together.", show_default=False),
    ] = None,
    classes: Annotated[int, typer.Option(min=1, help="Number of classes.")] = 21,
    repeat: Annotated[int, typer.Option(min=1, help="Runs of each; medians count.")] = 5,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Cores of the CPU to use. [dim]\\[default: all][/]", show_default=False),
    ] = None,
    against: Annotated[
        Other | None, typer.Option(help="Run the torch reference beside ours.", show_default=False)
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--json", help="Write the report here as well.", show_default=False)
    ] = None,
) -> None:
    """Measure a model; people read `HELP`."""
    width, height = parse_size(size)
    if threads is not None:
        limit_threads(threads)
    console = messages()
    with console.status("Starting") as status:

        def announce(step: str) -> None:
            status.update(escape(step))

        changes: dict = {"dtype": dtype.value, "regions": {}, "method": {}}
        changes["regions"] |= {} if regions is None else {"source": regions}
        changes["regions"] |= {} if points is None else {"points_per_side": points}
        changes["method"] |= {} if chunk is None else {"windows_per_chunk": chunk}
        if against is not None:
            from corrclip_jax.bench.versus import versus
            from corrclip_jax.cli.runs.bench_tables import versus_table

            config = with_fields(model_config(model), **changes)
            report = versus(config, repeat=repeat, threads=threads, announce=announce)
            shown = versus_table(report)
        else:
            from corrclip_jax.bench.measure import measure
            from corrclip_jax.cli.runs.bench_tables import tables
            from corrclip_jax.hub.presets import load
            from corrclip_jax.params.structure import init_params

            announce("Weights")
            if random:
                config = with_network(model_config(model), regions)
                params = init_params(config)
            else:
                config, params = load(model)
            config = with_fields(config, **changes)
            report = measure(
                config,
                params,
                height=height,
                width=width,
                batch=batch,
                classes=classes,
                repeat=repeat,
                announce=announce,
            )
            shown = tables(report)
    results().print(shown)
    if out is not None:
        from corrclip_jax.io.files import atomic_file

        with atomic_file(out) as part:
            part.write_text(json.dumps(report, indent=1) + "\n", "utf-8")


def limit_threads(threads: int) -> None:
    """Keep this process to so many cores, before XLA makes a thread for each core that it may use.

    Raises:
      UsageError: where there are not so many, or the system cannot keep a process to some.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise UsageError(
            "--threads wants a system that can keep a process to some of its cores, as Linux can."
        )
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < threads:
        raise UsageError(f"--threads {threads}, but this process may use {len(cores)} cores.")
    os.sched_setaffinity(0, cores[:threads])
    os.environ["OMP_NUM_THREADS"] = str(threads)


def with_network(config: Config, source: RegionSource | None) -> Config:
    """The configuration with the source's network: of the published size, where the model itself has none."""
    if source is None or source not in families("regions") or getattr(config, source) is not None:
        return config
    return with_fields(config, **{source: FAMILIES[source].config()})


def model_config(model: str) -> Config:
    """A model's configuration without its weights.

    Raises:
      ValueError: for what is neither a model's name nor the folder of a converted one.
    """
    from corrclip_jax.config import from_dict
    from corrclip_jax.hub.presets import EMBEDDED, EMBEDDED_FOLDER, PRESETS
    from corrclip_jax.params.model_folder import read_description

    if model in PRESETS:
        return PRESETS[model]
    folder = EMBEDDED_FOLDER if model == EMBEDDED else Path(model)
    if not folder.is_dir():
        raise UsageError(
            f"--model must be one of {', '.join([EMBEDDED, *PRESETS])}, or the folder of a converted model. "
            f"Got {model!r}."
        )
    return from_dict(Config, read_description(folder)["config"])
