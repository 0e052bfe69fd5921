"""The work of `corrclip evaluate`: from what is wished to a report, whatever happens on the way."""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from corrclip_jax.cli.runs import evaluate_tables
from corrclip_jax.cli.shared.console import FAILED, UsageError, complain, messages, results
from corrclip_jax.config import Config, Dtype, PartsConfig, with_fields
from corrclip_jax.datasets.benchmarks import benchmarks, open_benchmark, open_folders, published_miou
from corrclip_jax.datasets.dataset import Dataset, DatasetError, first, with_region_files
from corrclip_jax.datasets.scenes.dataset import SCENES, scenes
from corrclip_jax.evaluation import metrics, provenance, report
from corrclip_jax.evaluation.best_worst import extremes, sheet, show
from corrclip_jax.evaluation.counts import Store, Tally
from corrclip_jax.evaluation.evaluate import ablation as all_parts
from corrclip_jax.evaluation.report_html import page
from corrclip_jax.evaluation.resumable import Run, Stopped
from corrclip_jax.evaluation.scorer import GIVEN, Scorer
from corrclip_jax.hub.presets import load
from corrclip_jax.io.files import atomic_file, check_writable
from corrclip_jax.params.model_folder import DESCRIPTION, read_description
from corrclip_jax.regions.sources import SOURCES
from corrclip_jax.runtime import environment
from corrclip_jax.runtime.compilation_cache import keep_compiled_programs
from corrclip_jax.runtime.distributed import connect
from corrclip_jax.runtime.memory import exhausted
from corrclip_jax.text.classes import read_classes

_SHOWN = 8
_TRUTH = "truth"
_LINE_EVERY = 30.0  # seconds, where there is no terminal


@dataclass(frozen=True)
class Wish:
    """The command's options, under their names."""

    dataset: str | None
    data_root: Path | None
    images: Path | None
    labels: Path | None
    classes_file: Path | None
    first_id: int
    ignored: int
    model: str
    split: str
    count: int | None
    regions: str
    points: int | None
    background_threshold: float | None
    dtype: str | None
    ablation: bool
    batch: int | None
    out: Path | None
    predictions: bool
    save_every: int
    restart: bool
    distributed: bool


def carry_out(wish: Wish) -> int:
    """Evaluate as wished; the exit code.

    Raises:
      ValueError, OSError: for what cannot be begun.
    """
    if wish.distributed:
        connect()
    leads = jax.process_index() == 0
    data = _open(wish)
    out = _out(wish, data)
    if out is not None:
        check_writable(out)
    keep_compiled_programs()
    source = next((known for known in SOURCES if known == wish.regions), None)
    config, params = load(wish.model, region_network=None if source is None else SOURCES[source].network)
    config = _configured(config, data, wish)
    variants = [parts for rows in all_parts() for parts in rows.values()] if wish.ablation else []
    variants = list(dict.fromkeys([PartsConfig() if wish.ablation else config.parts, *variants]))
    settings = provenance.settings(
        config, provenance.weights_sha256(params), data, variants, _source_name(wish.regions)
    )
    scorer = Scorer(config, params, data, variants, regions=source or GIVEN, batch_size=wish.batch)
    state = None if out is None else out / "state"
    if wish.restart and state is not None and leads:
        Store(state).clear()
    run = Run(
        scorer,
        settings,
        state,
        out / "predictions" if out is not None and wish.predictions else None,
        wish.save_every,
    )
    try:
        tally = _watched(run)
    except jax.errors.JaxRuntimeError as error:
        if not exhausted(error):
            raise
        complain(
            f"A batch of {scorer.batch_size} pictures is too large for the memory. Give a smaller --batch."
        )
        return FAILED
    except Stopped as stopped:
        kept = "nothing is kept without --out" if out is None else "the same command goes on from here"
        complain(f"{stopped}: {run.done + int(run.base.counted.sum())} pictures counted, {kept}.")
        return 128 + stopped.number
    if not leads:
        return FAILED if tally.broken else 0
    rows = [row for rows in all_parts() for row in rows.items()] if wish.ablation else []
    named = {name: variants.index(parts) for name, parts in rows}
    details = {
        "settings": settings,
        "sources": _sources(config),
        "compiling_seconds": round(scorer.compiling, 3),
        "versions": environment.versions(),
        "hardware": environment.hardware(),
    }
    published = published_miou(data.name, config.name, wish.regions, config.regions.points_per_side)
    content = report.build(data, tally, named, published, details)
    _print(content, scorer, tally, wish)
    if out is not None:
        _write(content, scorer, tally, out)
        messages().print(f"Report: {escape(str(out / 'report.html'))}", soft_wrap=True)
    for stem, message in content["broken"].items():
        complain(f"{stem} is left out: {message}")
    return FAILED if tally.broken else 0


