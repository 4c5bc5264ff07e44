"""CSV that spreadsheets do not execute: text that looks like a formula gets a leading apostrophe.

See OWASP's "CSV injection": a formula begins with ``=``, ``+``, ``-`` or ``@``, also in full width or after white space
that an import strips. Numbers stay numbers. An original apostrophe can be distinguished from an added one
(:func:`as_it_was`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from crysatom.names import MATERIAL_ID
from crysatom.writing import write_text

if TYPE_CHECKING:
    import pandas as pd

_FORMULA = re.compile(r"'*(\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n])")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_QUOTED = re.compile(r'[",;|\t\r\n]')
"""Includes separators of other programs, for which ``a;=1`` would be two cells."""


def harmless(text: str) -> str:
    """Escape a text for a CSV cell; original leading apostrophes get one more."""
    return f"'{text}" if _is_formula(text) else text


def as_it_was(cell: str) -> str:
    """Return the original text of a cell that :func:`harmless` made."""
    return cell[1:] if cell.startswith("'") and _is_formula(cell[1:]) else cell


def _is_formula(text: str) -> bool:
    return _FORMULA.match(text) is not None and _NUMBER.fullmatch(text) is None


def csv_line(cells: Iterable[object]) -> str:
    """Return a row: numbers in full precision, None as empty, text escaped and quoted if necessary."""
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
    """Return a table as CSV, without its index; missing values are empty."""
    columns = [_values(frame.iloc[:, k]) for k in range(frame.shape[1])]
    return "".join(map(csv_line, (list(frame.columns), *zip(*columns, strict=True))))


def _values(column: pd.Series) -> Iterator[object]:
    for value, is_missing in zip(column.to_numpy(), column.isna(), strict=True):
        yield None if is_missing else value


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a table without its index, atomically."""
    write_text(path, csv_text(frame))


def read_written(path: Path) -> pd.DataFrame:
    """Read a table that :func:`write_csv` wrote; ids stay text, such as ``NA`` and ``007``.

    Raises:
        ValueError: If it is not a table.

    """
    import pandas as pd  # a loop that only writes vectors need not wait for it

    missing = {name: ["", "nan"] for name in pd.read_csv(path, nrows=0).columns if name != MATERIAL_ID}
    frame = pd.read_csv(path, dtype={MATERIAL_ID: str}, keep_default_na=False, na_values=missing)
    ids = {MATERIAL_ID: frame[MATERIAL_ID].map(as_it_was)} if MATERIAL_ID in frame else {}
    return frame.assign(**ids)
