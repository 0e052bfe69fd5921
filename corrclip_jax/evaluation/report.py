"""Report of an evaluation, as plain JSON types and as Markdown."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

from corrclip_jax.config import takes_points
from corrclip_jax.datasets.benchmarks import PUBLISHED_BANK
from corrclip_jax.datasets.dataset import Dataset
from corrclip_jax.evaluation import metrics
from corrclip_jax.evaluation.counts import Counts
from corrclip_jax.evaluation.left_out import left_out, sentences

MEANS = {
    "mIoU": metrics.mean_iou,
    "mean accuracy": metrics.mean_accuracy,
    "pixel accuracy": metrics.pixel_accuracy,
    "frequency-weighted IoU": metrics.frequency_weighted_iou,
}
BOUNDARY = "boundary IoU"
_IGNORED, _VOID = 255, 65535  # what mmsegmentation leaves out; what is no class in label files of 16 bits
DEFINITIONS = (
    "A class that is neither true nor predicted anywhere has no IoU and is left out of the mIoU; a class that is "
    "predicted but never true counts with 0; a class that is never true is left out of the mean accuracy (all as "
    "in mmsegmentation). Pixels without true class are left out of everything. Boundary IoU: the mIoU of the "
    "pixels at most 2 % of the diagonal from their class's outline."
)


def means(matrix: Int[np.ndarray, "K K1"]) -> dict[str, float | None]:
    """The mean scores of a matrix by name, 0..1; None for a mean of nothing."""
    return {score.__name__: _plain(score(matrix)) for score in MEANS.values()}


def build(
    dataset: Dataset,
    counts: Counts,
    variants: Mapping[str, int],
    published: float | None,
    details: Mapping[str, Any],
) -> dict[str, Any]:
    """The content of `report.json`.

    Args:
      dataset: what was scored.
      counts: the counts; scores by class are those of the first variant.
      variants: indices of the ablation's variants, by the names of its rows.
      published: the paper's mIoU with these settings, in percent.
      details: what made the scores.
    """
    matrix = counts.matrices[0]
    scored = zip(
        dataset.class_names,
        dataset.classes,
        metrics.class_iou(matrix),
        metrics.class_accuracy(matrix),
        metrics.area_iou(counts.boundary),
        matrix.sum(axis=1),
        strict=True,
    )
    counted = int(counts.counted.sum())
    omitted = left_out(dataset, counts)
    content = {
        "dataset": dataset.name,
        "about": dataset.about,
        "pictures": counted,
        "unreadable": {dataset.stem(index): message for index, message in sorted(counts.unreadable.items())},
        **means(matrix),
        "boundary_iou": _plain(metrics.mean_area_iou(counts.boundary)),
        "mmsegmentation_mean_iou": _by_mmsegmentation(dataset, counts),
        "published_mean_iou": None if published is None else round(published / 100, 6),
        "definitions": DEFINITIONS,
        "left_out": omitted,
        "notes": sentences(omitted, dataset.class_names),
        "classes": [
            {
                "name": name,
                "names": list(names),
                "iou": _plain(iou),
                "accuracy": _plain(accuracy),
                "boundary_iou": _plain(boundary),
                "pixels": int(pixels),
            }
            for name, names, iou, accuracy, boundary, pixels in scored
        ],
        "confusion": {
            "rows": "truth",
            "columns": "prediction, the last: no class",
            "pixels": matrix.tolist(),
        },
        "picture_mean_iou": {
            dataset.stem(index): _plain(counts.scores[index])
            for index in np.flatnonzero(counts.counted).tolist()
        },
        "seconds": round(counts.seconds, 3),
        "pictures_per_second": round(counted / max(counts.seconds, 1e-9), 3),
        **details,
    }
    if variants:
        content["ablation"] = {name: means(counts.matrices[index]) for name, index in variants.items()}
    return content


def _by_mmsegmentation(dataset: Dataset, counts: Counts) -> float | None:
    """The mIoU by the rule of the paper, for data sets of which 255 is a class and 65535 none; else None."""
    if dataset.left_out != (_VOID,) or len(dataset.classes) <= _IGNORED:
        return None
    score = metrics.mean_iou_by_mmsegmentation(counts.matrices[0], counts.unscored[0], _IGNORED)
    return _plain(score)


def headline(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The scores by name, in percent, and the published one if there is one."""
    rows = [(name, points(content[score.__name__])) for name, score in MEANS.items()]
    rows.append((BOUNDARY, points(content["boundary_iou"])))
    if content["mmsegmentation_mean_iou"] is not None:
        rows.append(("mIoU as the paper computes it", points(content["mmsegmentation_mean_iou"])))
    if content["published_mean_iou"] is not None:
        settings = "same settings" if content["bank"] is None else f"with its bank of {PUBLISHED_BANK}"
        rows.append((f"mIoU in the paper, {settings}", points(content["published_mean_iou"])))
    return rows


