"""`corrclip prepare`: label files of COCO-Object and COCO-Stuff from the published maps of COCO-Stuff."""

from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from corrclip_jax.cli.shared.console import FAILED, UsageError, complain, messages, result_as_json
from corrclip_jax.cli.shared.options import OutOption

if TYPE_CHECKING:
    from corrclip_jax.datasets.coco import Kind

HELP = "\n\n".join(
    [
        "Write the label files of a benchmark from the published maps of COCO-Stuff.",
        "The maps are in stuffthingmaps_trainval2017.zip, one PNG per photo; the photos are in val2017.zip of COCO "
        "2017. Existing label files are kept, so an interrupted run can be resumed.",
        "[bold]Examples[/]",
        "  corrclip prepare coco_object --maps stuffthingmaps/val2017 --out data/coco/annotations/val2017",
        "  corrclip prepare coco_stuff --maps stuffthingmaps/val2017 --out data/coco/annotations/val2017",
    ]
)


class Prepared(StrEnum):
    """Benchmarks whose label files are derived from COCO-Stuff."""

    coco_object = "coco_object"
    coco_stuff = "coco_stuff"


def prepare(
    benchmark: Annotated[Prepared, typer.Argument(help="The benchmark.", show_default=False)],
    maps: Annotated[
        Path, typer.Option(help="Folder with the maps of COCO-Stuff, PNG files.", show_default=False)
    ],
    out: OutOption,
) -> None:
    """Write label files. Users see `HELP`."""
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

    console, results = messages(), []
    with Progress() as progress, ThreadPoolExecutor() as pool:
        progress.phase(f"{benchmark.value}, {maps}", total=len(files))
        for result in pool.map(one, files):
            results.append(result)
            progress.advance()
    unreadable = [result for result in results if isinstance(result, LabelError)]
    written = sum(result is True for result in results)
    console.print(f"{written} label files written to {out}, {results.count(False)} existed", soft_wrap=True)
    result_as_json(
        {
            "written": written,
            "existed": results.count(False),
            "unreadable": [str(error) for error in unreadable],
        }
    )
    for error in unreadable:
        complain(error)
    if unreadable:
        raise typer.Exit(FAILED)
