"""Options that several commands share, and how their values are parsed."""

import os
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from corrclip_jax.cli.shared.console import UsageError, note
from corrclip_jax.config import RegionSource
from corrclip_jax.config.regions import region_sources
from corrclip_jax.config.suggestions import did_you_mean
from corrclip_jax.conversion.published import preset_names, source_names, source_or_folder

SOURCES: tuple[RegionSource, ...] = region_sources()


OTHER_PROCESSES = "the other processes of --distributed"


class Precision(StrEnum):
    """Compute types of the networks."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    auto = "auto"


def compute_type(dtype: Precision | None, elsewhere: str = "") -> Any:
    """The name of the compute type; what `auto` chooses is said.

    Raises:
      UsageError: for `auto` with an option (`elsewhere`) for which the devices of this machine say nothing.
      BackendError: where JAX cannot start the platform that it was told to use.
    """
    if dtype is not Precision.auto:
        return None if dtype is None else dtype.value
    if elsewhere:
        raise UsageError(
            f"--dtype auto looks at this machine's devices, which say nothing of {elsewhere}: give "
            "float32 or bfloat16."
        )
    from corrclip_jax.runtime.compute_type import automatic

    chosen = automatic()
    note(f"--dtype auto takes {chosen.dtype}: {chosen.reason}.")
    return chosen.dtype


def regions_of(model: str) -> str:
    """The source of regions that a model has by default; SAM 2 for one that has no name."""
    from corrclip_jax.config import families
    from corrclip_jax.conversion.published import preset_models

    try:
        parts = preset_models(model)
    except KeyError:
        return "sam2"
    return next(family for family in parts if family in families("regions"))


def is_source(name: str) -> bool:
    """Whether a name is a source of regions: one of `SOURCES`, or a published network such as sam2.1-t."""
    return name in source_names()


def region_source(model: str, regions: str | None, kind: str) -> str:
    """The source of regions for a kind of input that takes no region maps; by default the model's.

    Raises:
      UsageError: for anything else.
    """
    chosen = regions or regions_of(model)
    if not is_source(chosen):
        hint = did_you_mean(chosen, source_names())
        raise UsageError(f"--regions of {kind} must be a source of regions, as slic. Got {chosen!r}.{hint}")
    return chosen


def regions_or_maps(model: str, regions: str | None) -> tuple[RegionSource, Path | None]:
    """The source of regions that --regions names, by default the model's; "none" and the folder for region maps.

    Raises:
      UsageError: for what is neither.
    """
    try:
        return source_or_folder(regions or regions_of(model), name="--regions")
    except ValueError as error:
        raise UsageError(str(error)) from None


def source_option(*names: str, help: str, show_default: bool = True) -> Any:
    """An option whose value is a source of regions."""

    def known(source: RegionSource | None) -> RegionSource | None:
        if source is not None and not is_source(source):
            raise typer.BadParameter(
                f"must be one of {', '.join(SOURCES)}, or a published network (sam2.1-t; see corrclip models). "
                f"Got {source!r}.{did_you_mean(source, source_names())}"
            )
        return source

    return typer.Option(
        *names,
        help=help,
        metavar=f"<{'|'.join(SOURCES)}>",
        callback=known,
        show_default=show_default,
        autocompletion=source_names,
    )


def checked_assignments(assignments: list[str] | None) -> list[str] | None:
    """The values of --set, refused before a model is loaded if no model could have them."""
    from corrclip_jax.config import FAMILIES, Config, with_fields
    from corrclip_jax.config.assignments import with_assignments

    every_network = {name: family.config() for name, family in FAMILIES.items()}
    # Which windows and strides fit together is up to the model.
    any_model = with_fields(Config(), method={"window": 1 << 30, "stride": 1}, **every_network)
    for text in assignments or ():
        name = text.partition("=")[0].strip()
        if name.split(".")[0] in FAMILIES:
            raise typer.BadParameter(f"{name} follows from the weights of the model.")
        if name in (others := {"regions.source": "--regions", "name": "--model", "vocabulary": "--model"}):
            raise typer.BadParameter(f"{name} is set by {others[name]}.")
        try:
            with_assignments(any_model, [text])
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
    return assignments


_DTYPE = (
    "Compute type of the networks (Hugging Face: dtype); bfloat16 is for GPUs, TPUs and, from JAX 0.12 on, for "
    "CPUs with AMX; auto chooses by the devices, and says what."
)

ClassesOption = Annotated[
    str | None,
    typer.Option(
        "--classes",
        "-c",
        help='Class names, separated by commas; a semicolon separates synonyms: "cat, sky; cloud".',
        show_default=False,
    ),
]
ClassesFileOption = Annotated[
    Path | None,
    typer.Option(
        help="File with one class per line, a semicolon separates synonyms; or a list in .json, .yaml, .csv, .tsv.",
        show_default=False,
    ),
]
MODELS = (
    f"tiny, tiny-v2 (generated scenes only), {', '.join(preset_names())}, or the folder of a model or of its "
    "checkpoints."
)


def model_names() -> list[str]:
    """The names of all models, for completion."""
    return ["tiny", "tiny-v2", *preset_names()]


def model_option(help: str, *, show_default: bool = True) -> Any:
    """The option --model."""
    return typer.Option("--model", "-m", help=help, show_default=show_default, autocompletion=model_names)


ModelOption = Annotated[str, model_option(MODELS)]
RegionsOption = Annotated[
    str | None,
    typer.Option(
        help=f"Source of regions: {', '.join(SOURCES)}, a published network (sam2.1-t), or a folder with a "
        "region map per photo, of the same file name but .npz (array instance_mask), .png (index map) or .json "
        "(COCO RLE).",
        show_default="the model's: eomt for v2-b and v2-l, else sam2",
    ),
]
RegionSourceOption = Annotated[
    RegionSource | None,
    source_option(
        "--regions", help="Source of regions. [dim]\\[default: the model's][/]", show_default=False
    ),
]
PointsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Points per side of SAM's grid (SAM: points_per_side): 8 is fast, 32 thorough. "
        "[dim]\\[default: the model's, 8][/]",
        show_default=False,
    ),
]
DtypeOption = Annotated[Precision, typer.Option(help=_DTYPE)]
OptionalDtypeOption = Annotated[
    Precision | None,
    typer.Option(help=f"{_DTYPE} [dim]\\[default: the model's, float32][/]", show_default=False),
]
SizeOption = Annotated[str, typer.Option(help="Width and height of the images, in pixels.")]
BatchOption = Annotated[int, typer.Option(min=1, help="Images per call.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any field of the configuration, as in method.stride=56; may be given several times.",
        callback=checked_assignments,
        show_default=False,
    ),
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace files in --out that this program did not write.")
]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results; created if missing.")]
RemakeOption = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Make everything again, and replace files that this program did not write or that were changed.",
    ),
]
BankOption = Annotated[
    str | None,
    typer.Option(
        "--bank",
        metavar="<folder|tiny>",
        help="Folder of a bank of unlabelled images, for a model of CorrCLIPv2 (v2-b ...); tiny, the bank of "
        "tiny-v2.",
        show_default=False,
    ),
]
AlsoOption = Annotated[
    list[str] | None,
    typer.Option(
        "--also",
        metavar="NAME=MODEL",
        help="Use the bank's values of this name, too, which this CLIP made: a published one (dfn-b16), or that "
        "of a model; may be repeated.",
        show_default=False,
    ),
]
RecursiveOption = Annotated[
    bool, typer.Option("--recursive", "-r", help="Take the photos in folders of folders, too.")
]
BandsOption = Annotated[
    str | None,
    typer.Option(
        help="Bands of the photos for red, green and blue, or one band, counted from 1: 4,3,2. "
        "[dim]\\[default: the first three][/]",
        show_default=False,
    ),
]


def threshold_option(default: str) -> Any:
    """The option --background-threshold; `default` is what its help says."""
    return typer.Option(
        min=0.0,
        max=1.0,
        help="Pixels whose class is less probable than this get the first class (mmsegmentation configs: "
        "prob_thd). "
        f"[dim]\\[default: {default}][/]",
        show_default=False,
    )


def parse_size(text: str) -> tuple[int, int]:
    """Width and height of "500x375".

    Raises:
      UsageError: if the text has another form.
    """
    match = re.fullmatch(r"([1-9]\d*)\s*[xX]\s*([1-9]\d*)", text.strip())
    if match is None:
        raise UsageError(f"--size must be width x height in pixels, as in 500x375. Got {text!r}.")
    return int(match[1]), int(match[2])


def parse_bands(text: str) -> tuple[int, ...]:
    """The numbers of "3,2,1".

    Raises:
      UsageError: if these are not one or three numbers from 1 on.
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) not in (1, 3) or not all(re.fullmatch(r"[1-9]\d*", part, re.ASCII) for part in parts):
        raise UsageError(f"--bands must be one number or three, counted from 1, as in 3,2,1. Got {text!r}.")
    return tuple(map(int, parts))


