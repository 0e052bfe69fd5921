"""`corrclip explain`: a page that shows each region of a photo beside the bank entries that supported its label."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from corrclip_jax.cli.shared.console import UsageError, messages, result_as_json
from corrclip_jax.cli.shared.options import (
    ClassesFileOption,
    ClassesOption,
    ModelOption,
    OptionalDtypeOption,
    OutOption,
    RegionsOption,
    class_names,
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
    bank: Annotated[Path, typer.Option("--bank", help="Folder of the bank.", show_default=False)],
    classes: ClassesOption = None,
    classes_file: ClassesFileOption = None,
    model: ModelOption = "v2-b",
    out: OutOption = Path("explained"),
    regions: RegionsOption = "eomt",
    neighbours: Annotated[int, typer.Option(min=1, help="Entries of the bank shown for each region.")] = 8,
    dtype: OptionalDtypeOption = None,
) -> None:
    """Explain a segmentation. Users see `HELP`."""
    from corrclip_jax.bank.folder import load_bank, read_description
    from corrclip_jax.cli.shared.progress import Progress
    from corrclip_jax.hub.presets import load
    from corrclip_jax.inference import explanation
    from corrclip_jax.inference.segmenter import Segmenter
    from corrclip_jax.io.files import atomic_file, check_writable
    from corrclip_jax.io.region_maps import region_file
    from corrclip_jax.method.bank import Bank
    from corrclip_jax.regions.sources import SOURCES, network_to_load
    from corrclip_jax.runtime.compilation_cache import keep_compiled_programs

    names = class_names(classes, classes_file)
    read_description(bank)
    is_source = regions in SOURCES
    if not is_source and not Path(regions).is_dir():
        raise UsageError(
            f"--regions must be one of {', '.join(SOURCES)}, or a folder of region maps. {regions!r} is no folder."
        )
    region_map = None if is_source else region_file(regions, image)
    check_writable(out)
    keep_compiled_programs()
    with Progress() as progress:
        progress.phase(f"Loading {model}")
        source = regions if is_source else "none"
        loaded = load(model, region_network=network_to_load(source))
        progress.phase(f"Loading {bank}")
        # Values of other CLIPs would need their text towers.
        whole = load_bank(bank, loaded)
        segmenter = Segmenter(
            loaded,
            dtype=None if dtype is None else dtype.value,
            regions=source,
            bank=Bank(whole.keys, {"main": whole.values["main"]}),
        )
        progress.phase(f"Segmenting {image}")
        found = segmenter(image, names, regions=region_map)
        explained = explanation.explain(found, bank, neighbours=neighbours)
    file = out / f"{image.stem}.html"
    with atomic_file(file) as partial:
        partial.write_text(explanation.page(image.name, found, explained, str(bank)), "utf-8")
    messages().print(f"{len(explained)} regions explained -> {escape(str(file))}", soft_wrap=True)
    result_as_json([_plain(region) for region in explained])


def _plain(region: "ExplainedRegion") -> dict[str, object]:
    return {
        "id": region.id,
        "share": region.share,
        "label": region.label,
        "support": dict(region.said),
        "neighbours": [
            {"entry": one.entry, "similarity": one.similarity, "image": one.image}
            for one in region.neighbours
        ],
    }
