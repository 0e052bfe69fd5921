"""Bank folder: keys, values and origin of every entry, a manifest of images, and the networks that made them.

bank.json      how many entries there are, of which backbone and CLIPs: what counts; written last, in one step
images.jsonl   a line for each image: its folder and name, digest of the file, its first entry and how many it has
keys, values/main, values/<name>, region, box    rows in Zarr (a published index instead has codes and its tables)

Files may hold more than `bank.json` counts, left by a build that was interrupted; that is not read.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from corrclip_jax.bank.errors import BankError
from corrclip_jax.bank.rows import Rows
from corrclip_jax.config import Config, similarity_network
from corrclip_jax.io.files import atomic_file
from corrclip_jax.method.bank import MOST_LISTS, Bank, QuantisedKeys
from corrclip_jax.params.digests import network_digest

DESCRIPTION, IMAGES = "bank.json", "images.jsonl"
FORMAT = 1
EXACT, QUANTISED = "exact", "quantised"
KEYS, REGIONS, BOXES = "keys", "region", "box"
TABLES = ("centroids", "words", "starts", "codes", "ids", "squares")  # of quantised keys


@dataclass(frozen=True)
class Network:
    """A network that made keys or values.

    Attributes:
      name: its family, or what a user calls it.
      width: of its rows.
      digest: of its weights (`params.digests`), None where it is not known.
    """

    name: str
    width: int
    digest: str | None = None


@dataclass(frozen=True)
class Description:
    """What `bank.json` says.

    Attributes:
      entries: how many entries the bank has.
      images: how many images they are of; 0 where that is not known.
      backbone: what made the keys.
      values: the CLIPs that made the values, by name.
      keys: "exact" or "quantised".
      settings: what the entries depend on besides the networks, plain JSON types.
      roots: folders of the images, as absolute paths.
      generation: how many builds have been added to it.
      key_rows: rows of the keys, where they are not those of the values.
    """

    entries: int
    images: int
    backbone: Network
    values: dict[str, Network]
    keys: str = EXACT
    settings: dict[str, Any] = field(default_factory=dict)
    roots: list[str] = field(default_factory=list)
    generation: int = 0
    key_rows: int | None = None


class BankImage(NamedTuple):
    """An image of a bank: a line of `images.jsonl`.

    Attributes:
      name: path below its folder, with "/".
      root: number of its folder among `Description.roots`.
      mark: digest of its file (`io.marks`).
      first: its first entry.
      entries: how many it has.
    """

    name: str
    root: int
    mark: str
    first: int
    entries: int


def read_description(folder: str | Path) -> Description:
    """What the bank in a folder is.

    Raises:
      FileNotFoundError: if the folder holds no bank.
      BankError: if it is damaged, or of a format that this version does not know.
    """
    file = Path(folder) / DESCRIPTION
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder} holds no bank ({DESCRIPTION} is not in it). `corrclip bank build` makes one, and finishes "
            "one whose build was interrupted."
        )
    try:
        content = json.loads(file.read_text("utf-8"))
        if content.pop("format") != FORMAT:
            raise BankError(
                f"{file} has another format than {FORMAT}, which this version reads. Build it again."
            )
        content["backbone"] = Network(**content["backbone"])
        content["values"] = {name: Network(**value) for name, value in content["values"].items()}
        found = Description(**content)
        numbers = (found.entries, found.images, found.generation, found.key_rows or 0)
        if not all(isinstance(number, int) and number >= 0 for number in numbers):
            raise ValueError(f"entries, images, generation and key_rows are {numbers}")
        return found
    except BankError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BankError(f"{file} is damaged ({error}). Copy the bank again, or build it again.") from error


def write_description(folder: Path, description: Description) -> None:
    """Write `bank.json` in one step: what it counts must be there."""
    with atomic_file(folder / DESCRIPTION) as partial:
        partial.write_text(json.dumps({"format": FORMAT, **asdict(description)}, indent=1) + "\n", "utf-8")


def read_images(folder: str | Path, description: Description) -> list[BankImage]:
    """The images of a bank, in the order of their entries.

    Raises:
      BankError: if the list is missing, damaged, or shorter than the bank says.
    """
    file = Path(folder) / IMAGES
    if not description.images:
        return []
    try:
        with file.open(encoding="utf-8") as lines:
            found = [
                BankImage(*json.loads(line))
                for line, _ in zip(lines, range(description.images), strict=False)
            ]
    except (OSError, ValueError, TypeError) as error:
        raise BankError(f"{file} is missing or damaged ({error}). Copy the bank again.") from error
    if len(found) < description.images:
        raise BankError(
            f"{file} lists {len(found)} images, the bank has {description.images}. Copy it again."
        )
    if (entries := sum(image.entries for image in found)) != description.entries:
        raise BankError(
            f"{file} lists images of {entries} entries, the bank has {description.entries}. Copy it again."
        )
    return found


def write_images(folder: Path, images: Sequence[BankImage]) -> None:
    """Write the list of images in one step."""
    with atomic_file(folder / IMAGES) as partial:
        partial.write_text("".join(json.dumps(image) + "\n" for image in images), "utf-8")


def load_bank(
    folder: str | Path,
    model: tuple[Config, Mapping[str, Any]] | None = None,
    *,
    others: Mapping[str, Network] | None = None,
    in_memory: bool = True,
) -> Bank:
    """The bank in a folder, for `make_segment` and `Segmenter`.

    Args:
      folder: the bank.
      model: configuration and parameters of the model that it is to be used with, which must have made it.
      others: further CLIPs that the names of classes are embedded with, by the names of their values.
      in_memory: whether rows are read at once, as NumPy arrays; else they are read where they are used, by
        `put_bank` for instance.

    Raises:
      FileNotFoundError: if the folder holds no bank.
      BankError: if it is damaged or empty, holds values that are not finite, or was made by other networks.
    """
    folder = Path(folder)
    description = read_description(folder)
    if model is not None:
        clips = {"main": clip_of(*model), **(others or {})}
        check_fits(description, backbone_of(*model), clips, str(folder))
    if description.entries == 0:
        raise BankError(f"{folder} holds no entries. Build it with images that have regions.")

    def rows(name: str, count: int) -> Any:
        found = Rows(folder / name, count)
        return found[:] if in_memory else found

    count = description.entries if description.key_rows is None else description.key_rows
    if description.keys == QUANTISED:
        sizes = {"centroids": None, "words": None, "starts": None}
        parts = {name: rows(name, _length(folder / name) if name in sizes else count) for name in TABLES}
        make: Any = QuantisedKeys
        keys = make(**parts, lists=min(MOST_LISTS, len(parts["centroids"])))
        width = parts["centroids"].shape[1]
    else:
        keys = rows(KEYS, count)
        width = keys.shape[1]
    values = {name: rows(f"values/{name}", description.entries) for name in description.values}
    widths = {"keys": (width, description.backbone.width)}
    widths |= {name: (values[name].shape[1], network.width) for name, network in description.values.items()}
    for name, (found, wanted) in widths.items():
        if found != wanted:
            raise BankError(
                f"{folder}: {name} are of width {found}, {DESCRIPTION} says {wanted}. Copy it again."
            )
    return Bank(keys, values)


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """Where two networks, settings or dictionaries of them differ: "NAME OLD there, NEW here" for each."""
    if old == new:
        return []
    if isinstance(old, dict) and isinstance(new, dict):
        names = {**old, **new}
        return [
            line
            for one in names
            for line in differences(old.get(one), new.get(one), f"{name}.{one}" if name else one)
        ]
    return [f"{name} {_plain(old)} there, {_plain(new)} here".lstrip()]


def _plain(value: Any) -> str:
    if isinstance(value, Network):
        return f"{value.name} of width {value.width}" + (f" ({value.digest[:8]})" if value.digest else "")
    return "none" if value is None else str(value)


def check_free(folder: Path) -> None:
    """Check that a new bank may be written to a folder, which may hold other things.

    Raises:
      BankError: if it holds a bank, or anything by a name that a bank's parts have.
    """
    if (folder / DESCRIPTION).is_file():
        raise BankError(f"{folder} holds a bank already. Choose another folder.")
    parts = (DESCRIPTION, IMAGES, KEYS, "values", REGIONS, BOXES, *TABLES)
    if taken := [name for name in parts if os.path.lexists(folder / name)]:
        raise BankError(
            f"{folder} holds {', '.join(taken)}, whose place a bank would take. Choose another folder."
        )


def backbone_of(config: Config, params: Mapping[str, Any]) -> Network:
    """The network of a model that makes keys."""
    name, network = similarity_network(config)
    return Network(name, network.width, network_digest(params[name]))


def clip_of(config: Config, params: Mapping[str, Any]) -> Network:
    """The CLIP of a model, which makes values."""
    return Network(config.name, config.clip.embed_dim, network_digest(params["clip"]))


def check_fits(description: Description, backbone: Network, clips: Mapping[str, Network], name: str) -> None:
    """Check that a bank was made by the networks that it is used with.

    Args:
      description: of the bank.
      backbone: what makes the features of regions.
      clips: what the names of classes are embedded with, by name.
      name: of the bank, for messages.

    Raises:
      BankError: if it was not.
    """
    pairs = [("backbone", description.backbone, backbone)]
    for clip, network in clips.items():
        if clip not in description.values:
            raise BankError(
                f"{name} has no values of the CLIP {clip!r}; it has {', '.join(description.values)}. Build it with "
                "this model."
            )
        pairs.append((f"CLIP {clip!r}", description.values[clip], network))
    for what, made, used in pairs:
        known = None not in (made.digest, used.digest)
        if made.width != used.width or (
            made.name != used.name and not (known and made.digest == used.digest)
        ):
            raise BankError(
                f"{name} was made with the {what} {made.name} of width {made.width}, the model has {used.name} of "
                f"width {used.width}. Use the model that made the bank, or build one with this model."
            )
        if known and made.digest != used.digest:
            raise BankError(
                f"{name} was made with other weights of the {what} {made.name} than the model's. Use the model "
                "that made the bank, or build one with this model."
            )


def _length(path: Path) -> int:
    return Rows(path, 0)._store.shape[0]
