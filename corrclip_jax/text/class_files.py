"""Class files: lists of class names as labelling programs and training sets keep them.

Text with a class a line, also numbered ("0: cat", "1. cat", "0,cat") or as CVAT's label map ("cat:255,0,0::");
tables (.csv, .tsv) with a column of names; JSON and YAML with a list, or with names by number. What is none of
these is an error that says the line; it is never taken as a name. Nor are numbers of classes passed over: they give
the order, or are an error.
"""

import csv
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """A class in a file: its names, and where it stands."""

    names: list[str]
    place: str


_NAME_COLUMNS = (
    "name",
    "names",
    "class",
    "classes",
    "classname",
    "label",
    "labels",
    "category",
)
_NUMBER_COLUMNS = ("id", "index", "idx", "number", "labelid", "classid", "categoryid", "trainid", "value")
_OTHER_COLUMNS = ("r", "g", "b", "a", "red", "green", "blue", "alpha", "isthing", "isstuff", "thing", "stuff")
"""Titles of whole numbers that number no classes."""
_LISTS = ("names", "classes", "labels", "categories", "id2label", "class_names", "label_names", "label2id")
_NUMBERED = re.compile(r"\s*(?P<number>\d+)\s*(?:[:.,;=)|\t]|-+>|=>|→)\s*(?P<name>\S.*)")
_NUMBER_LAST = re.compile(r"(?P<name>.*\S)\s*[:,=|\t]\s*(?P<number>\d+)")
_SPACED = (re.compile(r"(?P<number>\d+)\s+(?P<name>\S.*)"), re.compile(r"(?P<name>.*\S)\s+(?P<number>\d+)"))
WIDE_SEPARATORS = str.maketrans("\uff0c\u3001\uff1b", ",,;")
"""Commas and semicolons of Chinese and Japanese, and what they stand for between names."""
_LABEL_MAP = re.compile(r"([^:]+):\s*(?:\d+\s*,\s*\d+\s*,\s*\d+)?\s*:[^:]*:[^:]*")
_FORM = "A file of class names has one class per line; a semicolon separates synonyms"


def parse_class_file(text: str, suffix: str, path: str) -> list[Entry]:
    """The classes in a file.

    Args:
      text: its content.
      suffix: of its name, in lower case.
      path: for errors.

    Raises:
      ValueError: if it is none of the known forms, with the line.
    """
    if suffix in (".yaml", ".yml"):
        return _from_data(_load_yaml(text, path), path)
    if suffix == ".json" or text.lstrip()[:1] in ("[", "{"):
        return _from_data(_load_json(text, path), path)
    if suffix in (".csv", ".tsv"):
        return _from_table(text, "\t" if suffix == ".tsv" else _separator(text), path)
    return _from_lines(text, path)


def _from_lines(text: str, path: str) -> list[Entry]:
    given = [(n, line) for n, line in enumerate(text.splitlines(), 1) if line.strip()]
    lines = [(n, re.sub(r"\s#.*", "", line)) for n, line in given if not line.lstrip().startswith("#")]
    if lines and all(_LABEL_MAP.fullmatch(line.strip()) for _, line in lines):
        return [Entry([line.partition(":")[0]], f"line {n}") for n, line in lines]
    if lines and all(line.lstrip().startswith(("- ", "* ")) for _, line in lines):
        lines = [(n, line.lstrip()[2:]) for n, line in lines]
    lines = [(n, line.replace("\uff1b", ";")) for n, line in lines]
    places = [(f"line {n}", line.strip()) for n, line in lines]
    if (entries := numbered(places, path)) is not None:
        return entries
    for n, line in lines:
        _check_line(line, n, len(lines), path)
    return [Entry(line.split(";"), f"line {n}") for n, line in lines]


def numbered(lines: list[tuple[str, str]], path: str) -> list[Entry] | None:
    """Classes of lines (place, text) that all hold a number and a name, by their numbers; None for other lines.

    Where white space alone is between them, the numbers must count from 0 or 1 and the names differ: "stage 1" and
    "stage 2" are names.

    Raises:
      ValueError: for numbers that do not count from 0 or 1; with white space alone, if they come first and include
        0 or 1.
    """
    for pattern in (_NUMBERED, _NUMBER_LAST, *_SPACED):
        matches = [pattern.fullmatch(line) for _, line in lines]
        found = [
            (int(match["number"]), match["name"], place)
            for match, (place, _) in zip(matches, lines, strict=True)
            if match
        ]
        if not found or len(found) < len(lines):
            continue
        numbers, names = [number for number, _, _ in found], {name for _, name, _ in found}
        if pattern not in _SPACED:
            return _in_order(found, path)
        if len(lines) < 2 or len(names) < len(lines):
            continue
        if _counts(numbers):
            return _in_order(found, path)
        if pattern is _SPACED[0] and min(numbers) <= 1:
            hint = " If the numbers belong to the names, give the names as a list: in a .json file, or in Python."
            return _in_order(found, path, hint)
    return None


