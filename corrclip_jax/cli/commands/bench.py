"""`corrclip bench`: time, arithmetic and memory of a model on this machine, stage by stage."""

import json
import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from corrclip_jax.cli.shared.console import UsageError, output, result_as_json, results
from corrclip_jax.cli.shared.options import (
    BatchOption,
    DtypeOption,
    ModelOption,
    OverwriteOption,
    PointsOption,
    Precision,
    RegionSourceOption,
    SizeOption,
    compute_type,
    parse_size,
)
from corrclip_jax.config import FAMILIES, Config, RegionSource, families, source_family, with_fields
from corrclip_jax.io.own_files import OwnFiles

HELP = "\n\n".join(
    [
        "Measure the speed of a model on this machine.",
        "For every stage (regions, backbone, correlation, CLIP, labels; with a bank search and support) and for "
        "the whole program: seconds, "
        "share of the time, floating-point operations, share of the device's peak rate (of matrix products,"
        " measured in the same run and precision), memory, and time to compile. Images and texts are "
        "random; with --random, so are the weights.",
        "With --against torch, the window step and SAM 2 run alternately with the torch reference of a checkout's "
        "tests, on the same random weights.",
        "With --compile-for, nothing runs: the compiler of TPUs or GPUs (extra tpu-aot or gpu-aot, Linux) "
        "compiles the whole program and says how much memory it takes; that of TPUs estimates its cycles by "
        "stage, that of GPUs shows what cuBLAS and cuDNN compute.",
        "[bold]Examples[/]",
        "  corrclip bench",
        "  corrclip bench -m vit-b --random --size 500x375 --threads 2 --out vit-b.json",
        "  corrclip bench -m vit-b --random --batch 16 --dtype bfloat16 --chunk 32",
        "  corrclip bench -m v2-b --random --bank-entries 100000",
        "  corrclip bench -m vit-b --against torch --threads 2",
        "  corrclip bench -m vit-b --compile-for v5e --batch 8 --chips 8 --dtype bfloat16 --regions none",
        "  corrclip bench -m v2-b --compile-for h100 --batch 8 --dtype bfloat16 --bank-entries 100000",
    ]
)


class Reference(StrEnum):
    """Implementations to compare with."""

    torch = "torch"


