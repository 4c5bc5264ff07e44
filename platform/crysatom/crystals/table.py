"""Crystal table: the common Arrow schema of all sources, and reading and writing it as Parquet."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from crysatom.crystals.formula import reduced_formula
from crysatom.crystals.plain_columns import require_plain
from crysatom.crystals.quarantine import short
from crysatom.names import ATOMIC_NUMBERS, FORMULA, FRAC_COORDS, LATTICE, MATERIAL_ID, PROPERTIES
from crysatom.writing import replaced

STRUCTURE_FIELDS: tuple[pa.Field, ...] = (
    pa.field(MATERIAL_ID, pa.string(), nullable=False),
    pa.field(
        LATTICE,
        pa.list_(pa.float64()),
        nullable=False,
        metadata={"unit": "angstrom", "layout": "3x3 row-major, rows a b c"},
    ),
    pa.field(
        FRAC_COORDS,
        pa.list_(pa.float64()),
        nullable=False,
        metadata={"unit": "fractional", "layout": "N x 3 row-major"},
    ),
    pa.field(ATOMIC_NUMBERS, pa.list_(pa.uint8()), nullable=False),
    pa.field(FORMULA, pa.string(), nullable=False),
)
"""The structure columns, in file order; property and split columns follow them."""

STRUCTURE_COLUMNS = tuple(f.name for f in STRUCTURE_FIELDS)
REQUIRED_COLUMNS = (MATERIAL_ID, LATTICE, FRAC_COORDS, ATOMIC_NUMBERS)
GRAPH_COLUMNS = REQUIRED_COLUMNS
"""Columns from which a crystal graph is made."""

ROW_GROUP_CRYSTALS = 4096
"""Crystals in a row group: some megabytes, which a streaming reader holds at a time."""


@dataclass(frozen=True, kw_only=True)
class Crystal:
    """Periodic crystal.

    Attributes:
        material_id: Identifier, unique within a table.
        lattice: ``(3, 3)`` float64, rows a, b, c in angstrom.
        frac_coords: ``(N, 3)`` float64, fractional, not necessarily wrapped to [0, 1).
        atomic_numbers: ``(N,)`` uint8.
        properties: Values of further columns, by column name.
        notes: Decisions, omissions and rounding of its reader; not part of a table.

    """

    material_id: str
    lattice: np.ndarray
    frac_coords: np.ndarray
    atomic_numbers: np.ndarray
    properties: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Structures:
    """B crystals with N atoms in all, in flat arrays.

    Attributes:
        material_ids: B ids.
        lattices: ``(B, 3, 3)`` float64, rows a, b, c in angstrom.
        frac_coords: ``(N, 3)`` float64, fractional, not necessarily wrapped to [0, 1).
        atomic_numbers: ``(N,)`` integers; NaN where one is missing.
        atom_ptr: ``(B + 1,)`` int64, first atom of each crystal.

    """

    material_ids: list[str]
    lattices: np.ndarray
    frac_coords: np.ndarray
    atomic_numbers: np.ndarray
    atom_ptr: np.ndarray

    def atoms(self, k: int) -> slice:
        """Return where the atoms of crystal ``k`` are."""
        return slice(self.atom_ptr[k], self.atom_ptr[k + 1])


def property_field(name: str, dtype: pa.DataType) -> pa.Field:
    """Return the field of a property column, with its unit if the vocabulary has it."""
    known = PROPERTIES.get(name)
    return pa.field(name, dtype, metadata={"unit": known.unit} if known else None)


def to_table(crystals: Iterable[Crystal], fields: Sequence[pa.Field] | None = None) -> pa.Table:
    """Return crystals as a table.

    Args:
        crystals: Crystals that passed the checks.
        fields: Fields of the property columns; None: all that occur, with types inferred by Arrow.

    """
    rows = list(crystals)
    columns: dict[str, Any] = {
        MATERIAL_ID: [c.material_id for c in rows],
        LATTICE: [c.lattice.ravel() for c in rows],
        FRAC_COORDS: [c.frac_coords.ravel() for c in rows],
        ATOMIC_NUMBERS: [c.atomic_numbers for c in rows],
        FORMULA: [reduced_formula(c.atomic_numbers) for c in rows],
    }
    arrays = [pa.array(columns[f.name], type=f.type) for f in STRUCTURE_FIELDS]
    if fields is None:
        names = dict.fromkeys(name for c in rows for name in c.properties)
        inferred = {name: pa.array([c.properties.get(name) for c in rows]) for name in names}
        fields = [property_field(name, array.type) for name, array in inferred.items()]
    arrays += [pa.array([c.properties.get(f.name) for c in rows], type=f.type) for f in fields]
    return pa.Table.from_arrays(arrays, schema=pa.schema([*STRUCTURE_FIELDS, *fields]))


def open_columns(path: str | Path) -> pq.ParquetFile:
    """Open a Parquet file and verify that its columns have distinct names and hold no objects.

    Raises:
        ValueError: If the file is missing, is not a Parquet file, holds objects or has a name twice; says which.

    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file")
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        cause = short(error, 300)
        raise ValueError(f"{path}: not a Parquet file, or a truncated one ({cause}); write it again") from error
    require_plain(file.schema_arrow, path)
    names = file.schema_arrow.names
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(
            f"{path}: several columns are called {', '.join(map(repr, twice))}; rename all but one of them"
        )
    return file


