"""Parse text tables of people and spreadsheets into typed columns.

Nothing is guessed: numbers have one grammar, missing values one list of words, and anything else stays text.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from crysatom.config.files import require_regular
from crysatom.crystals.quarantine import short

_WORDS = {"na", "n/a", "n.a.", "#n/a", "#na", "<na>", "nan", "none", "null", "nil", "missing"}
_SIGNS = {"", "-", "--", "---", "\N{EN DASH}", "\N{EM DASH}", ".", "?"}
MISSING = frozenset(_WORDS | _SIGNS)
"""Words for a missing value in a column of numbers or of true and false, in any letter case."""

_LONGEST = max(map(len, MISSING))

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}
"""Supported separators and their names."""

_REFUSED_SEPARATORS = {"|": "vertical bars", " ": "spaces"}
_EXCEL = "sep="
"""Prefix of the line in which Excel stores the separator."""

_TRUTH = {"true": True, "false": False}
_NUMBER = re.compile(r"[+-]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_DECIMAL_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")

Kind = Literal["numbers", "true or false", "text", "empty"]
Line = tuple[int, list[str]]


@dataclass(frozen=True, kw_only=True)
class TextTable:
    """Non-empty lines of a file: the number of each, from 1, and its stripped cells."""

    separator: str
    lines: list[Line]


@dataclass(frozen=True, kw_only=True)
class Column:
    """Typed column.

    Attributes:
        cells: Original cells.
        kind: Kind of the values.
        values: Numbers, booleans or text; None for a missing value.
        missing: Positions of the cells with a word for a missing value.
        odd: Positions of the cells because of which a column with numbers stays text.

    """

    cells: Sequence[str]
    kind: Kind
    values: list[Any]
    missing: list[int]
    odd: list[int]


def read_text_table(path: Path, known: Collection[str]) -> TextTable:
    """Read a comma-separated file; semicolons or tabs are used if only they give known ids.

    Args:
        path: The file, in UTF-8.
        known: Ids that may be in the first column.

    Raises:
        ValueError: If it cannot be read, is not such a text, has an unclosed quotation mark, or has another separator.

    """
    text = _text(path)
    by_comma = _split(path, text, ",")
    if any(cells[0] in known for _, cells in by_comma):
        return TextTable(separator=",", lines=by_comma)
    for separator in (*SEPARATORS, *_REFUSED_SEPARATORS):
        if separator not in text:
            continue
        lines = _split(path, text, separator)
        if any(cells[0] in known and len(cells) > 1 for _, cells in lines):
            if separator in SEPARATORS:
                return TextTable(separator=separator, lines=lines)
            how = _REFUSED_SEPARATORS[separator]
            raise ValueError(f"{path}: the cells are separated by {how}; commas are expected: save it as CSV")
    return TextTable(separator=",", lines=by_comma)


def _text(path: Path) -> str:
    try:
        require_regular(path)
        with path.open(newline="", encoding="utf-8-sig") as stream:
            return stream.read()
    except OSError as error:
        raise ValueError(f"{path}: the file cannot be read ({error.strerror}); restore it, or remove it") from error
    except UnicodeDecodeError as error:
        raise _no_table(path, error) from error


def _split(path: Path, text: str, separator: str) -> list[Line]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except csv.Error as error:
        raise _no_table(path, f"line {reader.line_num}: {error}") from error
    return [(line, cells) for line, cells in rows if any(cells) and not (line == 1 and cells[0].startswith(_EXCEL))]


def _no_table(path: Path, why: object) -> ValueError:
    return ValueError(f"{path}: not a text file of comma-separated values ({why}); save it as CSV in UTF-8")


def require_distinct(names: Iterable[str]) -> None:
    """Check that no two columns have the same name.

    Raises:
        ValueError: With the repeated names.

    """
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"several columns are called {short(', '.join(map(repr, twice)))}; rename all but one of them")


def number(cell: str) -> float | None:
    """Return the value of a plain decimal number; None for anything else.

    Allowed are ASCII digits, a point, and an exponent with ``e``: no underscores, commas, units, infinity or leading
    zeros, and no whole number that a float cannot represent.
    """
    if not _NUMBER.fullmatch(cell):
        return None
    value = float(cell)
    whole = cell.lstrip("+-").isdigit()
    return value if math.isfinite(value) and (not whole or int(cell) == int(value)) else None


def is_missing(cell: str) -> bool:
    """Return whether a cell is a missing value in a column of numbers."""
    return len(cell) <= _LONGEST and cell.lower() in MISSING


def typed(cells: Sequence[str]) -> Column:
    """Return a column of numbers or of true and false, if all cells except missing ones are such, else of text.

    In text, only an empty cell is missing: ``Na`` and ``None`` are text.
    """
    given = [i for i, cell in enumerate(cells) if not is_missing(cell)]
    missing = [i for i, cell in enumerate(cells) if is_missing(cell)]
    numbers = {i: number(cells[i]) for i in given}
    if given and None not in numbers.values():
        return Column(
            cells=cells, kind="numbers", values=[numbers.get(i) for i in range(len(cells))], missing=missing, odd=[]
        )
    if given and all(cells[i].lower() in _TRUTH for i in given):
        values = [_TRUTH.get(cell.lower()) for cell in cells]
        return Column(cells=cells, kind="true or false", values=values, missing=missing, odd=[])
    empty = [i for i, cell in enumerate(cells) if not cell]
    meant = [i for i in given if numbers[i] is not None or _DECIMAL_COMMA.fullmatch(cells[i])]
    odd = [i for i in given if numbers[i] is None] if meant else []
    kind: Kind = "text" if len(empty) < len(cells) else "empty"
    return Column(cells=cells, kind=kind, values=[cell or None for cell in cells], missing=empty, odd=odd)


def describe_missing(name: str, column: Column, lines: Sequence[int]) -> str:
    """Return a sentence on the missing values of a column.

    Args:
        name: Name of the column.
        column: Column with missing values.
        lines: Line of each cell in the file.

    """
    first = [f"{column.cells[i]!r} in line {lines[i]}" for i in column.missing[:3]]
    more = ", ..." if len(column.missing) > len(first) else ""
    share = f"{len(column.missing):,} of {len(lines):,} rows"
    return f"column {short(name)} has no value in {share} ({', '.join(first)}{more})"


def describe_odd(name: str, column: Column, lines: Sequence[int]) -> str:
    """Return a sentence on why a column with numbers stays text; arguments as in :func:`describe_missing`."""
    cell, line = column.cells[column.odd[0]], lines[column.odd[0]]
    hint = "; decimal commas are not read, write points" if _DECIMAL_COMMA.fullmatch(cell) else ""
    return (
        f"column {short(name)} is kept as text, since {len(column.odd):,} of its {len(lines):,} values are no plain "
        f"numbers, the first is {short(cell)!r} in line {line}{hint}"
    )