def _check_line(line: str, number: int, lines: int, path: str) -> None:
    """Refuse a line that is part of another kind of file."""
    line = line.strip()
    reason = None
    if "\t" in line:
        reason = "holds a tab: save a table as .tsv or .csv with a column of names"
    elif re.search(r"[{}\[\]]", line):
        reason = "holds a bracket"
    elif re.match(r"\d+\s*[:=]", line) or _LABEL_MAP.fullmatch(line):
        reason = "has a number or a colour beside the name, and other lines have none"
    elif re.fullmatch(r"""["'].*["'],?""", line):
        reason = "stands in quotes: save a list in JSON as .json"
    elif line.endswith(":"):
        reason = "ends in a colon: save YAML as .yaml"
    elif "|" in line:
        reason = "holds a vertical bar: save a table as .csv; synonyms are separated by semicolons"
    elif re.search(r"</?\w[^<>]*>", line):
        reason = "holds a tag"
    elif line.isdecimal():
        reason = "is a number"
    elif re.fullmatch(r"(\d+[\s,]+){2,}.*|.*(,\s*\d+){2,}|.*(\s\d+){3,}", line):
        reason = "holds numbers"
    elif lines == 1 and line.count(",") > 1:
        reason = "is the only one and holds commas"
    if reason:
        raise ValueError(f"{path}, line {number}, {line[:60]!r}, is no class name: it {reason}. {_FORM}.")


def _in_order(numbers: list[tuple[int, str, str]], path: str, hint: str = "") -> list[Entry]:
    """Classes by their numbers, which count from 0 or 1; `hint` ends the error if they do not."""
    ordered = sorted(numbers, key=lambda one: one[0])
    first = 1 if ordered and ordered[0][0] > 0 else 0
    for expected, (number, name, place) in enumerate(ordered, first):
        if number != expected:
            raise ValueError(
                f"{path}, {place}: the class {name.strip()!r} has the number {number}, where {expected} was "
                f"expected. Classes are numbered from 0 or 1 without gaps.{hint}"
            )
    return [Entry(name.split(";"), place) for _, name, place in ordered]


