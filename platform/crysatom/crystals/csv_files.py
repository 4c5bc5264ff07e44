"""CSV that spreadsheets do not run: text which they would take for a formula gets an apostrophe before it.

After OWASP's "CSV injection": a formula begins with ``=``, ``+``, ``-`` or ``@``, in full width, too, or behind white
space that an import strips. Numbers stay numbers. An apostrophe that was there can be told from ours
(:func:`as_it_was`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from crysatom.names import MATERIAL_ID
from crysatom.writing import write_text

_FORMULA = re.compile(r"'*(\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n])")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_QUOTED = re.compile(r'[",;|\t\r\n]')
"""Also what separates cells for other programs: ``a;=1`` would be two."""


def harmless(text: str) -> str:
    """Return a text as a cell of CSV holds it; behind apostrophes that were there comes one more."""
    return f"'{text}" if _is_formula(text) else text


def as_it_was(cell: str) -> str:
    """Return the text that :func:`harmless` made a cell of."""
    return cell[1:] if cell.startswith("'") and _is_formula(cell[1:]) else cell


def _is_formula(text: str) -> bool:
    return _FORMULA.match(text) is not None and _NUMBER.fullmatch(text) is None


def csv_line(cells: Iterable[object]) -> str:
    """Return a row: numbers in full precision, None as nothing, text harmless and in quotes where it needs them."""
    return ",".join(map(_cell, cells)) + "\n"


def _cell(value: object) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        return str(value)
    text = harmless(value)
    return '"{}"'.format(text.replace('"', '""')) if _QUOTED.search(text) else text


def csv_rows(rows: Sequence[Mapping[str, object]]) -> str:
    """Return a table of at least one row, all of the same keys, which are the header."""
    return "".join(map(csv_line, (rows[0], *(row.values() for row in rows))))


def csv_text(frame: pd.DataFrame) -> str:
    """Return a table without its index; what is missing is empty."""
    columns = [_values(frame.iloc[:, k]) for k in range(frame.shape[1])]
    return "".join(map(csv_line, (list(frame.columns), *zip(*columns, strict=True))))


def _values(column: pd.Series) -> Iterator[object]:
    for value, is_missing in zip(column.to_numpy(), column.isna(), strict=True):
        yield None if is_missing else value


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a table without its index, atomically."""
    write_text(path, csv_text(frame))


def read_written(path: Path) -> pd.DataFrame:
    """Read a table whose ids, if it has some, are the text that was written: ``NA`` and ``007``, too.

    Raises:
        ValueError: If it is no table.

    """
    missing = {name: ["", "nan"] for name in pd.read_csv(path, nrows=0).columns if name != MATERIAL_ID}
    frame = pd.read_csv(path, dtype={MATERIAL_ID: str}, keep_default_na=False, na_values=missing)
    ids = {MATERIAL_ID: frame[MATERIAL_ID].map(as_it_was)} if MATERIAL_ID in frame else {}
    return frame.assign(**ids)
