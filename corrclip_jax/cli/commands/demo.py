"""`corrclip demo`: a model on generated scenes, compared with plain CLIP and the ground truth."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from corrclip_jax.cli.shared.console import UsageError, messages, result_as_json, results
from corrclip_jax.cli.shared.interrupts import run_interruptibly
from corrclip_jax.cli.shared.options import ModelOption, OutOption, OverwriteOption
from corrclip_jax.runtime.compilation_cache import keep_compiled_programs

MOST_SCENES = 8

HELP = "\n\n".join(
    [
        "Try the method on generated scenes.",
        "The embedded model, tiny, labels scenes that the package draws itself; no download is needed. For "
        "each scene an overlay, the regions and a comparison (image, plain CLIP, CorrCLIP, ground truth) "
        "are written to the folder --out, and all comparisons to demo.png. Later runs reuse the compiled "
        "programs and are faster.",
        "[bold]Examples[/]",
        "  corrclip demo",
        "  corrclip demo --bank",
        '  corrclip demo --classes "green heart, black moon, purple triangle, sand; beach, wood"',
    ]
)


def demo(
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes",
            "-c",
            help='Your own class names: "red star, grass, sky; cloud". [dim]\\[default: those of the scenes][/]',
            show_default=False,
        ),
    ] = None,
    model: ModelOption = "tiny",
    out: OutOption = Path("demo"),
    scenes: Annotated[
        int, typer.Option("--scenes", "-n", min=1, max=MOST_SCENES, help="Number of scenes.")
    ] = 4,
    bank: Annotated[
        bool,
        typer.Option("--bank", help="Add CorrCLIPv2 with the bank of training scenes that comes with tiny."),
    ] = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Segment generated scenes. Users see `HELP`."""
    start = time.perf_counter()
    from corrclip_jax.cli.shared.progress import Progress
    from corrclip_jax.io.files import check_writable
    from corrclip_jax.io.own_files import OwnFiles
    from corrclip_jax.text.classes import parse_classes

    if bank and model != "tiny":
        raise UsageError(
            "--bank is for the embedded model: leave --model out. corrclip segment takes any bank."
        )
    names = None if classes is None else parse_classes(classes)
    check_writable(out)
    with Progress() as progress:
        progress.phase("Starting")
        from corrclip_jax.cli.runs.demo import file_names, show

        OwnFiles(out).check(file_names(scenes), overwrite=overwrite)
        keep_compiled_programs()
        gallery = run_interruptibly(lambda stop: show(model, names, scenes, progress, stop, bank=bank))
        progress.phase("Writing the images")
        files = gallery.save(out, overwrite=overwrite)
    results().print(gallery.table())
    result_as_json({"files": files, **gallery.numbers()})
    console = messages()
    each = sum(result.seconds for result in gallery.results) / scenes
    console.print(
        f"{scenes} scene{'s' * (scenes > 1)} in {time.perf_counter() - start:.1f} s, {each:.2f} s per scene after "
        "compilation."
    )
    console.print(
        f"{len(files)} images in {escape(str(out))}; begin with {escape(str(files[0]))}", soft_wrap=True
    )