def _separator(text: str) -> str:
    """What separates the columns of a .csv file: a comma, or a semicolon as in spreadsheets of many countries."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    first = [cell.strip(' "\ufeff').lower() for cell in lines[0].split(";")] if lines else []
    has_titles = len(first) > 1 and any(_plain(cell) in (*_NAME_COLUMNS, *_NUMBER_COLUMNS) for cell in first)
    has_numbers = bool(lines) and all(re.match(r"\d+\s*;", line) for line in lines)
    return ";" if has_titles or has_numbers else ","


def _from_table(text: str, separator: str, path: str) -> list[Entry]:
    reader = csv.reader(text.splitlines(), delimiter=separator, skipinitialspace=True)
    rows = [([cell.strip() for cell in row], reader.line_num) for row in reader]
    rows = [(row, n) for row, n in rows if any(row) and not row[0].startswith("#")]
    if not rows:
        return []
    titles = [cell.strip("\ufeff") for cell in rows[0][0]]
    if any(_plain(title) in _NAME_COLUMNS for title in titles):
        rows = rows[1:]
        column = _name_column(titles, rows, path)
    elif len(titles) == 1 and not all(row[0].isdecimal() for row, _ in rows):
        column = 0
    elif len(titles) == 2 and all(len(row) == 2 and row[0].isdecimal() for row, _ in rows):
        titles, column = ["id", "name"], 1
    else:
        raise ValueError(
            f"{path}, line {rows[0][1]}: which column holds the class names? Give it the title 'name'. Its first "
            f"line is {separator.join(rows[0][0])[:80]!r}."
        )
    needed = [n for n, title in enumerate(titles) if n == column or _plain(title) in _NUMBER_COLUMNS]
    for row, n in rows:
        if len(row) <= max(needed):
            raise ValueError(f"{path}, line {n}: there is no column {max(needed) + 1} in {row!r:.80}.")
    columns = [
        (title, [row[n] if n < len(row) else "" for row, _ in rows])
        for n, title in enumerate(titles)
        if n != column
    ]
    entries = [Entry(row[column].split(";"), f"line {n}") for row, n in rows]
    return _sorted_by(_number_column(columns, entries, path), entries, path)


def _name_column(titles: list[str], rows: list[tuple[list[str], int]], path: str) -> int:
    """The column of the names: of those with its titles, the first that does not hold numbers."""
    order = {title: n for n, title in enumerate(_NAME_COLUMNS)}
    found = sorted((order[plain], n) for n, title in enumerate(titles) if (plain := _plain(title)) in order)
    for _, n in found:
        if not rows or not all(len(row) > n and row[n].isdecimal() for row, _ in rows):
            return n
    raise ValueError(
        f"{path}: the column {titles[found[0][1]]!r} holds numbers, no class names. Give the column of the names "
        "the title 'name'."
    )


class _Numbers(NamedTuple):
    """A column of a table, or a key of a list in JSON, that numbers the classes."""

    title: str
    numbers: list[int]


def _number_column(columns: list[tuple[str, list[Any]]], entries: list[Entry], path: str) -> _Numbers | None:
    """The column that numbers the classes; None if no column does, so their order in the file counts.

    Those with a usual title ("id") are preferred, and, among those, one that counts from 0 or 1 ("trainId" beside
    ids with gaps). Without them, any other whose whole numbers are distinct.

    Raises:
      ValueError: for columns that count in different orders, and for what is no number below a usual title.
    """
    usual = [column for title in _NUMBER_COLUMNS for column in columns if _plain(column[0]) == title]
    others = [column for column in columns if _plain(column[0]) not in _OTHER_COLUMNS]
    read = [(title, [_whole(cell) for cell in cells]) for title, cells in usual or others]
    all_read = [
        _Numbers(title, [n for n in found if n is not None]) for title, found in read if None not in found
    ]
    whole = [one for one in all_read if usual or len(set(one.numbers)) == len(one.numbers) > 1]
    counting = [one for one in whole if _counts(one.numbers)]
    for one in counting[1:]:
        if not _same_order(one.numbers, counting[0].numbers):
            raise ValueError(
                f"{path}: {counting[0].title!r} and {one.title!r} number the classes in different orders. Keep the "
                "one that the label files follow."
            )
    if not counting:
        for title, cells in usual:
            for cell, entry in zip(cells, entries, strict=True):
                if _whole(cell) is None:
                    raise ValueError(
                        f"{path}, {entry.place}: the number of a class is {cell!r}, below {title!r}."
                    )
    return next(iter(counting or whole), None)


def _sorted_by(found: _Numbers | None, entries: list[Entry], path: str) -> list[Entry]:
    """The entries in the order of their numbers, which count from 0 or 1."""
    if found is None:
        return entries
    hint = f" The numbers stand below {found.title!r}: correct them, or take them away if they number no classes."
    numbered = zip(found.numbers, entries, strict=True)
    return _in_order([(number, ";".join(one.names), one.place) for number, one in numbered], path, hint)


def _whole(cell: Any) -> int | None:
    """A whole number, also as text and as spreadsheets write it ("3.0"); None for anything else."""
    if isinstance(cell, bool) or not isinstance(cell, int | float | str):
        return None
    text = str(cell).strip()
    return int(text.partition(".")[0]) if re.fullmatch(r"-?\d+(\.0+)?", text) else None


def _counts(numbers: list[int]) -> bool:
    """Whether numbers, in any order, count from 0 or 1 without gaps."""
    if not numbers or min(numbers) not in (0, 1) or len(set(numbers)) < len(numbers):
        return False
    return max(numbers) - min(numbers) + 1 == len(numbers)


def _same_order(a: list[int], b: list[int]) -> bool:
    return [number - min(a) for number in a] == [number - min(b) for number in b]


def _plain(title: str) -> str:
    """A title in lower case, without what separates words ("train_id", "trainId")."""
    return re.sub(r"[\s_.-]", "", title.lower())


def _load_json(text: str, path: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}.") from error


def _load_yaml(text: str, path: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}.") from error


def _from_data(data: Any, path: str) -> list[Entry]:
    """Classes in what JSON or YAML holds: a list, names by number, or either under a usual name."""
    if isinstance(data, Mapping):
        named = next((data[key] for key in _LISTS if isinstance(data.get(key), list | Mapping)), None)
        if named is not None:
            return _from_data(named, path)
        if data and all(str(key).isdecimal() for key in data):
            return _in_order(
                [(int(key), _text(name, path, key), f"key {key}") for key, name in data.items()], path
            )
        if data and all(str(value).isdecimal() for value in data.values()):
            return _in_order([(int(value), str(key), f"key {key}") for key, value in data.items()], path)
    if not isinstance(data, list):
        raise ValueError(
            f"{path} holds no list of class names, nor one under {', '.join(_LISTS)}, nor names by number. {_FORM}."
        )
    found = []
    for n, one in enumerate(data, 1):
        one = one.get("name") if isinstance(one, Mapping) else one
        names = one if isinstance(one, list) else [one]
        found.append(Entry([_text(name, path, n) for name in names], f"entry {n}"))
    if not data or not all(isinstance(one, Mapping) for one in data):
        return found
    keys = dict.fromkeys(key for one in data for key, value in one.items() if _whole(value) is not None)
    keys.pop("name", None)
    numbers = _number_column([(str(key), [one.get(key) for one in data]) for key in keys], found, path)
    if numbers is None:
        return found
    if numbers.title != "id" or min(numbers.numbers) < 0 or len(set(numbers.numbers)) < len(data):
        _sorted_by(numbers, found, path)  # for its errors; COCO's ids alone may have gaps
    return [one for _, one in sorted(zip(numbers.numbers, found, strict=True), key=lambda pair: pair[0])]


def _text(name: Any, path: str, place: Any) -> str:
    if not isinstance(name, str):
        hint = " Put it in quotes." if isinstance(name, bool | int | float) else ""
        raise ValueError(f"{path}, entry {place}: a class name must be text. Got {name!r}.{hint}")
    return name
