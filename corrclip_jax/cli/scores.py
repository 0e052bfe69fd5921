"""What `corrclip evaluate` prints and writes of an evaluation."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from corrclip_jax import metrics
from corrclip_jax.config import PartsConfig
from corrclip_jax.evaluate import Dataset, Evaluation, ablation
from corrclip_jax.legend import percent

MEANS = {
    "mIoU": metrics.mean_iou,
    "mean accuracy": metrics.mean_accuracy,
    "pixel accuracy": metrics.pixel_accuracy,
}


def summary(matrix: Int[np.ndarray, "K K+1"]) -> str:
    """The three means in a line, in percent."""
    return ", ".join(f"{name} {100 * score(matrix):.1f}" for name, score in MEANS.items())


def speed(found: Evaluation) -> str:
    """How long it took, in a line."""
    variants = f" x {len(found.matrices)} variants" if len(found.matrices) > 1 else ""
    return (
        f"{found.pictures} pictures{variants} in {found.seconds:.1f} s, {found.pictures / found.seconds:.2f} a "
        f"second; compiling took {found.compiling:.1f} s more"
    )


def class_table(matrix: Int[np.ndarray, "K K+1"], classes: Sequence[Sequence[str]]) -> Table:
    """A line a class: IoU with a bar, accuracy, share of the pixels."""
    table = _table("Class")
    for title in ("IoU", "", "Accuracy", "Pixels"):
        table.add_column(title, justify="left" if not title else "right", no_wrap=True)
    shares = matrix.sum(axis=1) / max(1, matrix.sum())
    scores = zip(metrics.class_iou(matrix), metrics.class_accuracy(matrix), shares, strict=True)
    for names, (iou, accuracy, share) in zip(classes, scores, strict=True):
        bar = ProgressBar(1.0, 0.0 if math.isnan(iou) else float(iou), width=24)
        table.add_row(escape(names[0]), _points(iou), bar, _points(accuracy), percent(float(share)))
    return table


def ablation_tables(matrices: dict[PartsConfig, Int[np.ndarray, "K K+1"]]) -> list[Table]:
    """The parts one upon the other, each against the line above; then each left out, against the whole."""
    upon, without = ablation()
    ious = {parts: metrics.mean_iou(matrix) for parts, matrix in matrices.items()}
    whole = ious[PartsConfig()]
    tables = [_table("Parts"), _table("Whole method")]
    for table in tables:
        for title in ("mIoU", "Change", "Pixel accuracy"):
            table.add_column(title, justify="right", no_wrap=True)
    before = None
    for name, parts in upon.items():
        tables[0].add_row(*_ablation_row(name, matrices[parts], before))
        before = ious[parts]
    for name, parts in without.items():
        tables[1].add_row(*_ablation_row(name, matrices[parts], whole))
    return tables


def report(
    dataset: Dataset, found: Evaluation, parts: PartsConfig, details: dict[str, Any]
) -> dict[str, Any]:
    """All scores as plain JSON types; `parts` is the variant that the scores by class are of."""
    matrix = found.matrices[parts]
    scores = zip(
        dataset.classes, metrics.class_iou(matrix), metrics.class_accuracy(matrix), matrix, strict=True
    )
    content = {
        "dataset": dataset.name,
        "pictures": found.pictures,
        **_means(matrix),
        "classes": [
            {"names": list(names), "iou": _plain(iou), "accuracy": _plain(accuracy), "pixels": int(row.sum())}
            for names, iou, accuracy, row in scores
        ],
        "confusion": {
            "rows": "truth",
            "columns": "prediction, the last: no class",
            "pixels": matrix.tolist(),
        },
        "seconds": {"labelling": round(found.seconds, 3), "compiling": round(found.compiling, 3)},
        "pictures_per_second": round(found.pictures / found.seconds, 3),
        **details,
    }
    if len(found.matrices) > 1:
        rows = [*ablation()[0].items(), *ablation()[1].items()]
        content["ablation"] = {name: _means(found.matrices[parts]) for name, parts in rows}
    return content


def _ablation_row(name: str, matrix: np.ndarray, before: float | None) -> tuple[str, str, str, str]:
    iou = metrics.mean_iou(matrix)
    change = "" if before is None else f"{100 * (iou - before):+.1f}"
    return name, _points(iou), change, _points(metrics.pixel_accuracy(matrix))


def _means(matrix: np.ndarray) -> dict[str, float | None]:
    return {score.__name__: _plain(score(matrix)) for score in MEANS.values()}


def _points(score: float) -> str:
    return "-" if math.isnan(score) else f"{100 * score:.1f}"


def _plain(score: float) -> float | None:
    return None if math.isnan(score) else round(float(score), 6)


def _table(first: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column(first)
    return table
