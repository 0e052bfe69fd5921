"""`corrclip regions`: write region maps of photos to files, to be reused by other commands."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape

from corrclip_jax.cli.shared.console import FAILED, UsageError, complain, messages
from corrclip_jax.cli.shared.options import OutOption, PointsOption, source_option
from corrclip_jax.config import Config, RegionSource, source_family, with_fields
from corrclip_jax.runtime.compilation_cache import keep_compiled_programs

HELP = "\n\n".join(
    [
        "Find regions and write them to files, for [bold]--regions DIR[/] of other commands or for other uses.",
        "A file has the name of its photo and a suffix for the format. npz: the array instance_mask, as in the "
        "authors' implementation; png: an index map of 8 or 16 bits; rle: COCO RLE with areas, boxes and "
        "scores, as written by SAM's automatic mask generator (facebookresearch/segment-anything). Existing"
        " files are kept, so an interrupted run can be resumed. A photo that cannot be read does not stop "
        "the others: it is listed at the end, and the exit code is 1.",
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
    out: OutOption,
    source: Annotated[
        RegionSource, source_option("--source", "Source of regions; slic needs no weights.")
    ] = "sam2",
    format: Annotated[Format, typer.Option(help="Format of the files.")] = "npz",
    model: Annotated[
        str, typer.Option("--model", "-m", help="The model whose network finds regions: a name or a folder.")
    ] = "vit-b",
    points: PointsOption = None,
    segments: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Largest number of superpixels of slic (scikit-image: n_segments). [dim]\\[default: 128][/]",
            show_default=False,
        ),
    ] = None,
    sheet: Annotated[
        bool,
        typer.Option(
            "--sheet", help=f"Also draw the first {_MOST_IN_SHEET} photos with their regions: {_SHEET}."
        ),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
) -> None:
    """Find regions. Users see `HELP`."""
    from corrclip_jax.cli.shared.progress import progress_bar
    from corrclip_jax.io.files import check_writable
    from corrclip_jax.io.photos import find_photos

    if source == "none":
        raise UsageError("--source none finds no regions. Choose another source.")
    photos = find_photos(images)
    files = plan_files(photos, out, _SUFFIX[format])
    check_writable(out)
    todo = {photo: file for photo, file in files.items() if overwrite or not file.is_file()}
    console = messages()
    if len(todo) < len(files):
        console.print(
            f"{len(files) - len(todo)} of {len(files)} files are there already; --overwrite replaces them."
        )
    failed: list[str] = []
    if todo:
        keep_compiled_programs()
        with progress_bar() as progress:
            task = progress.add_task(f"Regions by {source}", total=len(todo))
            config, params = _model(model, source, points, segments)
            failed = _work(config, params, todo, on_done=lambda: progress.advance(task))
    done = len(todo) - len(failed)
    console.print(f"Regions of {done} of {len(todo)} photos -> {escape(str(out))}", soft_wrap=True)
    if sheet and (drawn := _draw_contact_sheet(files, out / _SHEET)):
        console.print(f"{drawn} of them in {escape(str(out / _SHEET))}", soft_wrap=True)
    for line in failed:
        complain(line)
    if failed:
        raise typer.Exit(FAILED)


def plan_files(photos: list[Path], out: Path, suffix: str) -> dict[Path, Path]:
    """The file for the regions of each photo, which has the photo's stem: other commands find it by that.

    Raises:
      UsageError: if two photos have the same stem, or a file would replace a photo.
    """
    files: dict[Path, Path] = {}
    taken: dict[str, Path] = {}
    originals = {photo.resolve() for photo in photos}
    for photo in photos:
        file = out / f"{photo.stem}{suffix}"
        if (other := taken.setdefault(photo.stem.lower(), photo)) != photo:
            raise UsageError(
                f"{other} and {photo} would both have their regions in {file}. Rename one, or use two folders."
            )
        if file.resolve() in originals:
            raise UsageError(
                f"{file} would replace a photo. Choose another folder with --out, or another --format."
            )
        files[photo] = file
    return files


def _model(
    model: str, source: RegionSource, points: int | None, segments: int | None
) -> tuple[Config, dict[str, Any]]:
    from corrclip_jax.hub.presets import load
    from corrclip_jax.regions.sources import network_to_load
    from corrclip_jax.runtime.environment import start_backend

    start_backend()
    network = network_to_load(source)
    config, params = (Config(), {}) if network is None else load(model, region_network=network)
    changes: dict[str, Any] = {"source": source_family(source)}
    if points is not None:
        changes["points_per_side"] = points
    if segments is not None:
        changes["slic"] = {"segments": segments}
    return with_fields(config, regions=changes), params


def _work(
    config: Config, params: dict[str, Any], todo: dict[Path, Path], on_done: Callable[[], object]
) -> list[str]:
    """Write the regions of every photo; messages about those that failed. `on_done` is called after each."""
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
                failures[index] = f"{photos[index]} is too large for the memory. Scale it down."
            else:
                raise found
        except RegionError as error:
            failures[index] = f"{photos[index]}: {error}"
        on_done()
    return [failures[index] for index in sorted(failures)]


def _draw_contact_sheet(files: dict[Path, Path], out: Path) -> int:
    """Draw the first photos that have a file, with their regions; the number of photos drawn."""
    from PIL import Image, ImageOps

    from corrclip_jax.inference.photo_regions import Regions
    from corrclip_jax.io.files import atomic_file
    from corrclip_jax.io.photos import PhotoError, read_photo
    from corrclip_jax.io.region_maps import RegionError, read_regions
    from corrclip_jax.viz.contact_sheet import contact_sheet

    rows: list[list[Image.Image]] = []
    for photo, file in files.items():
        if len(rows) == _MOST_IN_SHEET or not file.is_file():
            continue
        try:
            pixels = read_photo(photo)
            found = Regions(pixels, read_regions(file, *pixels.shape[:2]))
        except (PhotoError, RegionError) as error:
            complain(error)
            continue
        images = Image.fromarray(pixels), found.picture()
        rows.append([ImageOps.pad(image, (480, 360), color="white") for image in images])
    if rows:
        with atomic_file(out) as partial:
            contact_sheet(rows, ["photo", "regions"], {}).save(partial, quality=90)
    return len(rows)
