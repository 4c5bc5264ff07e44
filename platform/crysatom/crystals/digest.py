"""Digest of a crystal table's content, independent of the file layout."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from crysatom.crystals.table import STRUCTURE_COLUMNS, iter_crystal_batches, open_table


def table_digest(source: pa.Table | str | Path, *, columns: Sequence[str] | None = None) -> str:
    """Return the hexadecimal SHA-256 of names, types and values of the columns, row by row.

    It is independent of compression, row groups, chunks and file metadata. Structure columns are read with the types of
    the contract, so it does not depend on float32 or float64, int16 or uint8 in the file either. A file is streamed.

    Args:
        source: Crystal table, as :func:`~crysatom.crystals.table.read_table` returns it, or its file.
        columns: Columns to digest; None: all. Order does not matter.

    """
    names = sorted(columns if columns is not None else _all_columns(source))
    hashers = {name: hashlib.sha256() for name in names}
    types: dict[str, str] = {}
    for batch in _batches(source, names):
        for name in names:
            types[name] = str(batch.column(name).type)
            for part in _content(batch.column(name)):
                hashers[name].update(part)
    columns_part = [(name, types.get(name, ""), hashers[name].hexdigest()) for name in names]
    return hashlib.sha256(json.dumps(columns_part).encode()).hexdigest()


def _all_columns(source: pa.Table | str | Path) -> list[str]:
    if isinstance(source, pa.Table):
        return list(source.schema.names)
    return list(dict.fromkeys([*STRUCTURE_COLUMNS, *open_table(source).schema_arrow.names]))


def _batches(source: pa.Table | str | Path, names: list[str]) -> Iterator[pa.RecordBatch]:
    if isinstance(source, pa.Table):
        yield from source.select(names).to_batches()
    else:
        yield from iter_crystal_batches(source, columns=names)


def _content(array: pa.Array) -> Iterator[bytes]:
    """Yield bytes such that equal rows give equal streams, however they are split into arrays."""
    for row_bytes in _rows(array):
        yield len(row_bytes).to_bytes(8, "little")
        yield row_bytes


def _rows(array: pa.Array) -> Iterator[bytes]:
    dtype = array.type
    if pa.types.is_list(dtype) and (pa.types.is_integer(dtype.value_type) or pa.types.is_floating(dtype.value_type)):
        values = np.ascontiguousarray(array.flatten().to_numpy(zero_copy_only=False))
        ends = np.cumsum(pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False))
        starts = np.concatenate([[0], ends[:-1]])
        valid = array.is_valid().to_pylist()
        for start, end, present in zip(starts.tolist(), ends.tolist(), valid, strict=True):
            yield values[start:end].tobytes() if present else b"null"
    else:
        for value in array.to_pylist():
            yield json.dumps(value, default=str).encode()
