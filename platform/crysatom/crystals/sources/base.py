"""What every reader of a source provides."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from crysatom.crystals.quarantine import Reason, Rejected, Rejection
from crysatom.crystals.raw import Raw

CIF_SUFFIXES = tuple(f".{kind}{compressed}" for kind in ("mcif", "cif") for compressed in ("", ".gz", ".bz2", ".xz"))
"""Endings of files that are read as CIFs, in any case."""

ID_KEYS = ("material_id", "jid", "id", "mp_id", "entry_id", "task_id", "uid")
"""Where a record may keep its identifier, in order of preference."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A source that was found and opened.

    Attributes:
        name: As the user wrote it.
        records: Reads the source, from its start, each time it is called.
        total: Number of records where it is known beforehand; of files, each of which may hold several crystals.
        fields: Fields of property columns whose type and unit the source declares.

    """

    name: str
    records: Callable[[], Iterator[Raw | Rejected]]
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
    """Return values as a table cell can hold them: numbers, booleans and text; nested ones as JSON text, NaN as None.

    Args:
        values: By column name.
        missing: Words by which the source says that there is no value.

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
    """Return a row of the quarantine for a record that could not even be taken out of its source."""
    return Rejected.because(Rejection(reason, message), material_id=material_id, source=source)
