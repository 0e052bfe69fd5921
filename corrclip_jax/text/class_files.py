"""Class files: lists of class names as labelling programs and training sets keep them.

Text with a class a line, also numbered ("0: cat", "1. cat", "0,cat") or as CVAT's label map ("cat:255,0,0::");
tables (.csv, .tsv) with a column of names; JSON and YAML with a list, or with names by number. What is none of
these is an error that says the line; it is never taken as a name.
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
    "class_name",
    "classname",
    "label",
    "labels",
    "category",
)
_NUMBER_COLUMNS = ("id", "index", "idx", "number", "label_id", "class_id", "category_id", "value")
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

    Where white space alone is between them, the numbers must count the lines and the names differ: "stage 1" and
    "stage 2" are names.

    Raises:
      ValueError: for numbers that do not count from 0 or 1.
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
        counted = numbers in (list(range(len(lines))), list(range(1, len(lines) + 1)))
        if pattern not in _SPACED or (len(lines) > 1 and counted and len(names) == len(lines)):
            return _in_order(found, path)
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


def _in_order(numbers: list[tuple[int, str, str]], path: str) -> list[Entry]:
    """Classes by their numbers, which count from 0 or 1."""
    ordered = sorted(numbers, key=lambda one: one[0])
    first = min(ordered[0][0], 1) if ordered else 0
    for expected, (number, name, place) in enumerate(ordered, first):
        if number != expected:
            raise ValueError(
                f"{path}, {place}: the class {name.strip()!r} has the number {number}, where {expected} was "
                "expected. Classes are numbered from 0 or 1 without gaps."
            )
    return [Entry(name.split(";"), place) for _, name, place in ordered]


def _separator(text: str) -> str:
    """What separates the columns of a .csv file: a comma, or a semicolon as in spreadsheets of many countries."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    first = [cell.strip(' "\ufeff').lower() for cell in lines[0].split(";")] if lines else []
    has_titles = len(first) > 1 and any(cell in (*_NAME_COLUMNS, *_NUMBER_COLUMNS) for cell in first)
    has_numbers = bool(lines) and all(re.match(r"\d+\s*;", line) for line in lines)
    return ";" if has_titles or has_numbers else ","


def _from_table(text: str, separator: str, path: str) -> list[Entry]:
    reader = csv.reader(text.splitlines(), delimiter=separator, skipinitialspace=True)
    rows = [([cell.strip() for cell in row], reader.line_num) for row in reader]
    rows = [(row, n) for row, n in rows if any(row) and not row[0].startswith("#")]
    if not rows:
        return []
    titles = [cell.lower().strip("\ufeff") for cell in rows[0][0]]
    column = next((titles.index(title) for title in _NAME_COLUMNS if title in titles), None)
    number = next((titles.index(title) for title in _NUMBER_COLUMNS if title in titles), None)
    if column is not None:
        rows = rows[1:]
    elif len(titles) == 1:
        column = 0
    elif len(titles) == 2 and all(len(row) == 2 and row[0].isdecimal() for row, _ in rows):
        number, column = 0, 1
    else:
        raise ValueError(
            f"{path}, line {rows[0][1]}: which column holds the class names? Give it the title 'name'. Its first "
            f"line is {separator.join(rows[0][0])[:80]!r}."
        )
    for row, n in rows:
        if len(row) <= max(column, number or 0):
            raise ValueError(
                f"{path}, line {n}: there is no column {max(column, number or 0) + 1} in {row!r:.80}."
            )
    if number is None or number == column:
        return [Entry(row[column].split(";"), f"line {n}") for row, n in rows]
    for row, n in rows:
        if not row[number].isdecimal():
            raise ValueError(f"{path}, line {n}: the number of a class is {row[number]!r}.")
    return _in_order([(int(row[number]), row[column], f"line {n}") for row, n in rows], path)


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
    if data and all(isinstance(one, Mapping) and "name" in one and "id" in one for one in data):
        data = sorted(data, key=lambda one: int(one["id"]))  # COCO's categories
    found = []
    for n, one in enumerate(data, 1):
        one = one.get("name") if isinstance(one, Mapping) else one
        names = one if isinstance(one, list) else [one]
        found.append(Entry([_text(name, path, n) for name in names], f"entry {n}"))
    return found


def _text(name: Any, path: str, place: Any) -> str:
    if not isinstance(name, str):
        hint = " Put it in quotes." if isinstance(name, bool | int | float) else ""
        raise ValueError(f"{path}, entry {place}: a class name must be text. Got {name!r}.{hint}")
    return name
