"""`corrclip explain`: a page that shows each region of a photo beside the bank entries that supported its label."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from corrclip_jax.cli.shared.console import UsageError, messages, result_as_json
from corrclip_jax.cli.shared.options import (
    AlsoOption,
    BankOption,
    ClassesFileOption,
    ClassesOption,
    ModelOption,
    OptionalDtypeOption,
    OutOption,
    OverwriteOption,
    RegionsOption,
    by_name,
    chosen_bank,
    class_names,
    compute_type,
    regions_or_maps,
)

if TYPE_CHECKING:
    from corrclip_jax.inference.explanation import ExplainedRegion

HELP = "\n\n".join(
    [
        "Show why the regions of a photo got their labels: each beside the nearest regions of a bank of unlabelled "
        "images, with crops of these images where they are at hand.",
        "[bold]Example[/]",
        '  corrclip explain photo.jpg --bank bank/ --classes "cat, grass, sky; cloud" --out explained/',
    ]
)


def explain(
    image: Annotated[Path, typer.Argument(help="The photo.", metavar="PHOTO", show_default=False)],
    bank: BankOption = None,
    also: AlsoOption = None,
    classes: ClassesOption = None,
    classes_file: ClassesFileOption = None,
    model: ModelOption = "v2-b",
    out: OutOption = Path("explained"),
    regions: RegionsOption = None,
    neighbours: Annotated[int, typer.Option(min=1, help="Entries of the bank shown for each region.")] = 8,
    dtype: OptionalDtypeOption = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Explain a segmentation. Users see `HELP`."""
    from corrclip_jax.bank.folder import read_description
    from corrclip_jax.cli.runs.plan import inputs_of, of_another_photo
    from corrclip_jax.cli.shared.progress import Progress
    from corrclip_jax.inference import explanation
    from corrclip_jax.inference.segmenter import Segmenter
    from corrclip_jax.io.files import OutputError, check_writable
    from corrclip_jax.io.own_files import OwnFiles, value_digest
    from corrclip_jax.io.region_maps import region_file
    from corrclip_jax.runtime.compilation_cache import keep_compiled_programs

    names = class_names(classes, classes_file)
    bank_place = chosen_bank(bank)
    if bank_place is None:
        raise UsageError("--bank is missing: the folder of the bank.")
    read_description(bank_place)
    source, folder = regions_or_maps(model, regions)
    region_map = None if folder is None else region_file(folder, image)
    own, file = OwnFiles(out), out / f"{image.stem}.html"
    check_writable(out)
    own.check([file.name], overwrite=overwrite)
    # No page is taken for done, so the names of model and bank say enough.
    made = {
        "classes": value_digest(names),
        "model": model,
        "regions": source if region_map is None else "given",
        "bank": str(bank_place),
        "also": sorted(also or []),
        "neighbours": neighbours,
        "dtype": dtype,
        **inputs_of(image, region_map),
    }
    if not overwrite and (other := of_another_photo(file, made, own.look([file.name], made))):
        raise OutputError(other)
    keep_compiled_programs()
    with Progress() as progress:
        progress.phase(f"Loading {model} and {bank}")
        precision: Any = compute_type(dtype)
        segmenter = Segmenter(
            model, dtype=precision, regions=source, bank=bank_place, others=by_name("--also", also)
        )
        progress.phase(f"Segmenting {image}")
        found = segmenter(image, names, regions=region_map)
        explained = explanation.explain(found, bank_place, neighbours=neighbours)
    with own.writing([file.name], made, overwrite=overwrite) as [partial]:
        partial.write_text(explanation.page(image.name, found, explained, str(bank)), "utf-8")
    messages().print(f"{len(explained)} regions explained -> {escape(str(file))}", soft_wrap=True)
    result_as_json([_plain(region) for region in explained])


def _plain(region: "ExplainedRegion") -> dict[str, object]:
    return {
        "id": region.id,
        "share": region.share,
        "label": region.label,
        "own": dict(region.own),
        "support": dict(region.said),
        "neighbours": [
            {"entry": one.entry, "similarity": one.similarity, "image": one.image}
            for one in region.neighbours
        ],
    }
