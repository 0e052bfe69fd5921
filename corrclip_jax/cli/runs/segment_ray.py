"""The work of `corrclip segment --engine ray`: rows of Parquet, or files, that actors on a cluster write."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import typer
from rich.markup import escape

from corrclip_jax.cli.runs.plan import bank_mark
from corrclip_jax.cli.shared.console import FAILED, UsageError, complain, messages, note, result_as_json
from corrclip_jax.cli.shared.engine_options import EngineOptions
from corrclip_jax.cli.shared.interrupts import run_interruptibly
from corrclip_jax.cli.shared.options import parse_bands, region_source
from corrclip_jax.cli.shared.progress import Progress
from corrclip_jax.hub.model_marks import clip_marks, model_mark
from corrclip_jax.io.files import check_writable
from corrclip_jax.io.own_files import value_digest

if TYPE_CHECKING:
    from corrclip_jax.cli.runs.plan import Task
    from corrclip_jax.cli.runs.segment import Work
    from corrclip_jax.ray.rows import LabelFormat

_NAMED = 50  # failures on the terminal


def check_inputs(photos: Sequence[str], out: str, engine: EngineOptions) -> None:
    """Refuse what the engine cannot read or write.

    Raises:
      UsageError: for options of another engine, and addresses without --engine ray or for files.
      MissingExtraError: for --engine ray without the extra.
    """
    from corrclip_jax.ray.storage import is_address

    engine.check()
    if is_address(out) and not engine.writes_rows:
        raise UsageError(
            f"--out {out} is an address: it can hold what --engine ray --write parquet writes. Else give a folder."
        )
    if engine.is_ray and not engine.writes_rows:
        for photo in photos:
            if is_address(photo) or Path(photo).suffix.lower() in (".parquet", ".tar", ".txt"):
                raise UsageError(
                    f"--write files is for photos in folders, and {photo} is none: --write parquet takes it."
                )


def run(
    places: Sequence[str],
    out: str,
    engine: EngineOptions,
    names: Sequence[Sequence[str]],
    model: tuple[str, str | None, dict[str, Any]],
    bands: str | None,
    bank: tuple[Path | None, Mapping[str, str]],
    refused: Mapping[str, Any],
    *,
    recursive: bool,
    overwrite: bool,
) -> None:
    """Label all images that are not done, as rows of Parquet; those that fail are named at the end.

    Args:
      places: of the images.
      out: path or address of the folder of the parts.
      engine: its options.
      names: class names, each with its synonyms.
      model: its name, the source of regions, and more arguments of `Segmenter`.
      bands: --bands.
      bank: its folder, and further CLIPs by name.
      refused: options that rows do not have, by name.
      recursive: look into the folders of folders.
      overwrite: make everything again.
    """
    from corrclip_jax.ray.parts import begin, look
    from corrclip_jax.ray.sources import find_sources
    from corrclip_jax.ray.storage import is_address

    if any(place.rstrip("/") == out.rstrip("/") for place in places):
        raise UsageError(f"{out} holds the images. Choose another folder with --out.")
    if wrong := [name for name, value in refused.items() if value]:
        raise UsageError(f"{', '.join(wrong)} is for files: give --write files, or leave it out.")
    regions = region_source(model[0], model[1], "--engine ray")
    chosen = None if bands is None else parse_bands(bands)
    labels: LabelFormat = "png" if engine.row_labels is None else engine.row_labels.value
    made = {
        "classes": value_digest(names),
        "model": run_interruptibly(lambda stop: model_mark(model[0], regions)),
        "regions": regions,
        "bands": bands,
        "labels": labels,
        **{name.replace("_", " "): value for name, value in model[2].items()},
        **({} if bank[0] is None else {"bank": bank_mark(bank[0]), "also": clip_marks(bank[1])}),
    }
    settings = model[2] | {"regions": regions} | _bank_options(*bank)
    done: list[str] = []
    failed: dict[str, str] = {}
    problems: list[str] = []
    with Progress() as progress:
        progress.phase("Looking for what is done")
        if not is_address(out):
            out = str(Path(out).absolute())
            check_writable(out)
        found = find_sources(places, recursive=recursive, out=out)
        standing = look(out, found.sources, made, overwrite=overwrite)
        before = len(found.sources) - len(standing.todo)
        for text in (*found.left_out, *standing.notes, *_hints(names, model)):
            note(text)

        def work(stop: Event) -> None:
            from corrclip_jax.ray.chunks import chunks, to_text
            from corrclip_jax.ray.cluster import ClusterError, cluster, read_sizes, run_chunks, share
            from corrclip_jax.ray.parts import WriteParts
            from corrclip_jax.ray.segment_images import SegmentImages

            progress.phase("Starting Ray")
            with cluster(engine.address):
                try:
                    actors = share(engine.actors, engine.devices_per_actor)
                    progress.phase(f"Reading sizes, for {actors}")
                    sizes = dict(standing.sizes)
                    measured = read_sizes(standing.todo, chosen)
                    for source, size in zip(standing.todo, measured, strict=True):
                        if size is not None:
                            sizes[source.key] = size
                    segment = SegmentImages(
                        _whole_path(model[0]),
                        names,
                        labels=labels,
                        sizes=Counter(sizes.values()),
                        bands=chosen,
                        **settings,
                    )
                    begin(out, made, names, {"model": model[0]})
                    progress.phase("Photos", total=len(found.sources), done=before)
                    texts = [to_text(chunk) for chunk in chunks(standing.todo, sizes, actors.number)]
                    for one in run_chunks(texts, WriteParts, (out, value_digest(made), segment), actors):
                        for key, error in zip(one["key"], one["error"], strict=True):
                            if error:
                                failed[key] = error
                            else:
                                done.append(key)
                        progress.advance(len(one["key"]))
                        if stop.is_set():
                            return
                except ClusterError as error:
                    problems.append(str(error))

        if standing.todo:
            try:
                run_interruptibly(work)
            except KeyboardInterrupt:
                progress.stop()
                messages().print(
                    f"The parts that are done are kept in {escape(out)}: the same command continues."
                )
                raise
    _report(done, failed, [*found.problems, *problems], before, len(found.sources), out)


def _bank_options(bank: Path | None, others: Mapping[str, str]) -> dict[str, Any]:
    return {} if bank is None else {"bank": str(bank.absolute()), "others": dict(others)}


def _whole_path(model: str) -> str:
    """The model's name, or the whole path of its folder: an actor works in another folder."""
    return str(Path(model).absolute()) if Path(model).is_dir() else model


