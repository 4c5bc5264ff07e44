"""Interface of all readers of sources."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from crysatom.crystals.quarantine import Reason, Rejected, Rejection
from crysatom.crystals.record import Record

CIF_SUFFIXES = tuple(f".{kind}{compressed}" for kind in ("mcif", "cif") for compressed in ("", ".gz", ".bz2", ".xz"))
"""Suffixes of files that are read as CIFs, in any letter case."""

ID_KEYS = ("material_id", "jid", "id", "mp_id", "entry_id", "task_id", "uid")
"""Keys of a record that may hold its identifier, in order of preference."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Opened source.

    Attributes:
        name: Name as the user wrote it.
        records: Each call reads the source from its start.
        total: Number of records if known beforehand; or of files, each of which may hold several crystals.
        fields: Fields of property columns whose type and unit the source declares.

    """

    name: str
    records: Callable[[], Iterator[Record | Rejected]]
    total: int | None = None
    fields: tuple[pa.Field, ...] = ()


def pop_id(record: dict[str, Any], default: str) -> str:
    """Remove and return the identifier of a record, or return the default if it has none."""
    for key in ID_KEYS:
        value = record.get(key)
        if isinstance(value, str | int) and not isinstance(value, bool) and str(value).strip():
            del record[key]
            return str(value).strip()
    return default


def plain_properties(values: Mapping[str, Any], missing: tuple[str, ...] = ()) -> dict[str, Any]:
    """Convert values to numbers, booleans and text for a table; nested ones become JSON text, NaN None.

    Args:
        values: Values by column name.
        missing: Words of the source for a missing value.

    """
    return {str(name): _plain(value, missing) for name, value in values.items()}


def _plain(value: Any, missing: tuple[str, ...]) -> Any:
    if hasattr(value, "item") and getattr(value, "ndim", None) == 0:
        value = value.item()
    if (isinstance(value, str) and value in missing) or (isinstance(value, float) and math.isnan(value)):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if hasattr(value, "tolist"):
        value = value.tolist()
    return json.dumps(value, default=str)


def rejected(reason: Reason, message: str, *, material_id: str, source: str) -> Rejected:
    """Return a row of the quarantine for a record that could not be extracted from its source."""
    return Rejected.because(Rejection(reason, message), material_id=material_id, source=source)
