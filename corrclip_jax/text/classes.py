"""Class lists: names with synonyms, from a string, a file or a list."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from corrclip_jax.text.class_files import WIDE_SEPARATORS, numbered, parse_class_file
from corrclip_jax.text.tokenizer import clean

_FILES = (".txt", ".csv", ".tsv", ".json", ".yaml", ".yml")


class ClassNameWarning(UserWarning):
    """A class name that is changed or cut before it is used."""


def parse_classes(text: str) -> list[list[str]]:
    """Classes as the command line writes them: a comma or a new line separates classes, `;` synonyms.

    >>> parse_classes("cat, grass, sky; cloud")
    [['cat'], ['grass'], ['sky', 'cloud']]

    Raises:
      ValueError: no classes, an empty or a doubled name, with its place.
    """
    lines = [line.strip() for line in text.translate(WIDE_SEPARATORS).splitlines() if line.strip()]
    text = ",".join(line.removesuffix(",") for line in lines) if len(lines) > 1 else "".join(lines)
    if not text:
        return normalise_classes([])
    _refuse_other_forms(text)
    parts = [(f"class {n}", part.strip()) for n, part in enumerate(text.split(","), 1)]
    if len(parts) > 1 and (entries := numbered(parts, "the classes")) is not None:
        return normalise_classes([one.names for one in entries], [one.place for one in entries])
    return normalise_classes([part.split(";") for _, part in parts])


def _refuse_other_forms(text: str) -> None:
    """Refuse a list with brackets or quotes, and the name of a file."""
    if re.search(r"[\[\]{}\"]", text):
        raise ValueError(
            f"classes are written without brackets and quotes, as in cat, sky; cloud. Got {text[:60]!r}."
        )
    if "," not in text and (text.startswith("@") or Path(text).suffix.lower() in _FILES):
        raise ValueError(
            f"{text!r} is no class name but a file: give it as --classes-file, in Python to read_classes."
        )


def read_classes(path: str | Path) -> list[list[str]]:
    """Classes from a file.

    A line of a text file is a class, `;` separates synonyms, a comma belongs to the name; empty lines and what
    follows `#` are ignored. Numbered lines ("0: cat"), tables (.csv, .tsv), lists in JSON and YAML, and CVAT's
    label map are read, too (`text.class_files`).

    Raises:
      FileNotFoundError: no such file.
      ValueError: no text; a line that is no class name, an empty or a doubled name, with its line; no classes.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of class names at {path}. It holds one class a line.")
    data = path.read_bytes()
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be UTF-8 text ({error}). Save it as UTF-8.") from error
    found = parse_class_file(text, path.suffix.lower(), str(path))
    return normalise_classes([one.names for one in found], [f"{path}, {one.place}" for one in found])


def normalise_classes(
    classes: Iterable[str | Iterable[str]], places: Sequence[str] | None = None
) -> list[list[str]]:
    """Every class as a list of names with single spaces; the checks that all ways of giving classes share.

    Names are doubled when the tokenizer reads them alike: it sees neither case nor the amount of white space.
    Characters without width are removed. `places` says where each class stands, for errors (by default, "class 1").

    Raises:
      ValueError: no classes, empty names, repeated names; all of them in one message.
      TypeError: a name that is no text.
    """
    if isinstance(classes, str):
        raise ValueError(f"classes must be a list. Got the text {classes!r}, which parse_classes can read.")
    if isinstance(classes, Mapping | set | frozenset):
        raise TypeError(
            f"classes must be a list, whose order gives the labels. Got a {type(classes).__name__}."
        )
    names = [[entry] if isinstance(entry, str) else _listed(entry) for entry in classes]
    places = places or [f"class {number}" for number in range(1, len(names) + 1)]
    if not names:
        raise ValueError("there are no classes. Name one at least, as in ['cat', ['sky', 'cloud']].")
    faults: list[str] = []
    seen: dict[str, str] = {}
    for place, synonyms in zip(places, names, strict=True):
        if not synonyms:
            faults.append(f"{place} has no name")
        for name in synonyms:
            if not isinstance(name, str):
                raise TypeError(f"a class name must be text. {place} holds {name!r}.")
            key = clean(_visible(name))
            if control := next((c for c in _visible(name) if unicodedata.category(c) in ("Cc", "Cs")), None):
                faults.append(f"{place} names {name!r}, which holds the character {control!r} (remove it)")
            elif not key:
                faults.append(f"{place} has an empty name (write one, or take the separator away)")
            elif key in seen:
                faults.append(f"{place} names {name.strip()!r}, as {seen[key]} does (keep one of them)")
            seen.setdefault(key, place)
    if faults:
        raise ValueError(f"class names must be non-empty and distinct: {'; '.join(faults)}.")
    return [[_visible(name) for name in synonyms] for synonyms in names]


def _listed(entry: Iterable[str]) -> list[str]:
    if not isinstance(entry, Iterable) or isinstance(entry, bytes):
        raise TypeError(f"a class is a name or a list of synonyms. Got {entry!r}.")
    return list(entry)


# Some scripts join letters by characters without width; elsewhere they are left over from copying.
_JOINERS = re.compile(r"(?<![\u0590-\U0010ffff])[\u200c\u200d]|[\u200c\u200d](?![\u0590-\U0010ffff])")


def _visible(name: str) -> str:
    """The name without characters of no width, and with single spaces."""
    kept = (c for c in name if c in "\u200c\u200d" or unicodedata.category(c) != "Cf")
    return " ".join(_JOINERS.sub("", "".join(kept)).split())
