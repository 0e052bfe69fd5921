"""Export of former results: descriptions in a folder to any number of formats, each in a folder of its own."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from corrclip_jax.formats.earlier import check_classes, replacing
from corrclip_jax.formats.images import Images, Options
from corrclip_jax.formats.results import read_results
from corrclip_jax.formats.table import FORMATS, check_packages
from corrclip_jax.formats.target import Target
from corrclip_jax.io.files import OutputError
from corrclip_jax.io.own_files import OwnFiles, value_digest


@dataclass
class Exported:
    """What was written.

    Attributes:
      images: how many.
      folders: of the formats, by their names.
      failed: messages about images that are missing in a format, and formats that could not be written.
      notes: what users should know.
    """

    images: int = 0
    folders: dict[str, Path] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def export_results(
    descriptions: Sequence[Path],
    formats: Sequence[str],
    out: Path,
    options: Options,
    *,
    overwrite: bool = False,
    checked: bool = False,
    on_format: Callable[[str], object] = lambda name: None,
) -> Exported:
    """Write annotations of images that were segmented before.

    Files that are there, of the same results and options, are kept. What an earlier export wrote of other images is
    removed; a format whose folder has other classes for other photos is refused. An image that cannot be read is
    named and left out.

    Args:
      descriptions: the JSON files of results of `corrclip segment`.
      formats: names in `FORMATS`.
      out: the folder in which each format gets a folder with its name.
      options: choices for all formats.
      overwrite: write everything again, and replace files that this program did not write, and annotations of other
        photos with other classes.
      checked: whether `earlier.check_classes` was called already, with all photos of the run.
      on_format: called with the name of each format before it is written.

    Raises:
      ResultError: if no description can be used.
      MissingExtraError: if a package is missing.
    """
    check_packages(formats, options)
    vocabulary, images, failed = read_results(descriptions, options)
    done = Exported(len(images.entries), failed=failed)
    mark = value_digest([[entry.name, entry.mark] for entry in images.entries])
    made = {"options": asdict(options), "classes": vocabulary.mark}
    for name in formats:
        on_format(name)
        one = Images(images.entries)
        try:
            target = Target(OwnFiles(out / name), made, overwrite)
            if not (overwrite or checked):
                check_classes(out / name, vocabulary, [entry.photo for entry in images.entries])
            with replacing(target, vocabulary, one, FORMATS[name].link):
                FORMATS[name].write(target, vocabulary, one, options, mark)
            done.folders[name] = out / name
        except OutputError as error:
            done.failed.append(str(error))
        done.failed += [f"{message} Left out of {name}." for message in one.failed.values()]
        done.notes += one.notes
    return done