def by_name(option: str, pairs: list[str] | None) -> dict[str, str]:
    """The values of an option that takes NAME=VALUE and may be repeated.

    Raises:
      UsageError: for other forms, and a name that occurs twice.
    """
    found: dict[str, str] = {}
    for pair in pairs or ():
        name, equals, value = pair.partition("=")
        if not (name.isidentifier() and equals and value) or name in found:
            raise UsageError(f"{option} takes NAME=VALUE, each name once. Got {pair!r}.")
        found[name] = value
    return found


def chosen_bank(bank: str | None) -> Path | None:
    """The folder of the bank that --bank names.

    Raises:
      UsageError: if it holds none.
    """
    if bank is None:
        return None
    from corrclip_jax.hub.embedded import bank_folder

    folder = bank_folder(bank)
    if not (folder / "bank.json").is_file():
        raise UsageError(
            f"--bank must be the folder of a bank, or tiny. {bank} holds no bank.json. "
            "`corrclip bank build` writes it last; the same command finishes a build that was interrupted."
        )
    return folder


def bank_and_others(bank: str | None, also: list[str] | None) -> tuple[Path | None, dict[str, str]]:
    """The folder of the bank that --bank names, and the further CLIPs of --also, by name.

    Raises:
      UsageError: if there is no bank, for --also without one or in another form.
    """
    place, others = chosen_bank(bank), by_name("--also", also)
    if others and place is None:
        raise UsageError("--also names further CLIPs of a bank: give --bank as well.")
    return place, others


def class_names(classes: str | None, classes_file: Path | None) -> list[list[str]]:
    """Class names with their synonyms, from --classes or --classes-file.

    Raises:
      UsageError: if neither or both are given.
      FileNotFoundError: if there is no such file.
      ValueError: for no classes, an empty name, or a name that occurs twice.
    """
    from corrclip_jax.text.classes import parse_classes, read_classes

    if (classes is None) == (classes_file is None):
        raise UsageError(
            'Name the classes: either --classes "cat, grass, sky; cloud", or --classes-file FILE.'
        )
    if classes_file is not None:
        return read_classes(classes_file)
    if re.fullmatch(r"[^,;]+\.\w{3,4}", text := _as_utf8(classes or "")) and Path(text).is_file():
        raise UsageError(f"--classes {text} is a file. Give it as --classes-file {text}.")
    return parse_classes(text)


def _as_utf8(argument: str) -> str:
    """An argument as UTF-8 text, also where the locale makes Python read its bytes in another way."""
    try:
        return os.fsencode(argument).decode("utf-8")
    except UnicodeError:
        return argument
