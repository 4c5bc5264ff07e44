"""``id_prop.csv``, the list of materials and properties of a CGCNN data folder."""

from __future__ import annotations

import csv
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crysatom.config.files import require_regular

ID_PROP = "id_prop.csv"

_ID_NAMES = {"id", "ids", "material_id", "cif_id", "jid", "name", "cif", "file", "filename"}
_MISSING = {"", "na", "nan", "none", "null"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row: its line in the file (from 1), the id, and the values of the columns after it."""

    line: int
    material_id: str
    properties: dict[str, Any]


def read_id_prop(path: Path, known: Collection[str]) -> list[Row]:
    """Return the rows of the file.

    A first row whose id names no file and whose further cells are not numbers, or whose id is a usual
    heading, is a header; without one the columns are called ``target``, ``target_2``, and so on.

    Args:
        path: The file.
        known: Names that ids may refer to.

    Raises:
        ValueError: If the file is empty, is no text, or a row has more cells than there are columns.

    """
    try:
        require_regular(path)
        with path.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream)
            lines = [
                (reader.line_num, [cell.strip() for cell in cells])
                for cells in reader
                if any(cell.strip() for cell in cells)
            ]
    except OSError as error:
        raise ValueError(f"{path}: the file cannot be read ({error.strerror}); restore it, or remove it") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"{path}: not a text file of comma-separated values ({error}); save it as CSV in UTF-8"
        ) from error
    if not lines:
        raise ValueError(
            f"{path}: the file is empty; give it a row 'id,value' for each CIF, or remove it to read all files"
        )
    first = lines[0][1]
    has_header = _is_header(first, known)
    names = first[1:] if has_header else _default_names(max(len(cells) for _, cells in lines) - 1)
    return [_row(path, line, cells, names) for line, cells in lines[has_header:]]


def _is_header(cells: list[str], known: Collection[str]) -> bool:
    if cells[0] in known:
        return False
    values = [cell for cell in cells[1:] if cell.lower() not in _MISSING]
    return cells[0].lower() in _ID_NAMES or (bool(values) and all(_number(cell) is None for cell in values))


def _default_names(count: int) -> list[str]:
    return ["target", *(f"target_{i}" for i in range(2, count + 1))][:count]


def _row(path: Path, line: int, cells: list[str], names: list[str]) -> Row:
    if len(cells) - 1 > len(names):
        raise ValueError(f"{path}:{line}: {len(cells)} cells where the first row has {len(names) + 1}; correct the row")
    values = [_value(cell) for cell in cells[1:]]
    properties = dict(zip(names, values + [None] * (len(names) - len(values)), strict=True))
    return Row(line=line, material_id=cells[0], properties=properties)


def _value(cell: str) -> Any:
    if cell.lower() in _MISSING:
        return None
    number = _number(cell)
    return cell if number is None else number


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None
