"""Record, unverified records of a source, and batches of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from crysatom.crystals.quarantine import Reason, Rejected, Rejection
from crysatom.names import DETAIL, MATERIAL_ID, MAX_ATOMIC_NUMBER, REASON, SOURCE

Format = Literal["cif", "poscar", "json", "arrays"]

FORMAT = "format"
CONTENT = "content"
PROPERTIES_JSON = "properties_json"

_MOST_WHOLE = 2.0**53
"""Below this, a float represents every integer exactly."""

RAW_SCHEMA = pa.schema(
    [
        pa.field(MATERIAL_ID, pa.string()),
        pa.field(SOURCE, pa.string()),
        pa.field(FORMAT, pa.string()),
        pa.field(CONTENT, pa.binary()),
        pa.field(PROPERTIES_JSON, pa.string()),
        pa.field(REASON, pa.string()),
        pa.field(DETAIL, pa.string()),
    ]
)
"""Schema of a batch of raw records; those that a reader rejected have a reason and no content."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One record of a source.

    Attributes:
        material_id: Identifier of the crystal.
        source: File, or file and position in it, or database entry; shown to the user.
        format: Format of ``content``: text of a CIF or a POSCAR, JSON of a structure, or packed arrays.
        content: The record's bytes.
        properties: JSON-representable values of further columns, by column name.

    """

    material_id: str
    source: str
    format: Format
    content: bytes
    properties: dict[str, Any] = field(default_factory=dict)


def pack_arrays(lattice: np.ndarray, frac_coords: np.ndarray, atomic_numbers: np.ndarray) -> bytes:
    """Pack ``(3, 3)``, ``(N, 3)`` and ``(N,)`` numbers into 9 + 4N float64 values."""
    parts = [np.asarray(part, dtype=np.float64).ravel() for part in (lattice, frac_coords, atomic_numbers)]
    return np.concatenate(parts).tobytes()


def unpack_arrays(content: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the arrays that :func:`pack_arrays` packed; atomic numbers as int64.

    Raises:
        Rejection: If an atomic number is not whole: 11.5 is not sodium.

    """
    values = np.frombuffer(content, dtype=np.float64)
    num_atoms = (len(values) - 9) // 4
    assert len(values) == 9 + 4 * num_atoms, "packed arrays have a length of 9 + 4N"
    coords = values[9 : 9 + 3 * num_atoms].reshape(num_atoms, 3)
    numbers = values[9 + 3 * num_atoms :]
    for number in numbers[~((numbers == np.rint(numbers)) & (np.abs(numbers) < _MOST_WHOLE))][:1]:
        message = f"atomic number {number:.6g} is no element; it must be a whole number in 1 to {MAX_ATOMIC_NUMBER}"
        raise Rejection(Reason.UNKNOWN_SPECIES, message)
    return values[:9].reshape(3, 3), coords, numbers.astype(np.int64)


def to_batch(records: Iterable[Record | Rejected]) -> pa.Table:
    """Return records as a table with :data:`RAW_SCHEMA`, in order."""
    return pa.Table.from_pylist([_row(record) for record in records], schema=RAW_SCHEMA)


def _row(record: Record | Rejected) -> dict[str, Any]:
    row: dict[str, Any] = {MATERIAL_ID: _unicode(record.material_id), SOURCE: _unicode(record.source)}
    if isinstance(record, Rejected):
        return row | {REASON: record.reason, DETAIL: _unicode(record.detail)}
    return row | {
        FORMAT: record.format,
        CONTENT: record.content,
        PROPERTIES_JSON: _unicode(json.dumps(record.properties, default=str, ensure_ascii=False)),
    }


def _unicode(text: str) -> str:
    """Replace lone surrogates, which JSON allows and UTF-8 does not, by ``?``."""
    return text.encode("utf-8", "replace").decode("utf-8")


def from_batch(batch: pa.Table) -> Iterator[Record | Rejected]:
    """Yield the records of a table that :func:`to_batch` made."""
    for row in batch.to_pylist():
        if row[REASON] is not None:
            yield Rejected(material_id=row[MATERIAL_ID], source=row[SOURCE], reason=row[REASON], detail=row[DETAIL])
        else:
            properties = json.loads(row[PROPERTIES_JSON])
            yield Record(
                material_id=row[MATERIAL_ID],
                source=row[SOURCE],
                format=row[FORMAT],
                content=row[CONTENT],
                properties=properties,
            )