def bench(
    model: ModelOption = "tiny",
    random: Annotated[bool, typer.Option("--random", help="Random weights: nothing is downloaded.")] = False,
    size: SizeOption = "500x375",
    batch: BatchOption = 1,
    dtype: DtypeOption = Precision.float32,
    regions: RegionSourceOption = None,
    points: PointsOption = None,
    chunk: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Windows in one batch of the networks. [dim]\\[default: what fits into memory][/]",
            show_default=False,
        ),
    ] = None,
    classes: Annotated[int, typer.Option(min=1, help="Number of classes.")] = 21,
    bank_entries: Annotated[
        int,
        typer.Option(min=0, help="Entries of a random bank, for a model of CorrCLIPv2; 0 is no bank."),
    ] = 0,
    repeat: Annotated[int, typer.Option(min=1, help="Runs of each program; the median counts.")] = 5,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, help="CPU cores to use (Linux only). [dim]\\[default: all][/]", show_default=False
        ),
    ] = None,
    against: Annotated[
        Reference | None, typer.Option(help="Compare with the torch reference.", show_default=False)
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(
            "--compile-for",
            help="Compile for an accelerator instead: v5e, v6e, a100, h100 or l4.",
            show_default=False,
        ),
    ] = None,
    chips: Annotated[int, typer.Option(min=1, help="Accelerators that share the batch: 1, 4 or 8.")] = 1,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Also write the report to this file, as JSON.", show_default=False),
    ] = None,
    file: Annotated[Path | None, typer.Argument(hidden=True, help="--json FILE: the older --out.")] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Measure a model. Users see `HELP`."""
    width, height = parse_size(size)
    if chips > 1 and kind is None:
        raise UsageError("--chips is the number of accelerators to compile for: give --compile-for as well.")
    if kind is not None and against is not None:
        raise UsageError("--compile-for runs nothing that --against could compare: give one of them.")
    precision = compute_type(dtype, "the accelerators of --compile-for" if kind else "")
    if file is not None:
        out, output.as_json = file, False
    own = None if out is None else OwnFiles(out.parent)
    if own is not None and out is not None:
        own.check([out.name], overwrite=overwrite)
    if threads is not None:
        limit_threads(threads)
    from corrclip_jax.cli.shared.progress import Progress

    with Progress() as shown_progress:
        progress = shown_progress.phase
        progress("Starting")
        changes: dict = {"dtype": precision, "regions": {}, "method": {}}
        changes["regions"] |= {} if regions is None else {"source": source_family(regions)}
        changes["regions"] |= {} if points is None else {"points_per_side": points}
        changes["method"] |= {} if chunk is None else {"windows_per_chunk": chunk}
        work: dict[str, Any] = {
            "height": height,
            "width": width,
            "batch": batch,
            "classes": classes,
            "bank_entries": bank_entries,
            "progress": progress,
        }
        if against is not None:
            from corrclip_jax.bench.against_torch import against_torch
            from corrclip_jax.cli.runs.bench_tables import against_torch_table

            config = with_fields(model_config(model), **changes)
            report = against_torch(config, repeat=repeat, threads=threads, progress=progress)
            shown = against_torch_table(report)
        elif kind is not None:
            # Before JAX is imported, and looks for accelerators.
            os.environ.setdefault("JAX_PLATFORMS", "cpu")
            from corrclip_jax.bench.compile_for import compile_for
            from corrclip_jax.cli.runs.bench_tables import compiled_table

            report = compile_for(
                with_fields(with_network(model_config(model), regions), **changes),
                kind,
                chips=chips,
                **work,
            )
            shown = compiled_table(report)
        else:
            from corrclip_jax.bench.measure import measure
            from corrclip_jax.cli.runs.bench_tables import tables
            from corrclip_jax.hub.presets import load
            from corrclip_jax.params.structure import init_params
            from corrclip_jax.regions.sources import network_to_load

            progress("Weights")
            if random:
                config = with_network(model_config(model), regions)
                params = init_params(config)
            else:
                config, params = load(model, region_network=network_to_load(regions))
            config = with_fields(config, **changes)
            report = measure(
                config,
                params,
                **work,
                repeat=repeat,
            )
            shown = tables(report)
    results().print(shown)
    result_as_json(report)
    if own is not None and out is not None:
        with own.writing([out.name], {}, overwrite=overwrite) as [part]:
            part.write_text(json.dumps(report, indent=1) + "\n", "utf-8")


def limit_threads(threads: int) -> None:
    """Restrict this process to some of its cores, before XLA starts a thread for each of them.

    Raises:
      UsageError: if there are fewer cores, or the system has no CPU affinity.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise UsageError("--threads needs a system that can restrict a process to some cores, such as Linux.")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < threads:
        raise UsageError(f"--threads {threads}, but this process may use {len(cores)} cores.")
    os.sched_setaffinity(0, cores[:threads])
    os.environ["OMP_NUM_THREADS"] = str(threads)


def with_network(config: Config, source: RegionSource | None) -> Config:
    """The configuration with the network of a source, in its published size if the model has none."""
    if source is None or source not in families("regions") or getattr(config, source) is not None:
        return config
    return with_fields(config, **{source: FAMILIES[source].config()})


def model_config(model: str) -> Config:
    """The configuration of a model, without its weights.

    Raises:
      ValueError: if this is neither a model's name nor the folder of a converted model.
    """
    from corrclip_jax.config import from_dict
    from corrclip_jax.hub.embedded import EMBEDDED_FOLDER, EMBEDDED_MODELS
    from corrclip_jax.hub.presets import PRESETS, as_embedded
    from corrclip_jax.params.model_folder import read_description

    if model in PRESETS:
        return PRESETS[model]
    folder = EMBEDDED_FOLDER if model in EMBEDDED_MODELS else Path(model)
    if not folder.is_dir():
        raise UsageError(
            f"--model must be one of {', '.join([*EMBEDDED_MODELS, *PRESETS])}, or the folder of a converted "
            f"model. Got {model!r}."
        )
    return as_embedded(from_dict(Config, read_description(folder)["config"]), model)
