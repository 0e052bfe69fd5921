"""`corrclip evaluate`: a model's scores on a data set."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from corrclip_jax.cli.shared.console import UsageError, result_as_json, results
from corrclip_jax.cli.shared.options import (
    MODELS,
    OTHER_PROCESSES,
    SOURCES,
    AlsoOption,
    BankOption,
    ClassesFileOption,
    ClassesOption,
    OptionalDtypeOption,
    OverwriteOption,
    PointsOption,
    SetOption,
    by_name,
    chosen_bank,
    class_names,
    compute_type,
    model_option,
    threshold_option,
)
from corrclip_jax.config.suggestions import did_you_mean

HELP = "\n\n".join(
    [
        "Score a model on a data set: mIoU, accuracy, boundary IoU, IoU of every class, images per second.",
        "Data sets: the benchmarks of the paper (--list), with the paper's settings, in their published folder "
        "trees below --data-root; [bold]scenes[/], generated images (split val: 200; split unseen: 100, with pairs "
        "of colour and shape that are in no training scene); or a folder of your own photos, with --labels and "
        "--classes-file.",
        "Counts are saved every few hundred images and when the run is interrupted (Ctrl-C, SIGTERM); the same "
        "command resumes from them. An image that cannot be read is named and left out, and the exit code is 1. At "
        "the end, the folder --out holds report.json, report.md, report.html and worst.png.",
        "[bold]Examples[/]",
        "  corrclip evaluate scenes",
        "  corrclip evaluate scenes --ablation --count 50",
        "  corrclip evaluate voc21 --data-root data --model vit-b --points 32",
        "  corrclip evaluate ade20k --data-root data --model vit-l --regions region-maps/ade20k --predictions",
        "  corrclip evaluate voc21 --data-root data --model v2-b --regions eomt --bank bank/",
        "  corrclip evaluate photos/ --labels truth/ --classes-file classes.txt",
        "  srun corrclip evaluate coco_stuff --data-root data --model vit-l --distributed",
    ]
)


def data_sets() -> list[str]:
    """The names of all data sets, for completion and suggestions."""
    from corrclip_jax.datasets.benchmarks import benchmarks

    return ["scenes", *benchmarks()]


def evaluate(
    dataset: Annotated[
        str | None,
        typer.Argument(
            help="A benchmark's name, scenes, or the folder of your own photos.",
            show_default=False,
            autocompletion=data_sets,
        ),
    ] = None,
    show_list: Annotated[bool, typer.Option("--list", help="Show the data sets and exit.")] = False,
    data_root: Annotated[
        Path | None,
        typer.Option(help="Folder with the published folder tree of the benchmark.", show_default=False),
    ] = None,
    images: Annotated[
        Path | None, typer.Option(help="Older spelling of the folder of your own photos.", hidden=True)
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="Folder with the label files of your own photos, of the same names: one number per pixel.",
            show_default=False,
        ),
    ] = None,
    classes: ClassesOption = None,
    classes_file: ClassesFileOption = None,
    first_id: Annotated[
        int,
        typer.Option(
            min=0,
            max=1,
            help="The number of the first class; with 1, pixels of 0 are ignored (mmsegmentation: "
            "reduce_zero_label).",
        ),
    ] = 0,
    ignored: Annotated[
        int | None,
        typer.Option(
            help="The number to ignore (mmsegmentation: ignore_index). "
            "[dim]\\[default: 255, unless it is a class's][/]",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        model_option(f"{MODELS} [dim]\\[default: tiny for scenes, otherwise vit-b][/]", show_default=False),
    ] = None,
    split: Annotated[str, typer.Option(help="Split of the scenes: val or unseen.")] = "val",
    count: Annotated[
        int | None, typer.Option(help="Evaluate only this number of images.", show_default=False)
    ] = None,
    regions: Annotated[
        str | None,
        typer.Option(
            help=f"Source of regions: {', '.join(SOURCES)}, truth (scenes only), or a folder with a region map per "
            "image, of the same file name but .npz, .png or .json. [dim]\\[default: the model's][/]",
            show_default=False,
        ),
    ] = None,
    points: PointsOption = None,
    background_threshold: Annotated[float | None, threshold_option("the data set's")] = None,
    dtype: OptionalDtypeOption = None,
    assignments: SetOption = None,
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
    overwrite: OverwriteOption = False,
    bank: BankOption = None,
    also: AlsoOption = None,
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
        from corrclip_jax.cli.runs.evaluate_tables import list_content, list_table

        results().print(list_table())
        result_as_json(list_content())
        return
    if labels is not None and images is None:
        dataset, images = None, None if dataset is None else Path(dataset)
    names = _checked_classes(dataset, images, labels, classes, classes_file)
    _check(dataset, data_root, predictions and out is None)
    bank_place, others = chosen_bank(bank), by_name("--also", also)
    from corrclip_jax.cli.runs.evaluate import default_out, run
    from corrclip_jax.evaluation.options import EvaluateOptions, default_model

    precision = compute_type(dtype, OTHER_PROCESSES if distributed else "")
    options = EvaluateOptions(
        dataset=dataset,
        data_root=data_root,
        images=images,
        labels=labels,
        classes=names,
        first_id=first_id,
        ignored="auto" if ignored is None else ignored,
        model=model or default_model(dataset),
        split=split,
        count=count,
        regions=regions,
        points=points,
        background_threshold=background_threshold,
        dtype=precision,
        assignments=assignments or (),
        ablation=ablation,
        batch_size=batch,
        out=out,
        predictions=predictions,
        save_every=save_every,
        resume=not restart,
        overwrite=overwrite,
        distributed=distributed,
        bank=bank_place,
        others=others,
    )
    if code := run(options if out else dataclasses.replace(options, out=default_out(options))):
        raise typer.Exit(code)


def _checked_classes(
    dataset: str | None,
    images: Path | None,
    labels: Path | None,
    classes: str | None,
    classes_file: Path | None,
) -> list[list[str]] | None:
    """The classes of data of one's own, None for a data set with a name.

    Raises:
      UsageError: for options that do not go together.
    """
    own = [images, labels, classes, classes_file]
    if dataset is not None and any(own):
        raise UsageError("--labels, --classes and --classes-file are for data of your own: name no data set.")
    if dataset is not None:
        return None
    if images is None or labels is None or (classes is None and classes_file is None):
        raise UsageError(
            "Name a data set (--list shows them), or give the folder of your own photos, --labels and "
            "--classes-file."
        )
    return class_names(classes, classes_file)


def _check(dataset: str | None, data_root: Path | None, nowhere: bool) -> None:
    """Refuse options that do not go together, before JAX is imported."""
    if dataset == "scenes":
        if data_root is not None:
            raise UsageError("The scenes are generated: they take no --data-root.")
        if nowhere:
            raise UsageError("--predictions need a folder: name it with --out.")
    elif dataset is not None and data_root is None:
        if Path(dataset).is_dir():
            raise UsageError(f"For the photos in {dataset}, give --labels and --classes-file as well.")
        raise UsageError(
            f"Say where the files of {dataset} are: --data-root DIR.{did_you_mean(dataset, data_sets())}"
        )
