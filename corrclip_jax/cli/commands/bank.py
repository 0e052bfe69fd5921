"""`corrclip bank`: build, extend, merge, import and describe banks of unlabelled images."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from corrclip_jax.cli.shared.console import FAILED, UsageError, complain, messages, result_as_json, results
from corrclip_jax.cli.shared.engine_options import (
    ActorsOption,
    AddressOption,
    DevicesOption,
    Engine,
    EngineOption,
    EngineOptions,
)
from corrclip_jax.cli.shared.options import (
    OTHER_PROCESSES,
    ModelOption,
    OptionalDtypeOption,
    PointsOption,
    by_name,
    compute_type,
)

if TYPE_CHECKING:
    from corrclip_jax.inference.bank_build import BankBuild

HELP = (
    "Banks of unlabelled images, from which CorrCLIPv2 takes support: build one of your own images, add images, "
    "merge banks, import a published one."
)
BUILD_HELP = "\n\n".join(
    [
        "Make a bank of the regions of unlabelled images: what each looks like to the model's backbone, and what "
        "it means to its CLIP.",
        "An interrupted build continues when it is started again, with the same result to the last bit. Images "
        "that the bank has already are left out, so new ones can be added later. An image that cannot be read does "
        "not stop the others: it is listed at the end, and the exit code is 1.",
        "[bold]Examples[/]",
        "  corrclip bank build photos/ --out bank/ --model v2-b",
        "  corrclip bank build photos/ --out bank/ --model v2-b --regions maps/",
        "  srun corrclip bank build photos/ --out bank/ --model v2-b --distributed",
        "  corrclip bank build photos/ --out bank/ --model v2-b --engine ray --address auto",
    ]
)
ADD_HELP = "\n\n".join(
    [
        "Add images to a bank that is there; entries keep their ids.",
        "[bold]Example[/]",
        "  corrclip bank add more-photos/ --bank bank/ --model v2-b",
    ]
)
INFO_HELP = "\n\n".join(
    ["Say what a bank holds, and which networks made it.", "[bold]Example[/]", "  corrclip bank info bank/"]
)
MERGE_HELP = "\n\n".join(
    [
        "Join banks that were made with the same model and options; an image that several have is taken once.",
        "[bold]Example[/]",
        "  corrclip bank merge bank-a/ bank-b/ --out bank/",
    ]
)
IMPORT_HELP = "\n\n".join(
    [
        "Make a bank of the files that the authors published: a faiss index of keys, and stores of values. The "
        "index is read without faiss; a .pt file needs torch, and code in it is not run.",
        "[bold]Example[/]",
        "  corrclip bank import --index coco_radiov3.faiss --values main=coco_metaclip_l.pt --backbone radio "
        "--clip main=v2-l --out bank/",
    ]
)

ImagesArgument = Annotated[
    list[Path],
    typer.Argument(help="Images, or folders of images with their sub-folders.", show_default=False),
]
OutOption = Annotated[
    Path, typer.Option("--out", "-o", help="Folder of the bank; created if missing.", show_default=False)
]
BankOption = Annotated[Path, typer.Option("--bank", help="Folder of the bank.", show_default=False)]
RegionsOption = Annotated[
    str | None,
    typer.Option(
        help="Source of regions, or a folder with a region map per image (see corrclip regions); an .npz file may "
        "hold masks that overlap. [dim]\\[default: the model's][/]",
        show_default=False,
    ),
]
OthersOption = Annotated[
    list[str] | None,
    typer.Option(
        "--also",
        metavar="NAME=MODEL",
        help="A further CLIP that makes values of this name: a published one (dfn-b16), or that of a model; may be "
        "repeated.",
        show_default=False,
    ),
]
RestartOption = Annotated[bool, typer.Option("--restart", help="Forget an interrupted build.")]
DistributedOption = Annotated[
    bool, typer.Option("--distributed", help="Share the images with the other processes of a cluster.")
]


def build(
    images: ImagesArgument,
    out: OutOption,
    model: ModelOption = "v2-b",
    regions: RegionsOption = None,
    points: PointsOption = None,
    also: OthersOption = None,
    dtype: OptionalDtypeOption = None,
    restart: RestartOption = False,
    distributed: DistributedOption = False,
    engine: EngineOption = Engine.local,
    address: AddressOption = None,
    actors: ActorsOption = None,
    devices_per_actor: DevicesOption = None,
) -> None:
    """Build a bank. Users see `BUILD_HELP`."""
    on_ray = EngineOptions(engine, address, actors, devices_per_actor)
    _run(images, out, model, regions, points, also, dtype, restart, distributed, on_ray)


def add(
    images: ImagesArgument,
    bank: BankOption,
    model: ModelOption = "v2-b",
    regions: RegionsOption = None,
    points: PointsOption = None,
    also: OthersOption = None,
    dtype: OptionalDtypeOption = None,
    restart: RestartOption = False,
    distributed: DistributedOption = False,
    engine: EngineOption = Engine.local,
    address: AddressOption = None,
    actors: ActorsOption = None,
    devices_per_actor: DevicesOption = None,
) -> None:
    """Add images. Users see `ADD_HELP`."""
    from corrclip_jax.bank.folder import read_description

    read_description(bank)
    on_ray = EngineOptions(engine, address, actors, devices_per_actor)
    _run(images, bank, model, regions, points, also, dtype, restart, distributed, on_ray)


def info(bank: Annotated[Path, typer.Argument(help="Folder of the bank.", show_default=False)]) -> None:
    """Describe a bank. Users see `INFO_HELP`."""
    from corrclip_jax.bank.folder import read_description
    from corrclip_jax.cli.shared.tables import plain_table

    found = read_description(bank)
    table = plain_table("", "")
    kinds = {"exact": "exact, float16", "quantised": "product-quantised, of a published index"}
    is_imported = "imported" in found.settings  # a published index does not tell its images
    rows = {
        "entries": f"{found.entries:,}",
        "images": "not known" if is_imported else f"{found.images:,}",
        "keys": f"{found.backbone.name}, width {found.backbone.width}, {kinds[found.keys]}",
        **{f"values {name}": f"{clip.name}, width {clip.width}" for name, clip in found.values.items()},
        "folders": ", ".join(found.roots) or "not known",
        "settings": ", ".join(f"{name} {value}" for name, value in found.settings.items()),
    }
    for name, value in rows.items():
        table.add_row(name, escape(value))
    results().print(table)
    result_as_json(asdict(found))


def merge(
    banks: Annotated[list[Path], typer.Argument(help="Folders of banks.", show_default=False)], out: OutOption
) -> None:
    """Merge banks. Users see `MERGE_HELP`."""
    from corrclip_jax.bank.merge import merge_banks

    merged = merge_banks(banks, out)
    _say(f"{merged.entries:,} entries of {merged.images:,} images", out)
    result_as_json(asdict(merged))


def import_(
    index: Annotated[Path, typer.Option(help="The keys, a faiss file.", show_default=False)],
    values: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=FILE",
            help="Values by name of their CLIP, main for the segmenting one: a .pt or .npy file.",
            show_default=False,
        ),
    ],
    backbone: Annotated[
        str, typer.Option(help="Family of the backbone of the keys: radio, dinov2, ...", show_default=False)
    ],
    clip: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=MODEL", help="The model whose CLIP made these values.", show_default=False
        ),
    ],
    out: OutOption,
) -> None:
    """Import a published bank. Users see `IMPORT_HELP`."""
    from corrclip_jax.bank.published import import_bank
    from corrclip_jax.config import FAMILIES

    backbones = [name for name, family in FAMILIES.items() if family.role == "similarity"]
    if backbone not in backbones:
        raise UsageError(f"--backbone must be one of {', '.join(backbones)}. Got {backbone!r}.")
    stores, clips = by_name("--values", values), by_name("--clip", clip)
    if stores.keys() != clips.keys():
        given = f"{', '.join(stores)}; {', '.join(clips)}"
        raise UsageError(f"--values and --clip must name the same CLIPs. Got {given}.")
    made = import_bank(index, {name: Path(file) for name, file in stores.items()}, out, backbone, clips)
    _say(f"{made.entries:,} entries", out)
    result_as_json(asdict(made))


COMMANDS: dict[str, tuple[Any, str]] = {
    "build": (build, BUILD_HELP),
    "add": (add, ADD_HELP),
    "info": (info, INFO_HELP),
    "merge": (merge, MERGE_HELP),
    "import": (import_, IMPORT_HELP),
}
"""The functions of the commands and their help."""


def _run(
    images: list[Path],
    out: Path,
    model: str,
    regions: str | None,
    points: int | None,
    also: list[str] | None,
    dtype: Any,
    restart: bool,
    distributed: bool,
    engine: EngineOptions,
) -> None:
    from corrclip_jax.cli.shared.progress import Progress

    engine.check()
    if engine.is_ray and distributed:
        raise UsageError("--distributed and --engine ray are two ways to share the images: choose one.")
    precision = compute_type(
        dtype, OTHER_PROCESSES if distributed else "--engine ray" if engine.is_ray else ""
    )
    builder, more = _builder(engine, distributed)
    with Progress() as progress:
        progress.phase(f"Loading {model}" if not engine.is_ray else f"Starting Ray, loading {model}")
        seen = 0

        def show(done: int, total: int) -> None:
            nonlocal seen
            if done == 0:
                progress.phase("Images", total=total)
            else:
                progress.advance(done - seen)
            seen = done

        made = builder(
            images,
            out,
            model,
            regions=regions,
            points=points,
            others=by_name("--also", also or []),
            dtype=precision,
            restart=restart,
            progress=show,
            **more,
        )
    _report(made, out)


def _builder(engine: EngineOptions, distributed: bool) -> tuple[Callable[..., "BankBuild"], dict[str, Any]]:
    """The function that builds banks, and its arguments for the engine."""
    if not engine.is_ray:
        from corrclip_jax.inference.bank import build_bank
        from corrclip_jax.runtime.compilation_cache import keep_compiled_programs

        keep_compiled_programs()
        return build_bank, {"distributed": distributed}
    import jax

    from corrclip_jax.ray.bank import build_bank_on_cluster

    jax.config.update("jax_platforms", "cpu")  # this process computes nothing: devices are for its actors
    return build_bank_on_cluster, {
        "address": engine.address,
        "actors": engine.actors,
        "devices": engine.devices_per_actor,
    }


def _report(made: "BankBuild", out: Path) -> None:
    bank = made.description
    _say(f"{made.added:,} new entries, {bank.entries:,} of {bank.images:,} images in all", out)
    if made.left_out:
        messages().print(escape(made.left_out), soft_wrap=True)
    if made.without_regions:
        few = ", ".join(made.without_regions[:3])
        messages().print(
            escape(f"{len(made.without_regions)} images have no regions: {few} ..."), soft_wrap=True
        )
    result_as_json(
        {
            "added": made.added,
            "bank": asdict(bank),
            "unreadable": made.unreadable,
            "without_regions": made.without_regions,
            "left_out": made.left_out,
        }
    )
    for path, message in sorted(made.unreadable.items()):
        complain(message if path in message else f"{path}: {message}")
    if made.unreadable:
        raise typer.Exit(FAILED)


def _say(text: str, out: Path) -> None:
    messages().print(f"{escape(text)} -> {escape(str(out))}", soft_wrap=True)
