"""Tables that `corrclip evaluate` prints."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from corrclip_jax.cli.shared.tables import add_numbers, plain_table
from corrclip_jax.config import PartsConfig
from corrclip_jax.datasets.benchmarks import benchmarks
from corrclip_jax.datasets.dataset import some
from corrclip_jax.datasets.scenes.dataset import SCENES
from corrclip_jax.datasets.scenes.words import CLASSES
from corrclip_jax.evaluation import metrics
from corrclip_jax.evaluation.ablation import ablation
from corrclip_jax.evaluation.report import points
from corrclip_jax.viz.legend import percent


def list_table() -> Table:
    """The data sets: numbers of classes and names, settings, and the folder of their files."""
    table = plain_table("Name", "Data set")
    add_numbers(table, "Classes", "Names", "Side", "Window", "Threshold")
    table.add_column("Folder", overflow="fold")
    table.add_row(SCENES, "generated images", str(len(CLASSES)), str(sum(map(len, CLASSES))))
    for name, entry in benchmarks().items():
        sizes = len(entry.classes), sum(map(len, entry.classes))
        numbers = (entry.method[key] for key in ("resize_short", "window", "background_threshold"))
        table.add_row(name, escape(entry.title), *map(str, [*sizes, *numbers]), entry.layout.folders[0])
    return table


def list_content() -> list[dict[str, Any]]:
    """The data sets of `list_table` as plain JSON types."""
    content: list[dict[str, Any]] = [{"name": SCENES, "title": "generated images", "classes": CLASSES}]
    for name, entry in benchmarks().items():
        settings = {"first_id": entry.first_id, "ignored": entry.ignored, "method": entry.method}
        content.append(
            {
                "name": name,
                "title": entry.title,
                "classes": entry.classes,
                "folders": entry.layout.folders,
                **settings,
            }
        )
    return content


def speed(content: Mapping[str, Any], variants: int, before: int) -> str:
    """How long it took, in one line; `before` images were counted by former runs."""
    several = f" x {variants} variants" if variants > 1 else ""
    known = f", {before} of them counted before" if before else ""
    compiling = content["compiling_seconds"]
    return (
        f"{content['pictures']} image{'s' * (content['pictures'] != 1)}{several} in {content['seconds']:.1f} s, "
        f"{content['pictures_per_second']:.2f} per second{known}"
        + (f"; compiling took {compiling:.1f} s more" if compiling else "")
    )


def class_table(classes: Sequence[Mapping[str, Any]]) -> Table:
    """One row for each class of the report: IoU with a bar, accuracy, boundary IoU, share of the pixels."""
    table = plain_table("Class")
    add_numbers(table, "IoU")
    table.add_column("", no_wrap=True)
    add_numbers(table, "Accuracy", "Boundary", "Pixels")
    total = max(1, sum(entry["pixels"] for entry in classes))
    for entry in classes:
        bar = ProgressBar(1.0, entry["iou"] or 0.0, width=24)
        numbers = (points(entry["accuracy"]), points(entry["boundary_iou"]), percent(entry["pixels"] / total))
        table.add_row(escape(_title(entry)), points(entry["iou"]), bar, *numbers)
    return table


def _title(entry: Mapping[str, Any]) -> str:
    """The name of a class, followed by its query names in brackets if it is none of them."""
    if entry["name"] in entry["names"]:
        return entry["name"]
    return f"{entry['name']} ({some(entry['names'], 3)})"


def ablation_tables(matrices: dict[PartsConfig, Int[np.ndarray, "K K1"]], *, bank: bool) -> list[Table]:
    """The parts added one by one, each compared with the row above; then each left out, compared with the whole.

    Args:
      matrices: pixels by class of the variants, the whole method first.
      bank: whether they had a bank.
    """
    ious = {parts: metrics.mean_iou(matrix) for parts, matrix in matrices.items()}
    all_parts, whole = next(iter(ious.items()))
    upon, without = ablation(all_parts, bank=bank)
    tables = [plain_table("Parts"), plain_table("Whole method")]
    for table in tables:
        add_numbers(table, "mIoU", "Change", "Pixel accuracy")
    before = None
    for name, parts in upon.items():
        tables[0].add_row(*_ablation_row(name, matrices[parts], before))
        before = ious[parts]
    for name, parts in without.items():
        tables[1].add_row(*_ablation_row(name, matrices[parts], whole))
    return tables


def _ablation_row(name: str, matrix: np.ndarray, before: float | None) -> tuple[str, str, str, str]:
    iou = metrics.mean_iou(matrix)
    change = "" if before is None else f"{100 * (iou - before):+.1f}"
    return name, points(iou), change, points(metrics.pixel_accuracy(matrix))
