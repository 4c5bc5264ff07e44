"""``id_prop.csv``, the list of materials and properties of a CGCNN data folder."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crysatom.crystals.quarantine import short
from crysatom.crystals.text_table import (
    SEPARATORS,
    Column,
    Line,
    describe_missing,
    describe_odd,
    is_missing,
    number,
    read_text_table,
    require_distinct,
    typed,
)

logger = logging.getLogger(__name__)

ID_PROP = "id_prop.csv"

_ID_NAME = re.compile(
    r"(?:cif|materials?|mp|j|u|mat|structure|crystal|compound|sample|entry|task|icsd|cod|oqmd)?ids?"
    r"|(?:file|cif|structure|crystal|compound|material|sample)(?:s|names?|files?)?"
    r"|names?|formula|entry|identifier|key|label|title|code|refcode|index|unnamed0"
)
"""Possible first cell of a header, without letter case, spaces and punctuation."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Row: its line in the file (from 1), the id, and the values of the columns after it.

    Values are typed if the id is known; otherwise there are none.
    """

    line: int
    material_id: str
    properties: dict[str, Any]


def read_id_prop(path: Path, known: Collection[str]) -> list[Row]:
    """Return the rows of the file, and log how it was read.

    The first row is a header if its first cell names no file but is like ``id``, ``cif_id`` or ``name``, and its other
    cells are not all numbers; or if its first cell is empty, as pandas writes it, and words are above numbers. Without
    a header, the columns are called ``target``, ``target_2``, and so on.

    Args:
        path: The file.
        known: Names that ids may refer to.

    Raises:
        ValueError: If the file is empty or not text, rows differ in length, two columns have the same name, or it is
            unclear whether the first row is a header.

    """
    table = read_text_table(path, known)
    if not table.lines:
        raise ValueError(
            f"{path}: the file is empty; give it a row 'id,value' for each CIF, or remove it to read all files"
        )
    _require_equal_lengths(path, table.lines)
    has_header = _has_header(path, table.lines, known)
    lines = table.lines[has_header:]
    names = _names(path, table.lines[0][1], lines) if has_header else _default_names(len(table.lines[0][1]) - 1)
    found = [(line, cells) for line, cells in lines if cells[0] in known]
    columns = {name: typed([cells[i] for _, cells in found]) for i, name in enumerate(names, start=1) if name}
    how = f"header in line {table.lines[0][0]}" if has_header else "no header"
    _log_columns(path, f"separated by {SEPARATORS[table.separator]}, {how}", columns, [line for line, _ in found])
    values = {line: {name: c.values[i] for name, c in columns.items()} for i, (line, _) in enumerate(found)}
    return [Row(line=line, material_id=cells[0], properties=values.get(line, {})) for line, cells in lines]


def _log_columns(path: Path, how: str, columns: dict[str, Column], lines: list[int]) -> None:
    kinds = ", ".join(f"{short(name)} ({column.kind})" for name, column in columns.items()) or "none"
    logger.info("%s: %s; columns: %s", path, how, short(kinds, 1000))
    for name, column in columns.items():
        if column.missing:
            logger.info("%s: %s", path, describe_missing(name, column, lines))
        if column.odd:
            logger.warning("%s: %s", path, describe_odd(name, column, lines))


def _require_equal_lengths(path: Path, lines: list[Line]) -> None:
    expected = len(lines[0][1])
    for line, cells in lines:
        if len(cells) != expected:
            raise ValueError(
                f"{path}:{line}: {len(cells)} cells where the first row has {expected}; correct the row, and put text "
                "that holds commas in quotation marks"
            )


def _has_header(path: Path, lines: list[Line], known: Collection[str]) -> bool:
    number_of_line, (first, *further) = lines[0]
    if first in known:
        return False
    if _ID_NAME.fullmatch(_plain(first)):
        return not further or not all(number(cell) is not None for cell in further)
    over_numbers = all(map(_may_be_name, further)) and any(
        typed([cells[i] for _, cells in lines[1:]]).kind == "numbers" for i in range(1, 1 + len(further))
    )
    if over_numbers and first:
        raise ValueError(
            f"{path}:{number_of_line}: {short(first)!r} names no file, and words stand over numbers; if the line is a "
            "header, call its first column id; if it is a row, add its file, or remove it"
        )
    return over_numbers


def _plain(name: str) -> str:
    return re.sub(r"[\W_]+", "", name).lower()


def _may_be_name(cell: str) -> bool:
    return not is_missing(cell) and re.match(r"[^\W\d]", cell) is not None


def _default_names(count: int) -> list[str]:
    return ["target", *(f"target_{i}" for i in range(2, count + 1))][:count]


def _names(path: Path, header: list[str], lines: list[Line]) -> list[str]:
    """Return the names of the columns; empty for a column with neither name nor values.

    Raises:
        ValueError: If two have the same name, or one with values has none.

    """
    names = header[1:]
    try:
        require_distinct(filter(None, names))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    for i, name in enumerate(names, start=1):
        if not name and any(cells[i] for _, cells in lines):
            raise ValueError(f"{path}: column {i + 1} has values but no name; name it, or remove it")
        if not name:
            logger.info("%s: column %d is empty and has no name; it is left out", path, i + 1)
    return names
