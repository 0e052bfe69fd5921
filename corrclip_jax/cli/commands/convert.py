"""`corrclip convert`: published checkpoints to a model folder."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from corrclip_jax.cli.shared.console import UsageError, messages, results

HELP = "\n\n".join(
    [
        "Convert published checkpoints of CLIP, DINO and what finds regions into a model folder.",
        "Name a folder that holds them all (they are told apart by their content), or each with an option: a file "
        "(.safetensors; .pt, .pth and .bin want torch), or the folder of a repository. Both published layouts of "
        "each family are known. Regions are found by SAM 2, SAM, EoMT or Mask2Former; without any of them a model "
        "is for given region maps. What is converted already is not converted again.",
        "[bold]Examples[/]",
        "  corrclip convert checkpoints/ --out models/mine",
        "  corrclip convert --clip clip.safetensors --dino dino.pth --sam2 sam2.pt --out models/mine",
        '  corrclip segment photo.jpg --classes "cat, grass" --model models/mine',
    ]
)


def convert(
    out: Annotated[Path, typer.Option("--out", "-o", help="The model folder to make.")],
    folder: Annotated[
        Path | None,
        typer.Argument(help="A folder with all checkpoints, in place of the options.", show_default=False),
    ] = None,
    clip: Annotated[Path | None, typer.Option(help="CLIP's checkpoint (open_clip or transformers).")] = None,
    dino: Annotated[Path | None, typer.Option(help="DINO's checkpoint (original or transformers).")] = None,
    sam2: Annotated[Path | None, typer.Option(help="SAM 2's checkpoint (original or transformers).")] = None,
    sam1: Annotated[
        Path | None, typer.Option(help="The first SAM's checkpoint (original or transformers).")
    ] = None,
    eomt: Annotated[Path | None, typer.Option(help="EoMT's checkpoint (transformers).")] = None,
    mask2former: Annotated[
        Path | None, typer.Option(help="Mask2Former's checkpoint with a Swin encoder (transformers).")
    ] = None,
    vocabulary: Annotated[
        Path | None,
        typer.Option(
            help="CLIP's vocabulary (tokenizer.json, bpe_simple_vocab_16e6.txt.gz ...), if not beside CLIP."
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="The model's name. [dim]\\[default: the folder's][/]")
    ] = None,
    quick_gelu: Annotated[
        bool | None,
        typer.Option(
            "--quick-gelu/--exact-gelu",
            help="CLIP's activation, where nothing beside the checkpoint tells: quick for OpenAI's, MetaCLIP's and"
            " DFN's weights, exact for LAION's.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is at --out.")] = False,
) -> None:
    """Convert published checkpoints; people read `HELP`."""
    one_by_one = {
        "--clip": clip, "--dino": dino, "--sam2": sam2, "--sam1": sam1, "--eomt": eomt,
        "--mask2former": mask2former,
    }  # fmt: skip
    if folder is not None and any(one_by_one.values()):
        raise UsageError(f"Name a folder, or checkpoints one by one ({', '.join(one_by_one)}), not both.")
    if folder is not None and not folder.is_dir():
        raise UsageError(f"{folder} is no folder. Name a single file with {', '.join(one_by_one)}.")
    if folder is not None:
        from corrclip_jax.conversion.convert import convert_folder

        run = partial(convert_folder, folder)
    elif clip is not None and dino is not None:
        from corrclip_jax.conversion.convert import convert as convert_files

        run = partial(convert_files, clip, dino, sam2, sam1=sam1, eomt=eomt, mask2former=mask2former)
    else:
        missing = " and ".join(option for option in ("--clip", "--dino") if not one_by_one[option])
        raise UsageError(f"{missing} missing. Name each checkpoint, or a folder that holds them all.")
    console = messages()
    with console.status("Looking at the checkpoints ..."):
        made = run(
            out=out,
            vocabulary=vocabulary,
            name=name,
            quick_gelu=quick_gelu,
            force=force,
            report=lambda line: console.print(escape(line), soft_wrap=True),
        )
    results().print(str(made), soft_wrap=True, markup=False)
