"""`corrclip prepare`: download and convert models ahead of time; label files of COCO-Object and COCO-Stuff."""

from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from corrclip_jax.cli.shared.console import FAILED, UsageError, complain, messages, result_as_json, results
from corrclip_jax.cli.shared.options import is_source
from corrclip_jax.config.suggestions import did_you_mean
from corrclip_jax.conversion.published import preset_names

if TYPE_CHECKING:
    from corrclip_jax.datasets.coco import Kind

HELP = "\n\n".join(
    [
        "Prepare models or benchmarks ahead of time, for machines without a network or for many processes.",
        "A model (see corrclip models) is downloaded and converted, with its own network of regions or those of "
        "--regions; what is here already is not fetched again.",
        "Of the benchmarks coco_object and coco_stuff the label files are written, from the published maps of "
        "COCO-Stuff: stuffthingmaps_trainval2017.zip, one PNG per photo; the photos are in val2017.zip of COCO "
        "2017. Existing label files are kept, so an interrupted run can be resumed.",
        "[bold]Examples[/]",
        "  corrclip prepare vit-b",
        "  corrclip prepare fast-b --regions eomt-s --regions none",
        "  corrclip prepare coco_object --maps stuffthingmaps/val2017 --out data/coco/annotations/val2017",
    ]
)


class Prepared(StrEnum):
    """Benchmarks whose label files are derived from COCO-Stuff."""

    coco_object = "coco_object"
    coco_stuff = "coco_stuff"


def _names() -> list[str]:
    return [*preset_names(), *Prepared]


def prepare(
    name: Annotated[
        str,
        typer.Argument(help="A model or a benchmark.", show_default=False, autocompletion=_names),
    ],
    regions: Annotated[
        list[str] | None,
        typer.Option(
            "--regions", help="Source of regions of the model; may be repeated.", show_default=False
        ),
    ] = None,
    maps: Annotated[
        Path | None,
        typer.Option(help="Folder with the maps of COCO-Stuff, PNG files.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", help="Folder for the label files; created if missing.", show_default=False
        ),
    ] = None,
) -> None:
    """Prepare a model or a benchmark. Users see `HELP`."""
    if name in list(Prepared):
        if regions:
            raise UsageError("--regions goes with a model; benchmarks have none.")
        if maps is None or out is None:
            raise UsageError(f"{name} needs --maps, the folder with COCO-Stuff's maps, and --out.")
        _prepare_labels(Prepared(name), maps, out)
    elif name in (known := _names()):
        if maps is not None or out is not None:
            raise UsageError(
                "--maps and --out go with a benchmark; models are kept where corrclip models says."
            )
        _prepare_model(name, regions or [])
    else:
        raise UsageError(
            f"There is nothing to prepare for {name!r}. Name one of {', '.join(known)}.{did_you_mean(name, known)}"
        )


def _prepare_model(name: str, regions: list[str]) -> None:
    """Download and convert a model, once for each source of regions."""
    if unknown := next((source for source in regions if not is_source(source)), None):
        raise UsageError(f"{unknown!r} is no source of regions. corrclip models lists them.")
    from corrclip_jax.cli.shared.progress import Progress
    from corrclip_jax.hub.presets import prepare as prepare_model
    from corrclip_jax.regions.sources import network_to_load

    with Progress() as progress:
        progress.phase(f"Preparing {name}")
        networks = [network_to_load(source) for source in regions] or ["all"]
        folders = [prepare_model(name, network) for network in networks]
    for folder in folders:
        results().print(str(folder), soft_wrap=True, markup=False)
    result_as_json({"models": [str(folder) for folder in folders]})


def _prepare_labels(benchmark: Prepared, maps: Path, out: Path) -> None:
    """Write label files from the maps of COCO-Stuff."""
    from corrclip_jax.cli.shared.progress import Progress
    from corrclip_jax.datasets.coco import SUFFIX, prepare_file
    from corrclip_jax.datasets.label_files import LabelError
    from corrclip_jax.io.files import check_writable

    kind: Kind = benchmark.value
    results_end_in = tuple(SUFFIX.values())
    files = sorted(
        path
        for path in maps.glob("*.png")
        if not path.stem.endswith(results_end_in) and not path.name.startswith(".")
    )
    if not files:
        raise UsageError(
            f"--maps {maps} is no folder with PNG files. Unpack stuffthingmaps_trainval2017.zip there."
        )
    check_writable(out)

    def one(path: Path) -> bool | LabelError:
        try:
            return prepare_file(path, kind, out)
        except LabelError as error:
            return error

    console, outcomes = messages(), []
    with Progress() as progress, ThreadPoolExecutor() as pool:
        progress.phase(f"{benchmark.value}, {maps}", total=len(files))
        for result in pool.map(one, files):
            outcomes.append(result)
            progress.advance()
    unreadable = [result for result in outcomes if isinstance(result, LabelError)]
    written = sum(result is True for result in outcomes)
    console.print(f"{written} label files written to {out}, {outcomes.count(False)} existed", soft_wrap=True)
    result_as_json(
        {
            "written": written,
            "existed": outcomes.count(False),
            "unreadable": [str(error) for error in unreadable],
        }
    )
    for error in unreadable:
        complain(error)
    if unreadable:
        raise typer.Exit(FAILED)
