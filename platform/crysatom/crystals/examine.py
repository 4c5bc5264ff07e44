"""Convert each raw record to an accepted crystal or a row of the quarantine."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from crysatom.config import Limits
from crysatom.crystals.checks import check
from crysatom.crystals.cif import parse_cif
from crysatom.crystals.formula import reduced_formula
from crysatom.crystals.poscar import parse_poscar
from crysatom.crystals.quarantine import Rejected, Rejection
from crysatom.crystals.record import PROPERTIES_JSON, Record, from_batch, unpack_arrays
from crysatom.crystals.structure_json import parse_structure_json
from crysatom.crystals.table import STRUCTURE_FIELDS, Crystal
from crysatom.names import (
    ATOMIC_NUMBERS,
    DETAIL,
    FORMULA,
    FRAC_COORDS,
    LATTICE,
    MATERIAL_ID,
    NOTE,
    REASON,
    SOURCE,
)

_OUTCOME_FIELDS = [pa.field(name, pa.string()) for name in (SOURCE, REASON, DETAIL, NOTE, PROPERTIES_JSON)]
OUTCOME_SCHEMA = pa.schema([f.with_nullable(True) for f in STRUCTURE_FIELDS] + _OUTCOME_FIELDS)
"""One row per raw record: structure columns, properties and note if accepted, reason and detail if not."""


def examine(raw: Record | Rejected, limits: Limits) -> Crystal | Rejected:
    """Parse and check one record."""
    if isinstance(raw, Rejected):
        return raw
    try:
        crystal = parse(raw, limits)
        check(crystal, limits)
    except Rejection as rejection:
        return Rejected.because(rejection, material_id=raw.material_id, source=raw.source)
    return replace(crystal, atomic_numbers=crystal.atomic_numbers.astype(np.uint8))


def parse(raw: Record, limits: Limits) -> Crystal:
    """Return the unchecked crystal of a record; its atomic numbers are int64 and may be invalid.

    Raises:
        Rejection: If the record cannot be read.

    """
    notes: tuple[str, ...] = ()
    if raw.format == "cif":
        cif = parse_cif(raw.content, limits)
        lattice, frac_coords, atomic_numbers, notes = cif.lattice, cif.frac_coords, cif.atomic_numbers, cif.notes
    elif raw.format == "poscar":
        lattice, frac_coords, atomic_numbers = parse_poscar(raw.content, limits)
    elif raw.format == "json":
        lattice, frac_coords, atomic_numbers = parse_structure_json(raw.content)
    else:
        lattice, frac_coords, atomic_numbers = unpack_arrays(raw.content)
    return Crystal(
        material_id=raw.material_id,
        lattice=lattice,
        frac_coords=frac_coords,
        atomic_numbers=atomic_numbers,
        properties=raw.properties,
        notes=notes,
    )


def examine_batch(batch: pa.Table, limits: Limits) -> pa.Table:
    """Parse and check raw records; return a table with :data:`OUTCOME_SCHEMA`, one row per record, in order."""
    records = list(from_batch(batch))
    rows = [_row(examine(record, limits), record.source) for record in records]
    return pa.Table.from_pylist(rows, schema=OUTCOME_SCHEMA)


def _row(outcome: Crystal | Rejected, source: str) -> dict[str, Any]:
    row: dict[str, Any] = {MATERIAL_ID: outcome.material_id, SOURCE: source}
    if isinstance(outcome, Rejected):
        return row | {REASON: outcome.reason, DETAIL: outcome.detail}
    return row | {
        LATTICE: outcome.lattice.ravel(),
        FRAC_COORDS: outcome.frac_coords.ravel(),
        ATOMIC_NUMBERS: outcome.atomic_numbers,
        FORMULA: reduced_formula(outcome.atomic_numbers),
        NOTE: "; ".join(outcome.notes) or None,
        PROPERTIES_JSON: json.dumps(outcome.properties),
    }
