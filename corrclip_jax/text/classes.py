"""Class lists: names with synonyms, from a string, a file or a list."""

from collections.abc import Sequence
from pathlib import Path

from corrclip_jax.text.tokenizer import clean


def parse_classes(text: str) -> list[list[str]]:
    """Classes as the command line writes them: a comma separates classes, `;` synonyms.

    >>> parse_classes("cat, grass, sky; cloud")
    [['cat'], ['grass'], ['sky', 'cloud']]

    Raises:
      ValueError: no classes, an empty or a doubled name, with its place.
    """
    if not text.strip():
        return normalise_classes([])
    return normalise_classes([part.split(";") for part in text.split(",")])


def read_classes(path: str | Path) -> list[list[str]]:
    """Classes from a text file: a line is a class, `;` separates synonyms, a comma belongs to the name.

    Blank lines are ignored; a byte-order mark is tolerated.

    Raises:
      FileNotFoundError: no such file.
      ValueError: no UTF-8 text; no classes, an empty or a doubled name, with its line.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file of class names at {path}. It holds one class a line.")
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be UTF-8 text ({error}). Save it as UTF-8.") from error
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    places = [f"{path}, line {number}" for number, _ in numbered]
    return normalise_classes([line.split(";") for _, line in numbered], places)


def normalise_classes(
    classes: Sequence[str | Sequence[str]], places: Sequence[str] | None = None
) -> list[list[str]]:
    """Every class as a list of names with single spaces; the checks that all ways of giving classes share.

    Names are doubled when the tokenizer reads them alike: it sees neither case nor the amount of white space.
    `places` says where each class stands, for errors ("class 1" ... by default).

    Raises:
      ValueError: no classes, empty names, names that stand there twice; all of them in one message.
      TypeError: a name that is no text.
    """
    if isinstance(classes, str):
        raise ValueError(f"classes must be a list. Got the text {classes!r}, which parse_classes can read.")
    names = [[entry] if isinstance(entry, str) else list(entry) for entry in classes]
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
            key = clean(name)
            if not key:
                faults.append(f"{place} has an empty name (write one, or take the separator away)")
            elif key in seen:
                faults.append(f"{place} names {name.strip()!r}, as {seen[key]} does (keep one of them)")
            seen.setdefault(key, place)
    if faults:
        raise ValueError(f"class names must be there and be unlike each other: {'; '.join(faults)}.")
    return [[" ".join(name.split()) for name in synonyms] for synonyms in names]
