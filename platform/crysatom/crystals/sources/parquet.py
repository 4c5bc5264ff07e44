"""Crystal table as a source: its rows are checked like any other input."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from crysatom.config.groups import MOST_ATOMS
from crysatom.crystals.derived_columns import is_computed
from crysatom.crystals.quarantine import Reason, Rejected, short
from crysatom.crystals.record import Record, pack_arrays
from crysatom.crystals.sources.base import ID_KEYS, Source, rejected
from crysatom.crystals.sources.json_tables import STRUCTURE_KEYS
from crysatom.crystals.sources.records import FEW, to_raw
from crysatom.crystals.table import STRUCTURE_COLUMNS, open_columns, open_table
from crysatom.names import ATOMIC_NUMBERS, FORMULA, FRAC_COORDS, LATTICE, MATERIAL_ID

_BROKEN = (pa.ArrowException, OSError, UnicodeDecodeError)

_EXACT_DIGITS = 15
"""Decimals with at most this many digits become floats without loss; longer ones stay text."""

LEAST_ROW_BYTES = 4
"""Minimum average size of a row, however well compressed: ids differ between rows. JARVIS has 173."""

_TEXTS = 16
"""Rows held in memory at a time, each with a CIF of up to 5 MB."""


def open_parquet(path: str) -> Source:
    """Open a crystal table; columns other than those of the structure are properties, with their types and units.

    Columns that ingest computed are left out and computed again. A table without cells and coordinates may have a
    column of CIFs instead (:data:`crysatom.crystals.sources.json_tables.STRUCTURE_KEYS`).

    Raises:
        ValueError: If it is not a Parquet file, lacks a structure column, or has more rows than its size allows.

    """
    columns = open_columns(path)
    _require_few_rows(columns.metadata.num_rows, path)
    if texts := _column_of_texts(columns.schema_arrow):
        return _open_texts(columns, path, texts)
    file = open_table(path)
    fields = tuple(f for f in file.schema_arrow if f.name not in STRUCTURE_COLUMNS and not is_computed(f))
    return Source(
        name=path,
        records=partial(_records, file, path),
        total=file.metadata.num_rows,
        fields=tuple(map(_storable, fields)),
    )


def _require_few_rows(rows: int, path: str) -> None:
    num_bytes = Path(path).stat().st_size
    if rows > FEW + num_bytes // LEAST_ROW_BYTES:
        raise ValueError(
            f"{path}: holds no crystals: there are {rows:,} rows in {num_bytes:,} bytes, and a row takes "
            f"{LEAST_ROW_BYTES} or more; give the file that holds the crystals"
        )


def _column_of_texts(schema: pa.Schema) -> str | None:
    """Return the column of CIFs of a table that is not a crystal table; None if it is one, or has no such column."""
    if {LATTICE, FRAC_COORDS, ATOMIC_NUMBERS} <= set(schema.names):
        return None
    texts = [f.name for f in schema if pa.types.is_string(f.type) or pa.types.is_large_string(f.type)]
    return next((key for key in STRUCTURE_KEYS if key in texts), None)


def _open_texts(file: pq.ParquetFile, path: str, texts: str) -> Source:
    key = next((key for key in ID_KEYS if key in file.schema_arrow.names), None)
    fields = tuple(_storable(f) for f in file.schema_arrow if f.name not in {texts, key} and not is_computed(f))
    return Source(name=path, records=partial(_texts, file, path, key), total=file.metadata.num_rows, fields=fields)


def _texts(file: pq.ParquetFile, path: str, key: str | None) -> Iterator[Record | Rejected]:
    """Yield the rows of a table with a column of CIFs, in the same way as JSON records."""
    names = [f.name for f in file.schema_arrow if not is_computed(f)]
    number = 0
    try:
        for batch in file.iter_batches(batch_size=_TEXTS, columns=names):
            for row in batch.to_pylist():
                where = f"{path}#{number}"
                values = {name: _cell(value) for name, value in row.items()}
                unnamed = key is not None and _is_empty(values[key])
                yield _no_id(number, where) if unnamed else to_raw(values, f"row-{number}", where)
                number += 1
    except _BROKEN as error:
        yield _rest_unread(error, number, path)


def _storable(field: pa.Field) -> pa.Field:
    """Return the field with a type that JSON preserves: numbers, booleans, text."""
    dtype = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    if pa.types.is_decimal(dtype) and dtype.precision <= _EXACT_DIGITS:
        return field.with_type(pa.float64()).with_nullable(True)
    kept = pa.types.is_integer(dtype) or pa.types.is_floating(dtype) or pa.types.is_boolean(dtype)
    return field.with_type(dtype if kept else pa.string()).with_nullable(True)


def _records(file: pq.ParquetFile, path: str) -> Iterator[Record | Rejected]:
    names = [f.name for f in file.schema_arrow if f.name != FORMULA and not is_computed(f)]
    number = 0
    try:
        for batch in file.iter_batches(batch_size=1024, columns=names):
            for piece in _pieces(batch):
                large = _lengths(piece[ATOMIC_NUMBERS]) > MOST_ATOMS
                if large.any():  # before its numbers become Python objects
                    yield _too_large(number, f"{path}#{number}")
                    number += 1
                    continue
                for row in piece.to_pylist():
                    yield _record(row, number, f"{path}#{number}")
                    number += 1
    except _BROKEN as error:
        yield _rest_unread(error, number, path)


def _rest_unread(error: Exception, number: int, path: str) -> Rejected:
    message = f"rows from here on cannot be read ({short(error)}); write the table again from its source"
    return rejected(Reason.UNREADABLE, message, material_id=f"row-{number}", source=f"{path}#{number}")


def _pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Cut a batch into pieces of not much more than :data:`MOST_ATOMS` atoms; too large crystals are separate."""
    lengths = np.maximum(0, np.maximum(_lengths(batch[ATOMIC_NUMBERS]), _lengths(batch[FRAC_COORDS]) // 3))
    start = atoms = 0
    for row, length in enumerate(lengths.tolist()):
        if row > start and atoms + length > MOST_ATOMS:
            yield batch.slice(start, row - start)
            start, atoms = row, 0
        atoms += length
    yield batch.slice(start)


def _lengths(column: pa.Array) -> np.ndarray:
    return np.asarray(pc.fill_null(pc.list_value_length(column).cast(pa.int64()), -1).to_numpy(zero_copy_only=False))


def _too_large(number: int, where: str) -> Rejected:
    message = f"the cell has more than {MOST_ATOMS} atoms, the most that --max-atoms can allow; use its primitive cell"
    return rejected(Reason.TOO_LARGE, message, material_id=f"row-{number}", source=where)


def _record(row: dict[str, Any], number: int, where: str) -> Record | Rejected:
    name = row.pop(MATERIAL_ID)
    if _is_empty(name):
        return _no_id(number, where)
    lattice, coords, numbers = (row.pop(column) or [] for column in (LATTICE, FRAC_COORDS, ATOMIC_NUMBERS))
    if len(lattice) != 9 or len(coords) != 3 * len(numbers):
        message = (
            f"{len(lattice)} lattice numbers (9 needed), {len(coords)} coordinates for {len(numbers)} atoms "
            "(3 per atom needed); "
            "write the row again from its source"
        )
        return rejected(Reason.UNREADABLE, message, material_id=str(name), source=where)
    content = pack_arrays(_floats(lattice), _floats(coords), _floats(numbers))
    properties = {key: _cell(value) for key, value in row.items()}
    return Record(material_id=str(name), source=where, format="arrays", content=content, properties=properties)


def _is_empty(name: Any) -> bool:
    return name is None or not str(name).strip()


def _no_id(number: int, where: str) -> Rejected:
    message = f"{MATERIAL_ID} is empty; give every row an id"
    return rejected(Reason.MISSING_ID, message, material_id=f"row-{number}", source=where)


def _floats(values: list[Any]) -> np.ndarray:
    return np.array(values, dtype=np.float64)


def _cell(value: Any) -> Any:
    """Return a value for JSON; a decimal becomes text, and a number again if its column is numeric."""
    return value if value is None or isinstance(value, bool | int | float) else str(value)
