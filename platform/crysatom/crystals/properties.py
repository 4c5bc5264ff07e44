"""Property columns, whose names and types are known only after all records have been read."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any

import pyarrow as pa

from crysatom.crystals.derived_columns import COMPUTED_COLUMNS
from crysatom.crystals.quarantine import short
from crysatom.crystals.table import STRUCTURE_COLUMNS, property_field
from crysatom.crystals.text_table import is_missing, number

_TYPES = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.string()}
_INT64_LIMIT = 2**63


def column_name(name: str) -> str:
    """Return the column name of a property, with a prefix if ingest writes a column of this name."""
    return f"source_{name}" if name in STRUCTURE_COLUMNS or name in COMPUTED_COLUMNS else name


class PropertyTypes:
    """Kinds of values of each property, with the first crystal that has a value of each kind."""

    def __init__(self, declared: Sequence[pa.Field] = ()) -> None:
        """Start with the fields that a source declares; their types and units are kept."""
        self._declared = {f.name: f for f in declared}
        self._seen: dict[str, dict[type, _Kind]] = {name: {} for name in self._declared}

    def observe(self, material_ids: Iterable[str], properties: Iterable[dict[str, Any]]) -> None:
        """Record the kinds of the values of more crystals."""
        for material_id, values in zip(material_ids, properties, strict=True):
            for name, value in values.items():
                kinds = self._seen.setdefault(name, {})
                if value is None or name in self._declared:
                    continue
                kind = _kind(value)
                if kind not in kinds:
                    kinds[kind] = _Kind(material_id, value)
                kinds[kind].count += 1

    def remarks(self) -> Iterator[tuple[int, str]]:
        """Yield (logging level, sentence) for columns with values of several kinds."""
        for name, kinds in self._seen.items():
            words = [kinds[kind] for kind in kinds if kind is not NoneType]
            if len(words) > 1 and set(kinds) - {NoneType} != {int, float}:
                each = ", ".join(f"{k.count:,} like {short(repr(k.value), 60)} ({short(k.material_id)})" for k in words)
                yield (
                    logging.WARNING,
                    f"column {short(name)} is kept as text, since it has values of several kinds: {each}",
                )
            elif words and NoneType in kinds and str not in kinds:
                gap = kinds[NoneType]
                where = f"{gap.value!r} of {short(gap.material_id)} is the first"
                yield logging.INFO, f"column {short(name)} has words for no value in {gap.count:,} crystals; {where}"

    def fields(self, source: str) -> dict[str, pa.Field]:
        """Return the field of each property's column, by property name, in order of first occurrence.

        Args:
            source: Name of the source, for the message.

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

    def _field(self, name: str, kinds: Collection[type]) -> pa.Field:
        if name in self._declared:
            return self._declared[name].with_name(column_name(name))
        return property_field(column_name(name), _common_type(kinds))


@dataclass
class _Kind:
    """First value of a kind, its crystal, and the number of values."""

    material_id: str
    value: Any
    count: int = 0


def _kind(value: Any) -> type:
    """Return the type of a value, or NoneType for a word that may mean a missing value."""
    if isinstance(value, str) and is_missing(value):
        return NoneType
    return str if type(value) is int and abs(value) >= _INT64_LIMIT else type(value)


def _common_type(kinds: Collection[type]) -> pa.DataType:
    """Return a type for all values: that of a single kind, float for int and float, else text.

    Words for missing values are ignored among numbers or booleans; alone they are text.
    """
    valued = set(kinds) - {NoneType}
    if len(valued) == 1:
        return _TYPES.get(next(iter(valued)), pa.string())
    return pa.float64() if not kinds or valued == {int, float} else pa.string()


def property_array(values: Sequence[Any], dtype: pa.DataType) -> pa.Array:
    """Return a column: mixed kinds become text, words among numbers or booleans None, decimals floats."""
    if pa.types.is_string(dtype):
        values = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
    else:
        values = [number(value) if isinstance(value, str) else value for value in values]
    if pa.types.is_floating(
        dtype
    ):  # Arrow rejects integers that a float cannot represent exactly, and Python floats as halves
        values = [value if value is None else float(value) for value in values]
        return pa.array(values, type=pa.float64(), from_pandas=False).cast(dtype)
    return pa.array(values, type=dtype, from_pandas=False)
