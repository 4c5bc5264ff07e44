"""Arrangements of records in a JSON document: lists, dictionaries, and tables of pandas."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from crysatom.crystals.quarantine import short
from crysatom.crystals.text_table import require_distinct

STRUCTURE_KEYS = ("structure", "atoms", "snl", "cif", "cif_string", "cif_str", "poscar")
"""Keys of a record that may hold its structure, in order of preference."""

_OF_STRUCTURES = {"lattice", "lattice_mat", "sites", "coords", "@module", "@class"}
"""Any of these keys distinguishes a structure from a column of structures."""

Entries = list[tuple[str, Any]]


def entries(document: Any, stem: str) -> Entries | None:
    """Return the (id, record) pairs of a document; None if its arrangement is unknown.

    Args:
        document: Content of the file.
        stem: Prefix of generated ids for records without an id.

    Raises:
        ValueError: If it is a table with repeated columns, or with rows or columns of unequal length.

    """
    if isinstance(document, list):
        return _numbered(document, stem)
    if not isinstance(document, dict):
        return None
    if isinstance(document.get("data"), list) and {"columns", "schema"} & document.keys():
        return _split(document, stem) if "columns" in document else _with_schema(document, stem)
    key = structure_key(document)
    if key is not None and not _OF_STRUCTURES & document.keys() and _is_column(document[key]):
        return _columns(document, key, stem)
    if key is not None or _OF_STRUCTURES & document.keys():
        return [(stem, document)]
    return [(str(name), value) for name, value in document.items()]


def structure_key(record: dict[str, Any]) -> str | None:
    """Return the key of a record's structure; None if it has none."""
    return next((key for key in STRUCTURE_KEYS if record.get(key) is not None), None)


def _numbered(records: list[Any], stem: str) -> Entries:
    return [(f"{stem}-{i}", record) for i, record in enumerate(records)]


def _split(document: dict[str, Any], stem: str) -> Entries:
    """Return the rows of ``DataFrame.to_json(orient="split")``."""
    columns, rows = document["columns"], document["data"]
    if not isinstance(columns, list) or any(isinstance(name, list | dict) for name in columns):
        raise ValueError("the names of the table's columns are no list of words; flatten them")
    require_distinct(map(str, columns))
    for number, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != len(columns):
            cells = len(row) if isinstance(row, list) else "no list of"
            raise ValueError(f"row {number} of the table has {cells} cells, and there are {len(columns)} columns")
    index = document.get("index", [f"{stem}-{i}" for i in range(len(rows))])
    if not isinstance(index, list) or len(index) != len(rows):
        named = len(index) if isinstance(index, list) else "no list of"
        raise ValueError(f"the table has {named} names of rows for {len(rows)} rows")
    return [(str(key), dict(zip(columns, row, strict=True))) for key, row in zip(index, rows, strict=True)]


def _with_schema(document: dict[str, Any], stem: str) -> Entries:
    """Return the rows of ``DataFrame.to_json(orient="table")``, in which the index is a column."""
    schema = document["schema"]
    keys = schema.get("primaryKey") if isinstance(schema, dict) else None
    key = keys[0] if isinstance(keys, list) and keys and isinstance(keys[0], str) else "index"
    found = []
    for default, row in _numbered(document["data"], stem):
        named = isinstance(row, dict) and key in row
        found.append((str(row[key]), {k: v for k, v in row.items() if k != key}) if named else (default, row))
    return found


def _is_column(value: Any) -> bool:
    return bool(value) and (isinstance(value, list) or (isinstance(value, dict) and not _OF_STRUCTURES & value.keys()))


def _columns(document: dict[str, Any], key: str, stem: str) -> Entries:
    """Return the rows of ``to_json(orient="columns")``, the default of pandas, or of ``to_dict("list")``."""
    expected = _row_names(document[key])
    for name, column in document.items():
        if not isinstance(column, type(document[key])) or _row_names(column) != expected:
            raise ValueError(
                f"{key!r} is a column of {len(expected)} rows, and {short(name)!r} has other rows; give all "
                "columns the same rows"
            )
    ids = [str(row) if isinstance(document[key], dict) else f"{stem}-{row}" for row in expected]
    rows = [{name: column[row] for name, column in document.items()} for row in expected]
    return list(zip(ids, rows, strict=True))


def _row_names(column: Any) -> Collection[Any]:
    """Return the names or numbers of a column's rows; names compare independent of order."""
    return column.keys() if isinstance(column, dict) else range(len(column))
