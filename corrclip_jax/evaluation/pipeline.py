"""Evaluation pipeline: from a data set and a model to scores and a report, resumable at any moment.

`evaluation.evaluate.evaluate` is its Python interface, `corrclip evaluate` its command.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import jax
import numpy as np
from jaxtyping import Int

from corrclip_jax.config import Config, PartsConfig, source_family, takes_points, with_fields
from corrclip_jax.datasets.benchmarks import PUBLISHED_BANK, in_version_two, published_miou
from corrclip_jax.datasets.dataset import Dataset
from corrclip_jax.evaluation import provenance, report
from corrclip_jax.evaluation.ablation import ablation
from corrclip_jax.evaluation.best_worst import LabelledImage, label_again, sheet, shown, worst_and_best
from corrclip_jax.evaluation.counts import Counts, CountsFolder
from corrclip_jax.evaluation.open_dataset import chosen_regions, open_dataset
from corrclip_jax.evaluation.options import EvaluateOptions
from corrclip_jax.evaluation.output import Output
from corrclip_jax.evaluation.report_html import page
from corrclip_jax.evaluation.resumable import MOST_SHOWN, STATE, Progress, ResumableEvaluation
from corrclip_jax.evaluation.scorer import FROM_DATASET, Scorer
from corrclip_jax.hub.presets import load_lazily
from corrclip_jax.inference.model_and_source import with_source
from corrclip_jax.inference.open_bank import read_bank
from corrclip_jax.inference.other_clips import described, load_text_towers
from corrclip_jax.inference.settings import check_settings, with_settings
from corrclip_jax.method.bank import Bank
from corrclip_jax.params.model_folder import sources_of
from corrclip_jax.runtime import environment
from corrclip_jax.runtime.distributed import connect

FILES = "files"
"""In place of a source of regions: region maps from a folder."""

Step: TypeAlias = Callable[..., object]
"""A callback with the step that begins, and where it has images, how many of how many are done."""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The scores of a model on a data set.

    Attributes:
      report: everything worth keeping, as plain JSON types: the content of `report.json`.
      matrices: pixels by class, truth in rows (see `metrics`), for every variant of the method; `report` is about
        the first.
      scores: the mIoU of every image, 0..1; NaN for one that was not counted.
      unreadable: why images were left out, by their indices.
      before: how many of the images former runs had counted.
      out: the folder of the report, None if nothing was written.
    """

    report: dict[str, Any]
    matrices: dict[PartsConfig, Int[np.ndarray, "K K1"]]
    scores: np.ndarray
    unreadable: dict[int, str]
    before: int
    out: Path | None

    @property
    def mean_iou(self) -> float:
        """The mIoU, 0..1, as mmsegmentation defines it; NaN if nothing was counted."""
        value = self.report["mean_iou"]
        return float("nan") if value is None else value

    @property
    def class_iou(self) -> dict[str, float | None]:
        """The IoU of every class, 0..1, by its name; None for a class that is neither true nor predicted."""
        return {entry["name"]: entry["iou"] for entry in self.report["classes"]}


def run_evaluation(
    options: EvaluateOptions,
    *,
    on_start: Progress = lambda run: None,
    progress: Progress = lambda run: None,
    on_step: Step = lambda step, done=0, total=None: None,
    aside: Callable[[Callable[[], Any]], Any] = lambda work: work(),
) -> Evaluation:
    """Evaluate; for arguments, results and errors see `evaluate`.

    Args:
      options: what to evaluate and how.
      on_start: called before the first image.
      progress: called while images are scored.
      on_step: called with what begins before and after that, and how far it is.
      aside: calls what may take long outside Python, where signals are not noticed.
    """
    _check(options)
    if options.distributed:
        connect()
    environment.start_backend()
    leads = jax.process_index() == 0
    data = open_dataset(options)
    output = None if options.out is None else _output(options, data)
    on_step(f"Loading {_name(options.model)}")
    config, params = aside(lambda: _model(options))
    if options.regions is None:
        own = with_settings(config, assignments=options.assignments)
        options = replace(options, regions=own.regions.source)
    scorer = aside(lambda: _scorer(options, data, config, params))
    belongs_to = aside(lambda: _provenance(options, scorer, output is not None and leads, on_step))
    if not options.resume and output is not None and leads:
        CountsFolder(output.folder / STATE).clear()
    run = ResumableEvaluation(scorer, belongs_to, output, options.save_every)
    aside(lambda: run.prepare(on_step))
    on_start(run)
    counts = run(progress)
    on_step("Writing the report")
    content = _content(options, run, counts)
    if output is not None and leads:
        aside(lambda: _write(content, run, counts, output))
    matrices = dict(zip(scorer.variants, counts.matrices, strict=True))
    unreadable = dict(sorted(counts.unreadable.items()))
    out = None if output is None else output.folder
    return Evaluation(content, matrices, counts.scores, unreadable, run.before, out)


def _output(options: EvaluateOptions, data: Dataset) -> Output:
    """The folder of the results, which must not be one of the inputs.

    Raises:
      ValueError: if it is; `OutputError`: if it cannot be written.
    """
    assert options.out is not None
    out = Path(options.out)
    folders = {"images": options.images, "labels": options.labels, "regions": chosen_regions(options)[1]}
    for name, given in folders.items():
        if given is not None and Path(given).resolve() == out.resolve():
            raise ValueError(
                f"{out} is the folder of the {name}, in which the results would be taken for more of them. Choose "
                "another one (--out)."
            )
    return Output(out, data, predictions=options.predictions, overwrite=options.overwrite)