def _open(wish: Wish) -> Dataset:
    """The data set, with region maps where they come from files."""
    if wish.dataset is None:
        assert wish.images is not None
        assert wish.labels is not None
        assert wish.classes_file is not None
        classes = read_classes(wish.classes_file)
        data = open_folders(wish.images, wish.labels, classes, first_id=wish.first_id, ignored=wish.ignored)
    elif wish.dataset == SCENES:
        data = scenes(wish.split)
    elif wish.dataset in benchmarks():
        assert wish.data_root is not None
        data = open_benchmark(wish.dataset, wish.data_root)
    else:
        raise DatasetError(f"the data sets are: {', '.join([SCENES, *benchmarks()])}. Got {wish.dataset!r}.")
    data = first(data, wish.count)
    if wish.regions == _TRUTH and wish.dataset != SCENES:
        raise DatasetError(f"the data set {data.name!r} holds no true regions. Take sam2, none, or a folder.")
    if wish.regions in (*SOURCES, _TRUTH):
        return data
    if not Path(wish.regions).is_dir():
        raise UsageError(
            f"--regions is {', '.join([*SOURCES, _TRUTH])}, or a folder of region maps. {wish.regions!r} is no "
            "folder."
        )
    return with_region_files(data, wish.regions)


def _configured(config: Config, data: Dataset, wish: Wish) -> Config:
    """The model with the data set's settings, and those of the command above them."""
    config = with_fields(config, method=dict(data.method))
    if wish.dtype is not None:
        config = with_fields(config, dtype=cast(Dtype, wish.dtype))
    if wish.points is not None:
        config = with_fields(config, regions={"points_per_side": wish.points})
    if wish.background_threshold is not None:
        config = with_fields(config, method={"background_threshold": wish.background_threshold})
    return config


def _out(wish: Wish, data: Dataset) -> Path | None:
    if wish.out is not None or wish.dataset == SCENES:
        return wish.out
    return Path("scores") / f"{data.name}-{Path(wish.model).name}"


def _source_name(regions: str) -> str:
    return regions if regions in (*SOURCES, _TRUTH) else str(Path(regions).resolve())


def _watched(run: Run) -> Tally:
    """The run, its progress on a terminal as a bar, elsewhere as a line now and then."""
    console = messages()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[state]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        name = escape(f"{run.scorer.dataset.name}, {run.scorer.config.name}")
        task = progress.add_task(name, total=run.total, state="compiling")
        last = time.perf_counter()

        def watch(run: Run) -> None:
            nonlocal last
            if console.is_terminal:
                progress.update(task, completed=run.done, state=progress_line(run))
            elif time.perf_counter() - last > _LINE_EVERY:
                last = time.perf_counter()
                print(progress_line(run), file=sys.stderr, flush=True)

        return run(watch)


def progress_line(run: Run) -> str:
    """How far a run is: pictures, pictures a second, time left, the mIoU of what is counted."""
    tally, done = run.so_far, run.done
    if not done:
        return f"0 of {run.total} pictures, compiling"
    rate = done / run.seconds
    left = round((run.total - done) / rate)
    shards = f" (process {jax.process_index()})" if jax.process_count() > 1 else ""
    return (
        f"{done} of {run.total} pictures{shards}, {rate:.2f} a second, {left // 3600}:{left // 60 % 60:02d}:"
        f"{left % 60:02d} left, mIoU {report.points(metrics.mean_iou(tally.matrices[0]))}"
    )


def _print(content: dict[str, Any], scorer: Scorer, tally: Tally, wish: Wish) -> None:
    printed = results()
    pictures = f"{content['pictures']} picture{'s' * (content['pictures'] != 1)}"
    model, source = scorer.config.name, _source_name(wish.regions)
    printed.print(
        escape(f"{content['dataset']}: {pictures}, model {model}, regions {source}"), soft_wrap=True
    )
    if content["about"]:
        printed.print(f"[dim]{escape(content['about'])}[/]", soft_wrap=True)
    printed.print()
    printed.print(evaluate_tables.class_table(content["classes"]))
    line = ", ".join(f"{name} {value}" for name, value in report.headline(content))
    printed.print(f"\n[bold]{line}[/]", soft_wrap=True)
    if wish.ablation:
        for table in evaluate_tables.ablation_tables(dict(zip(scorer.variants, tally.matrices, strict=True))):
            printed.print("", table)
    printed.print(f"\n{evaluate_tables.speed(content, len(scorer.variants))}")


def _write(content: dict[str, Any], scorer: Scorer, tally: Tally, out: Path) -> None:
    """The report as JSON, Markdown and HTML, and the worst pictures on a sheet."""
    places = extremes(np.where(tally.counted, tally.scores, np.nan), _SHOWN)
    worst, best = (show(scorer, tally.scores, indices) for indices in places)
    with atomic_file(out / "report.json") as partial:
        partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
    with atomic_file(out / "report.md") as partial:
        partial.write_text(report.markdown(content), "utf-8")
    with atomic_file(out / "report.html") as partial:
        partial.write_text(page(content, worst, best), "utf-8")
    if worst:
        with atomic_file(out / "worst.png") as partial:
            sheet(worst, [names[0] for names in scorer.dataset.classes]).save(partial)


def _sources(config: Config) -> dict[str, Any]:
    """Where the weights come from, with the files' digests, as their folder says."""
    folder = Path(config.vocabulary or "").parent
    for place in (folder, folder.parent):
        if (place / DESCRIPTION).is_file():
            return read_description(place)["sources"]
    return {}
