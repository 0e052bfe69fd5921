"""`corrclip evaluate`: a model's scores on a data set."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import Progress

from corrclip_jax.cli.cache import keep_compiled_programs
from corrclip_jax.cli.console import messages, results

HELP = "\n\n".join(
    [
        "Score a model on a data set: mIoU, accuracy, IoU of every class, pictures a second.",
        "Data sets: [bold]scenes[/], pictures that the package draws itself (split val: 200; split unseen: 100, "
        "things whose pairs of colour and shape are in no training scene).",
        "A class that is neither there nor predicted is left out of the means, as mmsegmentation does. With "
        "--ablation every part of the method is scored: one upon the other, from plain CLIP to the whole, and the "
        "whole without each.",
        "[bold]Examples[/]",
        "  corrclip evaluate scenes",
        "  corrclip evaluate scenes --split unseen --regions truth --out scores",
        "  corrclip evaluate scenes --ablation --count 50",
    ]
)


class Regions(StrEnum):
    """Where regions come from."""

    sam2 = "sam2"
    truth = "truth"
    none = "none"


def evaluate(
    dataset: Annotated[str, typer.Argument(help="The data set: scenes.", show_default=False)],
    model: Annotated[
        str, typer.Option("--model", "-m", help="tiny, vit-b, vit-l, vit-h, or a model's folder.")
    ] = "tiny",
    split: Annotated[str, typer.Option(help="The part of the data set: val or unseen.")] = "val",
    count: Annotated[
        int | None, typer.Option(help="Only the first so many pictures.", show_default=False)
    ] = None,
    regions: Annotated[
        Regions, typer.Option(help="SAM's regions, the data set's true ones, or none.")
    ] = Regions.sam2,
    ablation: Annotated[
        bool, typer.Option("--ablation", help="Score every part of the method; takes three times as long.")
    ] = False,
    batch: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Pictures that go through the model together. [dim]\\[default: 1 on a CPU, else 16][/]",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for a JSON with all scores.", show_default=False),
    ] = None,
) -> None:
    """Score a model; people read `HELP`."""
    console = messages()
    with console.status("Starting"):
        from corrclip_jax.cli import scores
        from corrclip_jax.cli.work import describe
        from corrclip_jax.config import PartsConfig
        from corrclip_jax.evaluate import ablation as all_parts
        from corrclip_jax.evaluate import evaluate as run
        from corrclip_jax.evaluate import open_dataset
        from corrclip_jax.output import check_writable, whole_file
        from corrclip_jax.presets import load
        from corrclip_jax.segmenter import Segmenter

        data = open_dataset(dataset, split, count)
        if out is not None:
            check_writable(out)
        keep_compiled_programs()
        config, params = load(model, sam2=regions is Regions.sam2)
    whole = PartsConfig() if ablation else config.parts
    variants = [parts for rows in all_parts() for parts in rows.values()] if ablation else [whole]
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(escape(f"{data.name}, {model}"), total=data.count)
        found = run(
            config,
            params,
            data,
            variants,
            regions=regions.value,
            batch_size=batch,
            report=lambda done: progress.advance(task, done),
        )
    printed = results()
    pictures = f"{data.count} picture{'s' * (data.count > 1)}"
    printed.print(escape(f"{data.name}: {pictures}, model {config.name}, regions {regions.value}\n"))
    printed.print(scores.class_table(found.matrices[whole], data.classes))
    printed.print(f"\n[bold]{scores.summary(found.matrices[whole])}[/]")
    if ablation:
        for table in scores.ablation_tables(found.matrices):
            printed.print("", table)
    printed.print(f"\n{scores.speed(found)}")
    if out is not None:
        details = describe(Segmenter((config, params)), regions.value, {"name": config.name})
        path = out / f"{dataset}-{split}{'-ablation' * ablation}.json"
        with whole_file(path) as partial:
            content = scores.report(data, found, whole, details)
            partial.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
        console.print(f"All scores: {escape(str(path))}", soft_wrap=True)
