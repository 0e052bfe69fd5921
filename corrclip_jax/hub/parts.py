"""Parts of models: networks that are downloaded and converted once, and shared by the models that are made of them.

converted/parts/<family>/<name>/   part.json, the tree, and a CLIP's vocabulary
converted/<model>/                 corrclip.json, which names its parts, and the vocabulary
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from corrclip_jax.config import Config, NetworkConfig, with_fields
from corrclip_jax.conversion.convert import convert_part
from corrclip_jax.conversion.published import Published
from corrclip_jax.conversion.rules import ConversionError
from corrclip_jax.hub.download import check_room, fetch, fetch_vocabulary, is_cached
from corrclip_jax.hub.errors import DownloadError
from corrclip_jax.hub.home import part_place, published_place, weights_home
from corrclip_jax.hub.locks import locked
from corrclip_jax.hub.offers import Offer, find_offer
from corrclip_jax.io.disk import readable
from corrclip_jax.io.files import atomic_folder
from corrclip_jax.params.file_names import OWN_NAMES
from corrclip_jax.params.model_folder import (
    VOCABULARY,
    Part,
    is_complete,
    read_part,
    write_description,
)
from corrclip_jax.runtime.home import HOME_VARIABLE

Report = Callable[[str], None]

# Families whose files say more than a preset: RADIO has as many prefix tokens as its training had teachers.
_TOLD_BY_FILES = ("radio",)


def assemble(
    folder: Path, config: Config, parts: Mapping[str, Published], region_part: str | None, report: Report
) -> Path:
    """Make the model folder of published parts, with all that has to be downloaded and converted for it.

    A folder that is complete is left as it is. Of several processes one does the work, the others wait for it.

    Args:
      folder: the model folder to make.
      config: the model's configuration; a part's own configuration replaces that of `region_part`.
      parts: the published models by family.
      region_part: the family whose configuration is read off its file, since `config` does not have it.
      report: takes a line of progress.

    Raises:
      FileNotFoundError: files are not here and cannot be downloaded: which ones to place where.
      ConversionError: a file that cannot be converted, or is of another size than the configuration says.
      OSError: a disk that is full.
    """
    if is_complete(folder):
        return folder
    with locked(folder):
        return folder if is_complete(folder) else _assemble(folder, config, parts, region_part, report)


def provide(name: str, one: Published, config: NetworkConfig | None, report: Report) -> Part:
    """One network by itself, downloaded and converted where it is not here.

    Args:
      name: what the user asked for, for messages.
      one: the published model.
      config: its configuration; None to read it off its file.
      report: takes a line of progress.

    Raises:
      FileNotFoundError, ConversionError, OSError: as `assemble`.
    """
    wanted = None if one.family in _TOLD_BY_FILES else config
    if part := _made(one, wanted):
        return part
    (offer,) = _fetch_all(name, {one.family: one}, report).values()
    vocabulary = _vocabulary(name, offer) if one.family == "clip" else None
    return _convert(offer, wanted, vocabulary, report)


def _assemble(
    folder: Path, config: Config, parts: Mapping[str, Published], region_part: str | None, report: Report
) -> Path:
    """The work of `assemble`."""
    read_off = [family for family in parts if family in (region_part, *_TOLD_BY_FILES)]
    configs = {family: getattr(config, family) for family in parts if family not in read_off}
    made = {family: part for family, one in parts.items() if (part := _made(one, configs.get(family)))}
    missing = {family: one for family, one in parts.items() if family not in made}
    for family, offer in _fetch_all(config.name, missing, report).items():
        vocabulary = _vocabulary(config.name, offer) if family == "clip" else None
        made[family] = _convert(offer, configs.get(family), vocabulary, report)
    config = with_fields(config, **{family: made[family].config for family in read_off})
    if region_part is not None:
        config = with_fields(config, regions={"source": region_part})
    config = with_fields(config, vocabulary=str(made["clip"].folder / VOCABULARY))
    return _compose(folder, config, made)


def _convert(offer: Offer, config: NetworkConfig | None, vocabulary: Path | None, report: Report) -> Part:
    """The part that an offer's files become, unless another process has made it meanwhile.

    Raises:
      ConversionError: for a file that cannot be converted; of one in the hub's cache, how to delete it.
    """
    one, checkpoint, place = offer.published, offer.checkpoint, part_place(offer.published.key)
    try:
        with locked(place):
            return _made(one, config) or convert_part(
                one.family, checkpoint, place, config=config, vocabulary=vocabulary, report=report
            )
    except ConversionError as error:
        if not is_cached(checkpoint):
            raise
        raise ConversionError(
            f"{error}\nThe file is in the hub's cache. If it is damaged, delete it and load again: "
            f"{checkpoint.resolve()}",
            error.faults,
        ) from error


def _made(one: Published, config: Any) -> Part | None:
    """The converted part, where it is here and has the configuration that is wanted."""
    part = read_part(part_place(one.key))
    return part if part is not None and config in (None, part.config) else None


def _compose(folder: Path, config: Config, parts: Mapping[str, Part]) -> Path:
    trees = {family: os.path.relpath(part.tree, folder) for family, part in parts.items()}
    sources = {family: part.source for family, part in parts.items()}
    with atomic_folder(folder, OWN_NAMES) as partial:
        write_description(
            partial, config, sources, {family: Path(tree).as_posix() for family, tree in trees.items()}
        )
    return folder


def _fetch_all(name: str, missing: Mapping[str, Published], report: Report) -> dict[str, Offer]:
    """The files of all parts that are missing; sizes and licences are reported before anything is downloaded."""
    offers: dict[str, Offer] = {}
    failures: dict[str, DownloadError] = {}
    for family, one in missing.items():
        try:
            offers[family] = find_offer(one)
        except DownloadError as error:
            failures[family] = error
    if failures:
        raise FileNotFoundError(how_to_place(name, missing, failures))
    _announce(name, offers, report)
    check_room(offers.values())
    for family, offer in offers.items():
        if offer.folder is None:
            report(f"Downloading {offer.files[0]} of {offer.repository} ({readable(offer.size)}) ...")
        try:
            offers[family] = fetch(offer)
        except DownloadError as error:
            raise FileNotFoundError(how_to_place(name, missing, {family: error})) from None
    return offers


def _announce(name: str, offers: Mapping[str, Offer], report: Report) -> None:
    if total := sum(offer.size for offer in offers.values()):
        report(f"{name} needs a download of {readable(total)}, once:")
    for offer in offers.values():
        size = readable(offer.size) if offer.folder is None else "already here"
        report(f"  {offer.published.title}: {size}, licence {offer.published.terms}, {offer.repository}")


def _vocabulary(name: str, offer: Offer) -> Path:
    try:
        return fetch_vocabulary(offer)
    except DownloadError as error:
        raise FileNotFoundError(how_to_place(name, {"clip": offer.published}, {"clip": error})) from None


def how_to_place(name: str, parts: Mapping[str, Published], failures: Mapping[str, DownloadError]) -> str:
    """What is missing of a model, why it could not be downloaded, and which files to place where instead."""
    places = []
    for family in failures:
        first = parts[family].repositories[0]
        files = " or ".join(first.files) + " and tokenizer.json" * (family == "clip")
        places.append(f"  {published_place(first.name)}/\n    {files}, from {first.url}")
    return "\n".join(
        [
            f"The weights of {name} are not all here, and could not be downloaded:",
            *(f"  {error}" for error in failures.values()),
            "Mend this and load again: what is whole is not downloaded again. Or place these files:",
            *places,
            f"and load again. {HOME_VARIABLE} names another place than {weights_home()}.",
            "The embedded model, tiny, needs no files, but knows generated scenes only: corrclip demo.",
        ]
    )