def facts(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What made the scores, by name, for reading."""
    settings, hardware = content["settings"], content["hardware"]
    method = settings["model"]["method"]
    regions = content["regions"]
    if takes_points(regions):
        side = settings["model"]["regions"]["points_per_side"]
        regions += f", {side} x {side} points"
    return [
        ("Data", f"{content['dataset']}: {content['about'] or content['pictures']}"),
        ("Images", f"{content['pictures']} counted, {len(content['unreadable'])} unreadable"),
        ("Model", f"{settings['model']['name']}, {settings['model']['dtype']}"),
        ("Regions", regions),
        *([] if content["bank"] is None else [("Bank", _bank(content))]),
        (
            "Method",
            f"short side {method['resize_short']}, window {method['window']}, stride {method['stride']}, "
            f"background threshold {method['background_threshold']}",
        ),
        (
            "Weights (sha256)",
            ", ".join(f"{name} {sha[:16]}" for name, sha in settings["weights_sha256"].items()),
        ),
        (
            "Hardware",
            f"{hardware['devices']} x {hardware['device']} ({hardware['platform']}), {hardware['processes']} "
            f"process{'es' * (hardware['processes'] > 1)}, {hardware['cpu_cores']} CPU cores",
        ),
        ("Versions", ", ".join(f"{name} {version}" for name, version in content["versions"].items())),
        ("Time", f"{content['seconds']:.0f} s, {content['pictures_per_second']:.2f} images per second"),
    ]


def _bank(content: Mapping[str, Any]) -> str:
    bank, digest = content["bank"], content["settings"]["bank_sha256"]
    values = ", ".join(bank["values"])
    return (
        f"{bank['folder'] or 'in memory'}, {bank['entries']:,} entries, values {values}, sha256 {digest[:16]}"
    )


def markdown(content: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    lines = [f"# {content['dataset']}, {content['settings']['model']['name']}", "", "| | % |", "|---|---:|"]
    lines += [f"| {name} | {value} |" for name, value in headline(content)]
    lines += ["", *(f"- {_cell(note)}" for note in content["notes"]), "", content["definitions"]]
    lines += ["", "## How", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {_cell(value)} |" for name, value in facts(content)]
    lines += [
        "",
        "## Classes",
        "",
        "| class | IoU | accuracy | boundary IoU | pixels |",
        "|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {_cell(class_title(entry))} | {points(entry['iou'])} | {points(entry['accuracy'])} | "
        f"{points(entry['boundary_iou'])} | {entry['pixels']:,} |"
        for entry in content["classes"]
    ]
    if "ablation" in content:
        lines += ["", "## Parts of the method", "", "| parts | mIoU | pixel accuracy |", "|---|---:|---:|"]
        lines += [
            f"| {name} | {points(row['mean_iou'])} | {points(row['pixel_accuracy'])} |"
            for name, row in content["ablation"].items()
        ]
    if content["unreadable"]:
        lines += ["", "## Unreadable images", ""]
        lines += [f"- {_cell(stem)}: {_cell(message)}" for stem, message in content["unreadable"].items()]
    return "\n".join(lines) + "\n"


def class_title(entry: Mapping[str, Any]) -> str:
    """A class of the report for reading: its name, and in brackets the other words it was asked for by."""
    others = ", ".join(name for name in entry["names"] if name != entry["name"])
    return f"{entry['name']} ({others})" if others else entry["name"]


def points(score: float | None) -> str:
    """A score 0..1 in percent, "-" for none."""
    return "-" if score is None or math.isnan(score) else f"{100 * score:.1f}"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _plain(score: float) -> float | None:
    return None if math.isnan(score) else round(float(score), 6)
