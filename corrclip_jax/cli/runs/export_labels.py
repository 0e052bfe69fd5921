"""The work of `corrclip export-labels` and `corrclip segment --format`: annotations, and what is said of them."""

from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape

from corrclip_jax.cli.shared.console import complain, messages, note, result_as_json
from corrclip_jax.cli.shared.progress import Progress
from corrclip_jax.formats.earlier import check_classes
from corrclip_jax.formats.export import Exported, export_results
from corrclip_jax.formats.images import Options, Vocabulary
from corrclip_jax.formats.results import whole_path


def export_and_report(
    descriptions: Sequence[Path], formats: Sequence[str], out: Path, options: Options, *, overwrite: bool
) -> list[str]:
    """Write annotations and print what was written and what was not, which is returned."""
    done = export(descriptions, formats, out, options, overwrite=overwrite)
    report(done)
    result_as_json(
        {
            "images": done.images,
            "formats": {name: str(folder) for name, folder in done.folders.items()},
            "failed": done.failed,
        }
    )
    return done.failed


def check_formats(
    formats: Sequence[str], out: Path, classes: Sequence[Sequence[str]], photos: Sequence[Path]
) -> None:
    """Refuse, before photos are segmented, what their annotations could not be written to; see `check_classes`."""
    vocabulary = Vocabulary(tuple(map(tuple, classes)))
    for name in formats:
        check_classes(out / name, vocabulary, [whole_path(photo) for photo in photos])


def export(
    descriptions: Sequence[Path],
    formats: Sequence[str],
    out: Path,
    options: Options,
    *,
    overwrite: bool,
    checked: bool = False,
) -> Exported:
    """Write annotations while a line shows the format."""
    with Progress() as progress:
        return export_results(
            descriptions,
            list(dict.fromkeys(map(str, formats))),
            out,
            options,
            overwrite=overwrite,
            checked=checked,
            on_format=lambda name: progress.phase(f"Writing {name}"),
        )


def report(done: Exported) -> None:
    """Print where the annotations are, and what failed."""
    for name, folder in done.folders.items():
        images = f"{done.images} image{'s' * (done.images != 1)}"
        messages().print(f"{name}: {images} -> {escape(str(folder))}", soft_wrap=True)
    for line in done.notes:
        note(line)
    for line in done.failed:
        complain(line)
