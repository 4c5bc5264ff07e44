"""Columns for properties whose names and types are known only once all records have been read."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa

from crysatom.crystals.computed import COMPUTED_COLUMNS
from crysatom.crystals.table import STRUCTURE_COLUMNS, property_field

_TYPES = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}
_INT64_LIMIT = 2**63


def column_name(name: str) -> str:
    """Return the column of a property; one that is called like a column that ingest writes gets a prefix."""
    return f"source_{name}" if name in STRUCTURE_COLUMNS or name in COMPUTED_COLUMNS else name


class PropertyTypes:
    """The types seen under each property name."""

    def __init__(self, declared: Sequence[pa.Field] = ()) -> None:
        """Take over the fields that a source declares; their types and units are kept."""
        self._declared = {f.name: f for f in declared}
        self._seen: dict[str, set[type]] = {name: set() for name in self._declared}

    def observe(self, properties: Iterable[dict[str, Any]]) -> None:
        """Note the types of the values of more crystals."""
        for values in properties:
            for name, value in values.items():
                kinds = self._seen.setdefault(name, set())
                if value is not None:
                    kinds.add(str if type(value) is int and abs(value) >= _INT64_LIMIT else type(value))

    def fields(self, source: str) -> dict[str, pa.Field]:
        """Return the field of each property's column, by property name, in order of first occurrence.

        Args:
            source: Where they are from, for the message.

        Raises:
            ValueError: If two properties would become the same column.

        """
        for name in self._seen:
            column = column_name(name)
            if column != name and column in self._seen:
                raise ValueError(
                    f"{source} has both {name!r}, which the table would keep as {column!r}, and {column!r}; "
                    "rename one of them"
                )
        return {name: self._field(name, kinds) for name, kinds in self._seen.items()}

    def _field(self, name: str, kinds: set[type]) -> pa.Field:
        if name in self._declared:
            return self._declared[name].with_name(column_name(name))
        return property_field(column_name(name), _common_type(kinds))


def _common_type(kinds: set[type]) -> pa.DataType:
    """Return the type that holds all values: that of one kind, float for int and float, else text."""
    if len(kinds) == 1:
        return _TYPES.get(next(iter(kinds)), pa.string())
    return pa.float64() if not kinds or kinds == {int, float} else pa.string()


def property_array(values: Sequence[Any], dtype: pa.DataType) -> pa.Array:
    """Return a column; values of mixed kinds become text."""
    if pa.types.is_string(dtype):
        values = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
    if pa.types.is_floating(
        dtype
    ):  # Arrow refuses whole numbers that a float cannot hold exactly, and Python's floats as halves
        values = [value if value is None else float(value) for value in values]
        return pa.array(values, type=pa.float64(), from_pandas=False).cast(dtype)
    return pa.array(values, type=dtype, from_pandas=False)