def open_table(path: str | Path) -> pq.ParquetFile:
    """Open a crystal table and verify its columns.

    Raises:
        ValueError: If the file is missing, is not a Parquet file, holds objects or lacks a column; says which.

    """
    file = open_columns(path)
    missing = [name for name in REQUIRED_COLUMNS if name not in file.schema_arrow.names]
    if missing:
        raise ValueError(
            f"{path}: not a crystal table, it lacks {', '.join(missing)}; a crystal table has the columns "
            f"{', '.join(REQUIRED_COLUMNS)} (lattice: 9 numbers, rows a b c in angstrom; frac_coords: 3 per atom)"
        )
    if pa.types.is_binary(file.schema_arrow.field(MATERIAL_ID).type):
        raise ValueError(f"{path}: column {MATERIAL_ID} holds bytes, not text; write it again as text")
    for name in (LATTICE, FRAC_COORDS, ATOMIC_NUMBERS):
        dtype = file.schema_arrow.field(name).type
        if not is_number_list(dtype):
            raise ValueError(f"{path}: column {name} has type {dtype}; it must be a list of numbers per crystal")
    return file


def is_number_list(dtype: pa.DataType) -> bool:
    """Return whether a column of this type holds a flat list of numbers per crystal."""
    is_list = pa.types.is_list(dtype) or pa.types.is_large_list(dtype) or pa.types.is_fixed_size_list(dtype)
    return bool(is_list) and bool(pa.types.is_integer(dtype.value_type) or pa.types.is_floating(dtype.value_type))


def read_table(path: str | Path) -> pa.Table:
    """Read a whole crystal table; structure columns come first and have the types of the contract.

    Further columns keep their type and metadata. Ids need not be unique here: ``jobs/ingest.py`` with this file as its
    source removes duplicates.

    Raises:
        ValueError: If it is no crystal table or a row is malformed; names the row.

    """
    file = open_table(path)
    with readable(path):
        return _conform(file.read(), str(path))


def iter_crystal_batches(
    path: str | Path, *, batch_size: int = 1024, columns: Sequence[str] = GRAPH_COLUMNS
) -> Iterator[pa.RecordBatch]:
    """Yield a crystal table in record batches, in file order, holding one row group at a time.

    Args:
        path: Crystal table (.parquet).
        batch_size: Crystals in a batch, at most.
        columns: Columns to read; structure columns have the types of the contract.

    Raises:
        ValueError: If it is no crystal table or a row is malformed; names the row.

    """
    file = open_table(path)
    read = [name for name in columns if name in file.schema_arrow.names]
    batches = file.iter_batches(batch_size=batch_size, columns=list(dict.fromkeys([*read, *REQUIRED_COLUMNS])))
    while True:
        try:
            batch = next(batches, None)
            if batch is None:
                return
            table = _conform(pa.Table.from_batches([batch]), str(path)).select(list(columns))
        except _BROKEN as error:
            raise _damaged(path, error) from error
        yield from table.combine_chunks().to_batches()


