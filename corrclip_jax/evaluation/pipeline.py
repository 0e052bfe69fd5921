"""Evaluation pipeline: from a data set and a model to scores and a report, resumable at any moment.

`evaluation.evaluate.evaluate` is its Python interface, `corrclip evaluate` its command.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from corrclip_jax.config import Config, PartsConfig, with_fields
from corrclip_jax.datasets.benchmarks import published_miou
from corrclip_jax.evaluation import provenance, report
from corrclip_jax.evaluation.ablation import ablation
from corrclip_jax.evaluation.best_worst import label_again, sheet, worst_and_best
from corrclip_jax.evaluation.counts import Counts, CountsFolder
from corrclip_jax.evaluation.open_dataset import is_source, open_dataset
from corrclip_jax.evaluation.options import EvaluateOptions
from corrclip_jax.evaluation.report_html import page
from corrclip_jax.evaluation.resumable import Progress, ResumableEvaluation
from corrclip_jax.evaluation.scorer import FROM_DATASET, Scorer
from corrclip_jax.hub.presets import load
from corrclip_jax.inference.settings import check_settings, with_settings
from corrclip_jax.io.files import atomic_file, check_writable
from corrclip_jax.params.model_folder import sources_of
from corrclip_jax.regions.sources import SOURCES, network_to_load
from corrclip_jax.runtime import environment
from corrclip_jax.runtime.distributed import connect

_IMAGES_SHOWN = 8  # of the worst and of the best each


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The scores of a model on a data set.

    Attributes:
      report: everything worth keeping, as plain JSON types: the content of `report.json`.
      matrices: pixels by class, truth in rows (see `metrics`), for every variant of the method; `report` is about
        the first.
      scores: the mIoU of every image, 0..1; NaN for one that was not counted.
      unreadable: why images were left out, by their indices.
      out: the folder of the report, None if nothing was written.
    """

    report: dict[str, Any]
    matrices: dict[PartsConfig, Int[np.ndarray, "K K1"]]
    scores: np.ndarray
    unreadable: dict[int, str]
    out: Path | None

    @property
    def mean_iou(self) -> float:
        """The mIoU, 0..1, as mmsegmentation defines it; NaN if nothing was counted."""
        value = self.report["mean_iou"]
        return float("nan") if value is None else value

    @property
    def class_iou(self) -> dict[str, float | None]:
        """The IoU of every class, 0..1, by its first name; None for a class that is neither true nor predicted."""
        return {entry["names"][0]: entry["iou"] for entry in self.report["classes"]}


def run_evaluation(
    options: EvaluateOptions,
    *,
    on_start: Progress = lambda run: None,
    progress: Progress = lambda run: None,
) -> Evaluation:
    """Evaluate; for arguments, results and errors see `evaluate`."""
    _check(options)
    if options.distributed:
        connect()
    leads = jax.process_index() == 0
    data = open_dataset(options)
    out = None if options.out is None else Path(options.out)
    if out is not None:
        check_writable(out)
    config, params = _model(options)
    config = with_settings(
        with_fields(config, method=dict(data.method)),
        dtype=options.dtype,
        points=options.points,
        background_threshold=options.background_threshold,
    )
    variants = [parts for rows in ablation() for parts in rows.values()] if options.ablation else []
    variants = list(dict.fromkeys([PartsConfig() if options.ablation else config.parts, *variants]))
    regions = str(options.regions) if is_source(options.regions) else str(Path(options.regions).resolve())
    settings = provenance.settings(config, provenance.weights_sha256(params), data, variants, regions)
    source = regions if regions in SOURCES else FROM_DATASET
    scorer = Scorer(config, dict(params), data, variants, regions=source, batch_size=options.batch_size)
    state = None if out is None else out / "state"
    if not options.resume and state is not None and leads:
        CountsFolder(state).clear()
    predictions = out / "predictions" if out is not None and options.predictions else None
    run = ResumableEvaluation(scorer, settings, state, predictions, options.save_every)
    on_start(run)
    counts = run(progress)
    published = published_miou(data.name, config.name, regions, config.regions.points_per_side)
    content = report.build(data, counts, _named(variants, options), published, _details(settings, scorer))
    if out is not None and leads:
        _write(content, scorer, counts, out)
    matrices = dict(zip(scorer.variants, counts.matrices, strict=True))
    return Evaluation(content, matrices, counts.scores, dict(sorted(counts.unreadable.items())), out)


def _check(options: EvaluateOptions) -> None:
    """Refuse options that are wrong whatever the data.

    Raises:
      ValueError: what is wrong.
    """
    check_settings(options.dtype, options.points, options.background_threshold)
    if options.predictions and options.out is None:
        raise ValueError("predictions need a folder: give out.")
    for name in ("count", "batch_size", "save_every"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be 1 or more. Got {value}.")


def _model(options: EvaluateOptions) -> tuple[Config, Mapping[str, Any]]:
    if isinstance(options.model, tuple):
        return options.model
    # Region maps of the data set or of files need no network.
    needed = network_to_load(str(options.regions)) if options.regions in SOURCES else None
    return load(options.model, region_network=needed)


def _named(variants: Sequence[PartsConfig], options: EvaluateOptions) -> dict[str, int]:
    """The rows of the ablation and the variants that they show."""
    rows = [row for rows in ablation() for row in rows.items()] if options.ablation else []
    return {name: variants.index(parts) for name, parts in rows}


def _details(settings: dict[str, Any], scorer: Scorer) -> dict[str, Any]:
    """What made the scores."""
    return {
        "settings": settings,
        "sources": sources_of(scorer.config),
        "compiling_seconds": round(scorer.programs.compile_seconds, 3),
        "versions": environment.versions(),
        "hardware": environment.hardware(),
    }


def _write(content: dict[str, Any], scorer: Scorer, counts: Counts, out: Path) -> None:
    """Write the report as JSON, Markdown and HTML, and the worst images as a contact sheet."""
    chosen = worst_and_best(np.where(counts.counted, counts.scores, np.nan), _IMAGES_SHOWN)
    worst, best = (label_again(scorer, counts.scores, indices) for indices in chosen)
    texts: dict[str, Callable[[], str]] = {
        "report.json": lambda: json.dumps(content, indent=1, ensure_ascii=False) + "\n",
        "report.md": lambda: report.markdown(content),
        "report.html": lambda: page(content, worst, best),
    }
    for name, text in texts.items():
        with atomic_file(out / name) as partial:
            partial.write_text(text(), "utf-8")
    if worst:
        with atomic_file(out / "worst.png") as partial:
            sheet(worst, [names[0] for names in scorer.dataset.classes]).save(partial)