def _hints(names: Sequence[Sequence[str]], model: tuple[str, str | None, dict[str, Any]]) -> list[str]:
    from corrclip_jax.cli.runs.hints import segment_hints

    return segment_hints(names, model[2]["background_threshold"], model[0])


def _report(
    done: Sequence[str], failed: Mapping[str, str], problems: list[str], before: int, total: int, out: str
) -> None:
    earlier = f", {before} done before" if before else ""
    messages().print(f"{len(done)} of {total} photos segmented{earlier} -> {escape(out)}", soft_wrap=True)
    lines = [error if key in error else f"{key}: {error}" for key, error in failed.items()]
    for line in [*problems, *lines[:_NAMED]]:
        complain(line)
    if len(lines) > _NAMED:
        complain(f"{len(lines) - _NAMED} more photos failed: the rows with an error in {out} say why.")
    result_as_json({"photos": len(done), "done_before": before, "out": out, "failed": [*problems, *lines]})
    if failed or problems:
        raise typer.Exit(FAILED)


def run_files(
    engine: EngineOptions, work: "Work", tasks: Sequence["Task"], total: int, progress: Progress, stop: Event
) -> None:
    """Label the photos of a plan on a cluster, with the files of `corrclip segment`; outcomes go to `work`.

    Args:
      engine: its options.
      work: the settings; records the outcomes.
      tasks: photos that are to be labelled.
      total: how many photos there are.
      progress: shows what is done.
      stop: ends the run.
    """
    from corrclip_jax.cli.runs.segment import Done
    from corrclip_jax.cli.runs.segment_ray_files import WriteFiles, task_text
    from corrclip_jax.ray.chunks import chunk_size
    from corrclip_jax.ray.cluster import cluster, read_sizes, run_chunks, share
    from corrclip_jax.ray.sources import Source

    if any(task.region_map is not None for task in tasks):
        raise UsageError("--regions of --engine ray must be a source of regions, as slic, and no folder.")
    bands = getattr(tasks[0].source, "bands", None)
    progress.phase("Starting Ray")
    with cluster(engine.address):
        actors = share(engine.actors, engine.devices_per_actor)
        progress.phase(f"Reading sizes, for {actors}")
        measured = read_sizes(
            [Source(str(i), str(task.job.photo.absolute()), "") for i, task in enumerate(tasks)], bands
        )
        sizes = Counter(size for size in measured if size is not None)
        order = sorted(range(len(tasks)), key=lambda index: measured[index] or (0, 0))
        step = chunk_size(len(order), actors.number)
        texts = [
            json.dumps([task_text(index, tasks[index]) for index in order[start : start + step]])
            for start in range(0, len(order), step)
        ]
        progress.phase("Photos", total=total, done=total - len(tasks))
        for hint in work.hints:
            note(hint)
        settings = (work.model, work.regions, dict(work.options), [list(one) for one in work.classes])
        arguments = (str(work.out.absolute()), settings, sizes, bands, work.overwrite)
        for one in run_chunks(texts, WriteFiles, arguments, actors):
            for key, error, done in zip(one["key"], one["error"], one["done"], strict=True):
                task = tasks[int(key)]
                work.outcomes[int(key)] = error or Done(task.job.photo, *json.loads(done))
            progress.advance(len(one["key"]))
            if stop.is_set():
                return