_BROKEN = (pa.ArrowException, OSError, UnicodeDecodeError, TypeError, OverflowError, KeyError)


@contextmanager
def readable(path: str | Path) -> Iterator[None]:
    """Raise a one-line error with the name of the table if reading it in the block fails.

    Raises:
        ValueError: If the table is damaged.

    """
    try:
        yield
    except _BROKEN as error:
        raise _damaged(path, error) from error


def _damaged(path: str | Path, error: Exception) -> ValueError:
    return ValueError(f"{path}: the table cannot be read ({short(error, 300)}); write it again from its source")


def write_table(data: pa.Table | Iterable[pa.Table], path: str | Path, schema: pa.Schema | None = None) -> int:
    """Write a table, whole or in pieces, as zstd-compressed Parquet; the write is atomic.

    Args:
        data: A table, or an iterable of consecutive tables, which needs ``schema``.
        path: File to write or replace.
        schema: Schema of the pieces.

    Returns:
        Number of rows written.

    """
    path = Path(path)
    pieces = [data] if isinstance(data, pa.Table) else data
    if schema is None:
        assert isinstance(data, pa.Table), "pieces need a schema"
        schema = data.schema
    rows = 0
    with table_writer(path, schema) as writer:
        for piece in pieces:
            rows += piece.num_rows
            writer.write_table(piece, row_group_size=ROW_GROUP_CRYSTALS)
    return rows


@contextmanager
def table_writer(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetWriter]:
    """Yield a writer of zstd-compressed Parquet; its file replaces ``path`` at exit without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as partial, pq.ParquetWriter(partial, schema, compression="zstd") as writer:
        yield writer


def _conform(table: pa.Table, where: str) -> pa.Table:
    """Return the table with the structure columns of the contract, in their order, before all others."""
    table.validate(full=True)  # else invalid UTF-8 would raise later, without the name of the file
    _require_lengths(table, where)
    if FORMULA not in table.schema.names:
        formulas = [reduced_formula(np.asarray(z)) for z in table[ATOMIC_NUMBERS].to_pylist()]
        table = table.append_column(FORMULA, pa.array(formulas, pa.string()))
    columns = [_cast(table[f.name], f, where) for f in STRUCTURE_FIELDS]
    further = [f for f in table.schema if f.name not in STRUCTURE_COLUMNS]
    columns += [table[f.name] for f in further]
    return pa.Table.from_arrays(columns, schema=pa.schema([*STRUCTURE_FIELDS, *further]))


def _cast(column: pa.ChunkedArray, wanted: pa.Field, where: str) -> pa.ChunkedArray:
    if column.null_count:
        raise ValueError(
            f"{where}: column {wanted.name} is null in {column.null_count} rows; run jobs/ingest.py on it "
            "to take them out"
        )
    try:
        return column.cast(wanted.type)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{where}: column {wanted.name} cannot become {wanted.type}: {error}") from error


def _require_lengths(table: pa.Table, where: str) -> None:
    """Raise if a lattice does not have 9 numbers, or coordinates are not 3 per atom."""
    lattice, coords, atoms = (pc.list_value_length(table[n]).to_numpy() for n in (LATTICE, FRAC_COORDS, ATOMIC_NUMBERS))
    bad = np.flatnonzero((lattice != 9) | (coords != 3 * atoms) | (atoms == 0))
    if len(bad):
        row = int(bad[0])
        raise ValueError(
            f"{where}: crystal {table[MATERIAL_ID][row].as_py()!r} has {lattice[row]} lattice numbers (9 needed), "
            f"{coords[row]} coordinates and {atoms[row]} atoms (3 coordinates per atom needed), and "
            f"{len(bad) - 1} more are like it; "
            "run jobs/ingest.py on the file to take them out"
        )
