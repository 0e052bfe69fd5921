"""`corrclip regions`: the regions of photos as files, made once for many runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from corrclip_jax.cli.shared.console import FAILED, UsageError, complain, messages
from corrclip_jax.config import Config, RegionSource, with_fields
from corrclip_jax.runtime.compilation_cache import keep_compiled_programs

HELP = "\n\n".join(
    [
        "Find the regions of photos and keep them as files, for [bold]--regions DIR[/] of the other commands or "
        "for their own sake.",
        "A file is named for its photo's stem. npz: the array instance_mask, as the authors' program keeps it; "
        "png: an index map of 8 or 16 bits; rle: COCO RLE, as SAM's own program writes it, with areas, boxes and "
        "scores. Files that are there already are left alone, so that a run that was stopped goes on where it "
        "was. A photo that cannot be read does not stop the others: it is named at the end; the exit code is 1.",
        "[bold]Examples[/]",
        "  corrclip regions --images photos/ --out maps/",
        "  corrclip regions --images photos/ --out maps/ --source slic --segments 256 --format png",
        "  corrclip regions --images photo.jpg --out maps/ --model tiny --format rle --sheet",
    ]
)


Format = Literal["npz", "png", "rle"]
_SUFFIX: dict[Format, str] = {"npz": ".npz", "png": ".png", "rle": ".json"}
_SHEET, _MOST_IN_SHEET = "contact-sheet.jpg", 24


def regions(
    images: Annotated[
        list[Path], typer.Option("--images", "-i", help="Photos, or folders of photos.", show_default=False)
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Folder for the files; made where there is none.", show_default=False
        ),
    ],
    source: Annotated[RegionSource, typer.Option(help="What finds regions; slic needs no weights.")] = "sam2",
    format: Annotated[Format, typer.Option(help="What the files are.")] = "npz",
    model: Annotated[
        str, typer.Option("--model", "-m", help="The model whose network finds regions: a name, or a folder.")
    ] = "vit-b",
    points: Annotated[
        int | None,
        typer.Option(
            min=1, help="SAM's grid of n x n points. [dim]\\[default: the model's, 8][/]", show_default=False
        ),
    ] = None,
    segments: Annotated[
        int | None,
        typer.Option(
            min=1, help="The most superpixels of slic. [dim]\\[default: 128][/]", show_default=False
        ),
    ] = None,
    sheet: Annotated[
        bool,
        typer.Option("--sheet", help=f"Draw the first {_MOST_IN_SHEET} photos with their regions: {_SHEET}."),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Make files that are there already anew.")
    ] = False,
) -> None:
    """Find regions; people read `HELP`."""
    from corrclip_jax.io.files import check_writable
    from corrclip_jax.io.photos import find_photos

    if source == "none":
        raise UsageError("--source none finds no regions. Take another.")
    photos = find_photos(images)
    places = plan_files(photos, out, _SUFFIX[format])
    check_writable(out)
    todo = {photo: place for photo, place in places.items() if overwrite or not place.is_file()}
    console = messages()
    if len(todo) < len(places):
        console.print(
            f"{len(places) - len(todo)} of {len(places)} files are there already; --overwrite makes them anew."
        )
    failed: list[str] = []
    if todo:
        keep_compiled_programs()
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        ) as progress:
            task = progress.add_task(f"Regions by {source}", total=len(todo))
            config, params = _model(model, source, points, segments)
            failed = _work(config, params, todo, lambda: progress.advance(task))
    done = len(todo) - len(failed)
    console.print(f"Regions of {done} of {len(todo)} photos -> {escape(str(out))}", soft_wrap=True)
    if sheet and (drawn := _sheet(places, out / _SHEET)):
        console.print(f"{drawn} of them in {escape(str(out / _SHEET))}", soft_wrap=True)
    for line in failed:
        complain(line)
    if failed:
        raise typer.Exit(FAILED)


def plan_files(photos: list[Path], out: Path, suffix: str) -> dict[Path, Path]:
    """The file of each photo's regions, by the photo's stem, which is how it is found again.

    Raises:
      UsageError: where two photos have one stem, or a file would take a photo's place.
    """
    places: dict[Path, Path] = {}
    taken: dict[str, Path] = {}
    originals = {photo.resolve() for photo in photos}
    for photo in photos:
        place = out / f"{photo.stem}{suffix}"
        if (other := taken.setdefault(photo.stem.lower(), photo)) != photo:
            raise UsageError(
                f"{other} and {photo} would both have their regions in {place}. Rename one, or work in two folders."
            )
        if place.resolve() in originals:
            raise UsageError(
                f"{place} would replace a photo. Choose another folder with --out, or another --format."
            )
        places[photo] = place
    return places


def _model(
    model: str, source: RegionSource, points: int | None, segments: int | None
) -> tuple[Config, dict[str, Any]]:
    from corrclip_jax.hub.presets import load
    from corrclip_jax.regions.sources import SOURCES

    config, params = (Config(), {}) if SOURCES[source].tower is None else load(model)
    changes: dict[str, Any] = {"source": source}
    if points is not None:
        changes["points_per_side"] = points
    if segments is not None:
        changes["slic"] = {"segments": segments}
    return with_fields(config, regions=changes), params


def _work(
    config: Config, params: dict[str, Any], todo: dict[Path, Path], on_done: Callable[[], object]
) -> list[str]:
    """Write every photo's regions, calling `on_done` after each; why some have none, in the photos' order."""
    from corrclip_jax.inference.photo_regions import Regions
    from corrclip_jax.inference.region_runner import RegionRunner
    from corrclip_jax.io.photos import PhotoError
    from corrclip_jax.io.region_maps import RegionError
    from corrclip_jax.runtime.memory import exhausted

    photos = list(todo)
    failures: dict[int, str] = {}
    for index, found in RegionRunner(config, params).stream(photos):
        try:
            if isinstance(found, Regions):
                found.save(todo[photos[index]])
            elif isinstance(found, PhotoError):
                failures[index] = str(found)
            elif exhausted(found):
                failures[index] = f"{photos[index]} is too large for the memory. Make it smaller."
            else:
                raise found
        except RegionError as error:
            failures[index] = f"{photos[index]}: {error}"
        on_done()
    return [failures[index] for index in sorted(failures)]


def _sheet(places: dict[Path, Path], out: Path) -> int:
    """Draw the first photos that have a file beside their regions; how many there are."""
    from PIL import Image, ImageOps

    from corrclip_jax.inference.photo_regions import Regions
    from corrclip_jax.io.files import atomic_file
    from corrclip_jax.io.photos import PhotoError, read_photo
    from corrclip_jax.io.region_maps import RegionError, read_regions
    from corrclip_jax.viz.contact_sheet import contact_sheet

    rows: list[list[Image.Image]] = []
    for photo, place in places.items():
        if len(rows) == _MOST_IN_SHEET or not place.is_file():
            continue
        try:
            pixels = read_photo(photo)
            found = Regions(pixels, read_regions(place, *pixels.shape[:2]))
        except (PhotoError, RegionError) as error:
            complain(error)
            continue
        pictures = Image.fromarray(pixels), found.picture()
        rows.append([ImageOps.pad(picture, (480, 360), color="white") for picture in pictures])
    if rows:
        with atomic_file(out) as partial:
            contact_sheet(rows, ["photo", "regions"], {}).save(partial, quality=90)
    return len(rows)
