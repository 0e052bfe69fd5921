"""`corrclip prepare`: label files of COCO-Object and COCO-Stuff from COCO-Stuff's own maps."""

from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from corrclip_jax.cli.shared.console import FAILED, UsageError, complain, messages
from corrclip_jax.cli.shared.options import OutOption

if TYPE_CHECKING:
    from corrclip_jax.datasets.coco import Kind

HELP = "\n\n".join(
    [
        "Make a benchmark's label files from the maps that COCO-Stuff publishes.",
        "They come in stuffthingmaps_trainval2017.zip, a PNG a photo; the photos in val2017.zip of COCO 2017. "
        "Files that are there already are kept, so a run that was broken off goes on.",
        "[bold]Examples[/]",
        "  corrclip prepare coco_object --maps stuffthingmaps/val2017 --out data/coco/annotations/val2017",
        "  corrclip prepare coco_stuff --maps stuffthingmaps/val2017 --out data/coco/annotations/val2017",
    ]
)


class Prepared(StrEnum):
    """The benchmarks whose label files are made here."""

    coco_object = "coco_object"
    coco_stuff = "coco_stuff"


def prepare(
    benchmark: Annotated[Prepared, typer.Argument(help="Whose label files to make.", show_default=False)],
    maps: Annotated[Path, typer.Option(help="Folder of COCO-Stuff's maps, PNG files.", show_default=False)],
    out: OutOption,
) -> None:
    """Make label files; people read `HELP`."""
    from corrclip_jax.cli.shared.progress import progress_bar
    from corrclip_jax.datasets.coco import SUFFIX, prepare_file
    from corrclip_jax.datasets.label_files import LabelError
    from corrclip_jax.io.files import check_writable

    kind: Kind = benchmark.value
    made = tuple(SUFFIX.values())
    files = sorted(path for path in maps.glob("*.png") if not path.stem.endswith(made))
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

    console = messages()
    with progress_bar() as progress, ThreadPoolExecutor() as pool:
        results = list(progress.track(pool.map(one, files), len(files), description=f"{benchmark}, {maps}"))
    broken = [result for result in results if isinstance(result, LabelError)]
    written = sum(result is True for result in results)
    console.print(
        f"{written} label files written to {out}, {results.count(False)} were there", soft_wrap=True
    )
    for error in broken:
        complain(error)
    if broken:
        raise typer.Exit(FAILED)
