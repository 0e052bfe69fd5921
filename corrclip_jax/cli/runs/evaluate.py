"""Run of `corrclip evaluate`: shows progress, prints scores, gives exit codes."""

import hashlib
import os
import sys
from pathlib import Path

import jax
from rich.markup import escape

from corrclip_jax.cli.runs import evaluate_tables, hints
from corrclip_jax.cli.shared.console import FAILED, complain, messages, note, result_as_json, results
from corrclip_jax.cli.shared.interrupts import run_interruptibly
from corrclip_jax.cli.shared.notes import collected_notes
from corrclip_jax.cli.shared.progress import Progress
from corrclip_jax.datasets.scenes.dataset import SCENES
from corrclip_jax.evaluation import metrics, report
from corrclip_jax.evaluation.options import EvaluateOptions
from corrclip_jax.evaluation.pipeline import Evaluation, run_evaluation
from corrclip_jax.evaluation.resumable import ResumableEvaluation, Stopped
from corrclip_jax.hub.embedded import EMBEDDED_MODELS
from corrclip_jax.runtime.compilation_cache import keep_compiled_programs


def run(options: EvaluateOptions) -> int:
    """Evaluate, print the scores and return the exit code.

    Raises:
      ValueError, OSError: if the evaluation cannot begin.
      KeyboardInterrupt: if it was stopped before its first image, or after its last.
    """
    keep_compiled_programs()
    if options.model in EMBEDDED_MODELS and options.dataset != SCENES:
        note(hints.ABOUT_EMBEDDED)
    try:
        with Progress() as shown, collected_notes() as notes:
            display = Display(shown)
            found = run_evaluation(
                options,
                on_start=display.start,
                progress=display.update,
                on_step=display.step,
                aside=lambda work: run_interruptibly(lambda stop: work()),
            )
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
        notes.show()
    return FAILED if found.unreadable or found.report["mean_iou"] is None else 0


def default_out(options: EvaluateOptions) -> Path | None:
    """The folder for counts and report where none is named: scores/DATASET-MODEL, none for the scenes.

    For a user's own data the name includes a digest of the folders' paths: other folders may have the same names.
    """
    if options.dataset == SCENES:
        return None
    model = Path(str(options.model)).resolve().name
    if options.dataset is not None:
        return Path("scores") / f"{options.dataset}-{model}"
    images, labels = (Path(str(folder)).resolve() for folder in (options.images, options.labels))
    digest = hashlib.sha256(os.fsencode(f"{images}\0{labels}")).hexdigest()[:8]
    return Path("scores") / f"{images.name}-{digest}-{model}"


def exit_now(code: int) -> None:
    """End the process at once, whatever its threads are doing."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class Display:
    """Shows the progress of an evaluation."""

    def __init__(self, shown: Progress) -> None:
        self._shown = shown
        self._step: tuple[str, int | None] = ("", None)
        self._done = 0

    def step(self, step: str, done: int = 0, total: int | None = None) -> None:
        """Show what is done before and after the images are scored."""
        if (step, total) != self._step:
            self._step, self._done = (step, total), 0
            self._shown.phase(step, total=total)
        self._advance(done)

    def start(self, run: ResumableEvaluation) -> None:
        """Show that images are scored."""
        self._done = run.before
        name = f"{run.scorer.dataset.name}, {run.scorer.config.name}"
        self._shown.phase(name, total=run.before + run.total, done=run.before)

    def update(self, run: ResumableEvaluation) -> None:
        """Show how far it is."""
        self._shown.show(progress_details(run))
        self._shown.leave_out(run.scorer.programs.compile_seconds if run.total else 0.0)
        self._advance(run.before + run.done)

    def _advance(self, done: int) -> None:
        if done > self._done:
            self._shown.advance(done - self._done)
            self._done = done


def progress_details(run: ResumableEvaluation) -> str:
    """How a run goes, beside the number of its images: images per second, the mIoU so far, what was done before."""
    parts = [f"{run.before} counted before"] if run.before else []
    if jax.process_count() > 1:
        parts.append(f"process {jax.process_index()}")
    if not run.total:
        return ", ".join(parts)
    if run.done:
        score = report.points(metrics.mean_iou(run.so_far.matrices[0]))
        parts += [f"{run.done / run.seconds:.2f} per second", f"mIoU {score}"]
    if run.scorer.programs.is_compiling:
        parts.append("compiling")
    return ", ".join(parts)


def _print(found: Evaluation) -> None:
    """Print the scores on stdout; where the report is, and what was left out, on stderr."""
    printed, content = results(), found.report
    images = f"{content['pictures']} image{'s' * (content['pictures'] != 1)}"
    settings = content["settings"]
    made = f"model {settings['model']['name']}, regions {content['regions']}"
    if content["bank"] is not None:
        made += f", bank of {content['bank']['entries']:,} entries"
    printed.print(escape(f"{content['dataset']}: {images}, {made}"), soft_wrap=True)
    if content["about"]:
        printed.print(f"[dim]{escape(content['about'])}[/]", soft_wrap=True)
    printed.print()
    printed.print(evaluate_tables.class_table(content["classes"]))
    line = ", ".join(f"{name} {value}" for name, value in report.headline(content))
    printed.print(f"\n[bold]{line}[/]", soft_wrap=True)
    for line in content["notes"]:
        printed.print(f"[yellow]Note:[/] {escape(line)}", soft_wrap=True)
    if "ablation" in content:
        for table in evaluate_tables.ablation_tables(found.matrices, bank=content["bank"] is not None):
            printed.print("", table)
    printed.print(f"\n{evaluate_tables.speed(content, len(found.matrices), found.before)}")
    result_as_json(content)
    if found.out is not None:
        messages().print(f"Report: {escape(str(found.out / 'report.html'))}", soft_wrap=True)
    for stem, message in content["unreadable"].items():
        complain(f"{stem} is left out: {message}")
