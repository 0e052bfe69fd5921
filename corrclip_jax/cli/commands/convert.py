"""`corrclip convert`: convert published checkpoints into a model folder."""

import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from corrclip_jax.cli.shared.console import UsageError, messages, result_as_json, results
from corrclip_jax.config import FAMILIES, families

HELP = "\n\n".join(
    [
        "Convert published checkpoints of CLIP, DINO and a region network into a model folder.",
        "Give a folder with all checkpoints (their families are recognised by content), or one option per "
        "checkpoint: a file (.safetensors; .pt, .pth and .bin need torch) or the folder of a repository. "
        f"Region networks are {', '.join(FAMILIES[name].title for name in families('regions'))}; a model without "
        "one needs region maps. Checkpoints that are converted already are not converted again.",
        "[bold]Examples[/]",
        "  corrclip convert checkpoints/ --out models/mine",
        "  corrclip convert --clip clip.safetensors --dino dino.pth --sam2 sam2.pt --out models/mine",
        '  corrclip segment photo.jpg --classes "cat, grass" --model models/mine',
    ]
)


def _with_family_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an option `--<family>` for each family of networks instead of its `**checkpoints`."""
    options = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                Path | None, typer.Option(help=f"Checkpoint of {family.title} ({family.layouts}).")
            ],
        )
        for name, family in FAMILIES.items()
    ]
    own = inspect.signature(command)
    kept = [one for one in own.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    keyword = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in kept]
    signature = own.replace(parameters=[*keyword[:2], *options, *keyword[2:]])
    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in signature.parameters.values()}
    return command


@_with_family_options
def convert(
    out: Annotated[Path, typer.Option("--out", "-o", help="The model folder to write.")],
    folder: Annotated[
        Path | None,
        typer.Argument(help="Folder with all checkpoints, instead of the options.", show_default=False),
    ] = None,
    vocabulary: Annotated[
        Path | None,
        typer.Option(
            help="CLIP's vocabulary (tokenizer.json, bpe_simple_vocab_16e6.txt.gz ...), if it is not next to "
            "CLIP's checkpoint."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The model's name. [dim]\\[default: the folder's][/]")
    ] = None,
    quick_gelu: Annotated[
        bool | None,
        typer.Option(
            "--quick-gelu/--exact-gelu",
            help="CLIP's activation, if no config.json next to the checkpoint says it: quick for the weights of "
            "OpenAI, MetaCLIP and DFN, exact for those of LAION.",
        ),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", "--force", help="Replace another conversion at --out; other files in it stay."
        ),
    ] = False,
    **checkpoints: Any,
) -> None:
    """Convert published checkpoints. Users see `HELP`."""
    given: dict[str, Path] = {family: path for family, path in checkpoints.items() if path is not None}
    options = ", ".join(f"--{family}" for family in FAMILIES)
    if folder is not None and given:
        raise UsageError(f"Give a folder, or checkpoints one by one ({options}), not both.")
    if folder is not None and not folder.is_dir():
        raise UsageError(f"{folder} is no folder. Give single files with {options}.")
    run: Callable[..., Path]
    if folder is not None:
        from corrclip_jax.conversion.convert import convert_folder

        run = partial(convert_folder, folder)
    else:
        backbones = ", ".join(f"--{name}" for name in families("similarity"))
        missing = [] if "clip" in given else ["--clip"]
        if not any(name in given for name in families("similarity")):
            missing.append(f"a backbone for similarities ({backbones})")
        if missing:
            raise UsageError(
                f"{' and '.join(missing)} missing. Give each checkpoint, or a folder with all of them."
            )
        from corrclip_jax.conversion.convert import convert as convert_files

        run = partial(convert_files, given)
    from corrclip_jax.cli.shared.progress import Progress
    from corrclip_jax.hub.download import vocabulary_here

    console = messages()
    with Progress() as progress:
        progress.phase("Reading the checkpoints")
        made = run(
            out=out,
            vocabulary=vocabulary,
            spare_vocabulary=vocabulary_here(),
            name=name,
            quick_gelu=quick_gelu,
            force=overwrite,
            report=lambda line: console.print(escape(line), soft_wrap=True),
        )
    results().print(str(made), soft_wrap=True, markup=False)
    result_as_json({"model": str(made)})
