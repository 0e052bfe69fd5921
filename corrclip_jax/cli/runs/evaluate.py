"""Run of `corrclip evaluate`: shows progress, prints scores, gives exit codes."""

import os
import sys
import time
from pathlib import Path

import jax
from rich.markup import escape

from corrclip_jax.cli.runs import evaluate_tables
from corrclip_jax.cli.shared.console import FAILED, complain, messages, results
from corrclip_jax.cli.shared.progress import progress_bar
from corrclip_jax.datasets.scenes.dataset import SCENES
from corrclip_jax.evaluation import metrics, report
from corrclip_jax.evaluation.options import EvaluateOptions
from corrclip_jax.evaluation.pipeline import Evaluation, run_evaluation
from corrclip_jax.evaluation.resumable import ResumableEvaluation, Stopped
from corrclip_jax.runtime.compilation_cache import keep_compiled_programs
from corrclip_jax.runtime.memory import exhausted

_LINE_EVERY = 30.0  # seconds, without a terminal


def run(options: EvaluateOptions) -> int:
    """Evaluate, print the scores and return the exit code.

    Raises:
      ValueError, OSError: if the evaluation cannot begin.
    """
    keep_compiled_programs()
    try:
        with ProgressDisplay() as display:
            found = run_evaluation(options, on_start=display.start, progress=display.update)
    except jax.errors.JaxRuntimeError as error:
        if not exhausted(error):
            raise
        complain(
            "An image is too large for the memory, even alone on its device. Use a smaller model or fewer points."
        )
        return FAILED
    except Stopped as stopped:
        kept = (
            "nothing is kept without --out" if options.out is None else "the same command continues from here"
        )
        complain(f"{stopped}: {stopped.counted} images counted, {kept}.")
        if stopped.running:
            # Python would wait for the device before it ended.
            exit_now(128 + stopped.number)
        return 128 + stopped.number
    if jax.process_index() == 0:
        _print(found)
    return FAILED if found.unreadable else 0


def default_out(options: EvaluateOptions) -> Path | None:
    """The folder for counts and report where none is named: scores/DATASET-MODEL, none for the scenes."""
    if options.dataset == SCENES:
        return None
    name = options.dataset or Path(str(options.images)).resolve().name
    return Path("scores") / f"{name}-{Path(str(options.model)).name}"


def exit_now(code: int) -> None:
    """End the process at once, whatever its threads are doing."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class ProgressDisplay:
    """The progress of an evaluation: a bar on a terminal, elsewhere a line now and then."""

    def __init__(self) -> None:
        self._is_terminal = messages().is_terminal
        self._bar = progress_bar()
        self._printed_at = time.perf_counter()

    def __enter__(self) -> "ProgressDisplay":
        self._bar.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def start(self, run: ResumableEvaluation) -> None:
        """Show that an evaluation begins."""
        self._name = escape(f"{run.scorer.dataset.name}, {run.scorer.config.name}")
        self._task = self._bar.add_task(f"{self._name}: compiling", total=run.total)
        self._printed_at = time.perf_counter()

    def update(self, run: ResumableEvaluation) -> None:
        """Show how far it is."""
        if self._is_terminal:
            line = f"{self._name}: {progress_line(run)}"
            self._bar.update(self._task, completed=run.done, description=line)
        elif time.perf_counter() - self._printed_at > _LINE_EVERY:
            self._printed_at = time.perf_counter()
            print(progress_line(run), file=sys.stderr, flush=True)


def progress_line(run: ResumableEvaluation) -> str:
    """How far a run is: images, images per second, time left, the mIoU so far."""
    counts, done = run.so_far, run.done
    if not done:
        return f"0 of {run.total} images, compiling"
    rate = done / run.seconds
    left = round((run.total - done) / rate)
    shards = f" (process {jax.process_index()})" if jax.process_count() > 1 else ""
    return (
        f"{done} of {run.total} images{shards}, {rate:.2f} per second, {left // 3600}:{left // 60 % 60:02d}:"
        f"{left % 60:02d} left, mIoU {report.points(metrics.mean_iou(counts.matrices[0]))}"
    )


def _print(found: Evaluation) -> None:
    """Print the scores on stdout; where the report is, and what was left out, on stderr."""
    printed, content = results(), found.report
    images = f"{content['pictures']} image{'s' * (content['pictures'] != 1)}"
    settings = content["settings"]
    made = f"model {settings['model']['name']}, regions {settings['regions']}"
    printed.print(escape(f"{content['dataset']}: {images}, {made}"), soft_wrap=True)
    if content["about"]:
        printed.print(f"[dim]{escape(content['about'])}[/]", soft_wrap=True)
    printed.print()
    printed.print(evaluate_tables.class_table(content["classes"]))
    line = ", ".join(f"{name} {value}" for name, value in report.headline(content))
    printed.print(f"\n[bold]{line}[/]", soft_wrap=True)
    if "ablation" in content:
        for table in evaluate_tables.ablation_tables(found.matrices):
            printed.print("", table)
    printed.print(f"\n{evaluate_tables.speed(content, len(found.matrices))}")
    if found.out is not None:
        messages().print(f"Report: {escape(str(found.out / 'report.html'))}", soft_wrap=True)
    for stem, message in content["unreadable"].items():
        complain(f"{stem} is left out: {message}")