def _scorer(options: EvaluateOptions, data: Dataset, config: Config, params: Mapping[str, Any]) -> Scorer:
    """The scorer of a model with the settings of the data set and the user."""
    if config.method.similarity_of == "image":
        data = in_version_two(data)
    config = with_settings(
        with_fields(config, method=dict(data.method)),
        dtype=options.dtype,
        points=options.points,
        background_threshold=options.background_threshold,
        assignments=options.assignments,
    )
    variants = [config.parts, *_ablation(options, config.parts).values()]
    chosen, folder = chosen_regions(options)
    source = FROM_DATASET if folder is not None else source_family(str(chosen))
    others = load_text_towers(options.others)
    bank = None if options.bank is None else read_bank(options.bank, config, params, described(others))
    return Scorer(
        config,
        params,
        data,
        variants,
        regions=source,
        batch_size=options.batch_size,
        bank=bank,
        others=others,
    )


def _provenance(
    options: EvaluateOptions, scorer: Scorer, with_images: bool, on_step: Step
) -> provenance.Provenance:
    """What the counts belong to; the contents of the images' files only where counts are kept."""
    checking, data = "Checking weights and files", scorer.dataset
    on_step(checking)
    source, folder = chosen_regions(options)
    regions = FILES if folder is not None else str(source)
    files = provenance.files_sha256(scorer.params)
    kept = CountsFolder(Path(options.out) / STATE) if options.out is not None else None
    weights = (kept.weights_of(files) if kept else None) or provenance.weights_sha256(scorer.params)
    settings = provenance.settings(
        scorer.config, weights, data, scorer.variants, regions, scorer.bank, scorer.others
    )
    made = {"versions": environment.versions(), "hardware": environment.hardware()}
    found = provenance.Provenance(settings, made=made, weights_files=files)
    if not with_images:
        return found
    return provenance.of_images(found, data, partial(on_step, checking, total=data.count))


def _check(options: EvaluateOptions) -> None:
    """Refuse options that are wrong whatever the data.

    Raises:
      ValueError: what is wrong.
    """
    check_settings(options.dtype, options.points, options.background_threshold)
    if options.others and options.bank is None:
        raise ValueError("others are further CLIPs of a bank's values: give bank as well.")
    if options.predictions and options.out is None:
        raise ValueError("predictions need a folder: give out.")
    for name in ("count", "batch_size", "save_every"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"{name} must be 1 or more. Got {value}.")


def _model(options: EvaluateOptions) -> tuple[Config, Mapping[str, Any]]:
    source, _ = chosen_regions(options)
    # Region maps of the data set need no network, as those of files.
    return with_source(options.model, "none" if source == FROM_DATASET else source, load_lazily)


def _content(options: EvaluateOptions, run: ResumableEvaluation, counts: Counts) -> dict[str, Any]:
    """The content of the report."""
    scorer, settings = run.scorer, run.provenance.settings
    config, regions = scorer.config, settings["regions"]
    points = config.regions.points_per_side if takes_points(regions) else None
    bank = None if scorer.bank is None else PUBLISHED_BANK
    published = published_miou(scorer.dataset.name, config.name, regions, points, bank)
    details = {
        "regions": str(Path(str(options.regions)).resolve()) if regions == FILES else regions,
        "settings": settings,
        "sources": sources_of(config),
        "bank": _bank(options, scorer),
        "compiling_seconds": round(scorer.programs.compile_seconds if run.total else 0.0, 3),
        **run.made,
    }
    rows = _ablation(options, scorer.variants[0])
    variants = {name: scorer.variants.index(parts) for name, parts in rows.items()}
    return report.build(scorer.dataset, counts, variants, published, details)


def _ablation(options: EvaluateOptions, whole: PartsConfig) -> dict[str, PartsConfig]:
    """The rows of the ablation; none where it is not asked for."""
    if not options.ablation:
        return {}
    upon, without = ablation(whole, bank=options.bank is not None)
    return upon | without


def _bank(options: EvaluateOptions, scorer: Scorer) -> dict[str, Any] | None:
    """The bank, for the report."""
    if scorer.bank is None:
        return None
    folder = None if isinstance(options.bank, Bank) else str(Path(str(options.bank)).resolve())
    values = scorer.bank.values
    return {"folder": folder, "entries": len(values["main"]), "values": list(values)}


def _name(model: Any) -> str:
    return model[0].name if isinstance(model, tuple) else Path(str(model)).name


def _looked_at(run: ResumableEvaluation, counts: Counts) -> tuple[list[LabelledImage], list[LabelledImage]]:
    """The worst and the best images, with the labels that were kept; those without are labelled again."""
    data = run.scorer.dataset
    worst, best = worst_and_best(np.where(counts.counted, counts.scores, np.nan), MOST_SHOWN)
    found = {} if run.kept is None else {index: run.kept.read(index) for index in (*worst, *best)}
    labels = {index: each for index, each in found.items() if each is not None}
    if missing := [index for index in found if index not in labels]:
        labels |= label_again(run.scorer, missing)
    if run.kept is not None:
        run.kept.keep_only(labels)
    pictures = {index: shown(data, index, counts.scores[index], each) for index, each in labels.items()}
    return [pictures[index] for index in worst if index in pictures], [
        pictures[index] for index in best if index in pictures
    ]


def _write(content: dict[str, Any], run: ResumableEvaluation, counts: Counts, output: Output) -> None:
    """Write the report as JSON, Markdown and HTML, and the worst images as a contact sheet."""
    worst, best = _looked_at(run, counts)
    texts: dict[str, Callable[[], str]] = {
        "report.json": lambda: json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "report.md": lambda: report.markdown(content),
        "report.html": lambda: page(content, worst, best),
    }
    output.write_report(texts, sheet(worst, run.scorer.dataset.class_names) if worst else None)
