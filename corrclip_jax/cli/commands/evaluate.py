"""`corrclip evaluate`: a model's scores on a data set."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from corrclip_jax.cli.shared.console import UsageError, results
from corrclip_jax.cli.shared.options import (
    SOURCES,
    ModelOption,
    OptionalDtypeOption,
    PointsOption,
    threshold_option,
)

HELP = "\n\n".join(
    [
        "Score a model on a data set: mIoU, accuracy, boundary IoU, IoU of every class, images per second.",
        "Data sets: the benchmarks of the paper (--list), with the paper's settings, in their published folder "
        "trees below --data-root; [bold]scenes[/], generated images (split val: 200; split unseen: 100, with pairs "
        "of colour and shape that are in no training scene); or photos and label files of your own (--images, "
        "--labels, --classes-file).",
        "Counts are saved every few hundred images and when the run is interrupted (Ctrl-C, SIGTERM); the same "
        "command resumes from them. An image that cannot be read is named and left out, and the exit code is 1. At "
        "the end, the folder --out holds report.json, report.md, report.html and worst.png.",
        "[bold]Examples[/]",
        "  corrclip evaluate scenes",
        "  corrclip evaluate scenes --ablation --count 50",
        "  corrclip evaluate voc21 --data-root data --model vit-b --points 32",
        "  corrclip evaluate ade20k --data-root data --model vit-l --regions region-maps/ade20k --predictions",
        "  corrclip evaluate --images photos --labels truth --classes-file classes.txt --model vit-b",
        "  srun corrclip evaluate coco_stuff --data-root data --model vit-l --distributed",
    ]
)


def evaluate(
    dataset: Annotated[
        str | None, typer.Argument(help="A benchmark's name, or scenes.", show_default=False)
    ] = None,
    show_list: Annotated[bool, typer.Option("--list", help="Show the data sets and exit.")] = False,
    data_root: Annotated[
        Path | None,
        typer.Option(help="Folder with the published folder tree of the benchmark.", show_default=False),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder with your own photos.", show_default=False)
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Folder with their label files, of the same names: one number per pixel.", show_default=False
        ),
    ] = None,
    classes_file: Annotated[
        Path | None,
        typer.Option(
            help="Text file with their classes, one per line in the order of the numbers; a semicolon separates "
            "synonyms.",
            show_default=False,
        ),
    ] = None,
    first_id: Annotated[
        int,
        typer.Option(
            min=0,
            max=1,
            help="The number of the first class; with 1, pixels of 0 are ignored (mmsegmentation: "
            "reduce_zero_label).",
        ),
    ] = 0,
    ignored: Annotated[int, typer.Option(help="The number to ignore (mmsegmentation: ignore_index).")] = 255,
    model: ModelOption = "tiny",
    split: Annotated[str, typer.Option(help="Split of the scenes: val or unseen.")] = "val",
    count: Annotated[
        int | None, typer.Option(help="Evaluate only this number of images.", show_default=False)
    ] = None,
    regions: Annotated[
        str,
        typer.Option(
            help=f"Source of regions: {', '.join(SOURCES)}, truth (scenes only), or a folder with a region map per "
            "image, of the same file name but .npz, .png or .json."
        ),
    ] = "sam2",
    points: PointsOption = None,
    background_threshold: Annotated[float | None, threshold_option("the data set's")] = None,
    dtype: OptionalDtypeOption = None,
    ablation: Annotated[
        bool,
        typer.Option(
            "--ablation", help="Also score the method without some of its parts; takes three times as long."
        ),
    ] = False,
    batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Images per batch. [dim]\\[default: 1 on CPU, otherwise 16 per device][/]",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder for counts and report. [dim]\\[default: scores/DATASET-MODEL; for scenes none][/]",
            show_default=False,
        ),
    ] = None,
    predictions: Annotated[
        bool,
        typer.Option("--predictions", help="Write the label maps, PNG files of 8 or 16 bits, to --out."),
    ] = False,
    save_every: Annotated[
        int, typer.Option(min=1, help="Save the counts after this number of images, and once a minute.")
    ] = 200,
    restart: Annotated[
        bool, typer.Option("--restart", help="Start again instead of resuming from saved counts.")
    ] = False,
    distributed: Annotated[
        bool,
        typer.Option(
            "--distributed",
            help="One of several processes: under Slurm, on Cloud TPU, or by JAX_COORDINATOR_ADDRESS, "
            "JAX_NUM_PROCESSES, JAX_PROCESS_ID.",
        ),
    ] = False,
) -> None:
    """Score a model; `HELP` is its help text."""
    if show_list:
        from corrclip_jax.cli.runs.evaluate_tables import list_table

        results().print(list_table())
        return
    _check(dataset, images, labels, classes_file, data_root, predictions and out is None)
    from corrclip_jax.cli.runs.evaluate import default_out, run
    from corrclip_jax.evaluation.options import EvaluateOptions

    options = EvaluateOptions(
        dataset, data_root, images, labels, classes_file, first_id, ignored, model, split, count, regions, points,
        background_threshold, None if dtype is None else dtype.value, ablation, batch, out, predictions, save_every,
        not restart, distributed,
    )  # fmt: skip
    if code := run(options if out else dataclasses.replace(options, out=default_out(options))):
        raise typer.Exit(code)


def _check(
    dataset: str | None,
    images: Path | None,
    labels: Path | None,
    classes_file: Path | None,
    data_root: Path | None,
    nowhere: bool,
) -> None:
    """Refuse options that do not go together, before JAX is imported."""
    own = [images, labels, classes_file]
    if dataset is None and None in own:
        raise UsageError(
            "Name a data set (--list shows them), or give all of --images, --labels and --classes-file."
        )
    if dataset is not None and any(own):
        raise UsageError("--images, --labels and --classes-file are for data of your own: name no data set.")
    if dataset == "scenes":
        if data_root is not None:
            raise UsageError("The scenes are generated: they take no --data-root.")
        if nowhere:
            raise UsageError("--predictions need a folder: name it with --out.")
    elif dataset is not None and data_root is None:
        raise UsageError(f"Say where the files of {dataset} are: --data-root DIR.")
