"""Columns computed from the structure alone: targets that every table has, labeled or not."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pymatgen.core import Element

from crysatom.crystals.table import property_field
from crysatom.names import ATOMIC_NUMBERS, DENSITY, LATTICE, MAX_ATOMIC_NUMBER, SYMBOLS, VOLUME_PER_ATOM

Array = NDArray[Any]

COMPUTED_COLUMNS = (VOLUME_PER_ATOM, DENSITY)

_MARK = {"computed": "from the structure"}

COMPUTED_FIELDS: tuple[pa.Field, ...] = tuple(
    property_field(name, pa.float64())
    .with_nullable(False)
    .with_metadata({**property_field(name, pa.float64()).metadata, **_MARK})
    for name in COMPUTED_COLUMNS
)
"""Metadata marks these fields as computed, so that a source's own density is not mistaken for ours."""

GRAMS_PER_CM3 = 1.66053906660
"""One dalton per cubic angstrom, CODATA 2018."""


def is_computed(field: pa.Field) -> bool:
    """Return whether a column of a table was written by ingest, not by the source."""
    metadata = field.metadata or {}
    return field.name in COMPUTED_COLUMNS and all(metadata.get(k.encode()) == v.encode() for k, v in _MARK.items())


def computed_column(table: pa.Table, name: str) -> Array:
    """Return ``(M,)`` float64 values of one of :data:`COMPUTED_COLUMNS` for crystals that passed the checks.

    ``volume_per_atom``: cell volume over atoms, in cubic angstrom. ``density``: standard atomic weights (those of
    pymatgen; deuterium counts as hydrogen) over cell volume, in g/cm^3.
    """
    assert name in COMPUTED_COLUMNS, name
    volume = cell_volumes(table)
    if name == VOLUME_PER_ATOM:
        return volume / num_atoms(table)
    with np.errstate(divide="ignore"):  # a cell without volume has infinite density, which is rejected as a target
        return GRAMS_PER_CM3 * (element_counts(table) @ atomic_masses()) / volume


def cell_volumes(table: pa.Table) -> Array:
    """Return the volumes of the cells, right- or left-handed, ``(M,)`` in cubic angstrom."""
    lattices = _values(table[LATTICE]).reshape(-1, 3, 3)
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # such cells give infinity or NaN
        return np.asarray(np.abs(np.linalg.det(lattices)))


def num_atoms(table: pa.Table) -> Array:
    """Return the number of atoms in each cell, ``(M,)``."""
    return np.asarray(pc.list_value_length(table[ATOMIC_NUMBERS]).to_numpy()).astype(np.int64)


def element_counts(table: pa.Table) -> Array:
    """Return the number of atoms of each element in each cell, ``(M, 118)`` int64, hydrogen first."""
    crystal = np.repeat(np.arange(table.num_rows), num_atoms(table))
    cell = crystal * MAX_ATOMIC_NUMBER + _values(table[ATOMIC_NUMBERS]).astype(np.int64) - 1
    counts = np.bincount(cell, minlength=table.num_rows * MAX_ATOMIC_NUMBER)
    return counts.reshape(table.num_rows, MAX_ATOMIC_NUMBER)


def _values(column: pa.ChunkedArray) -> Array:
    return np.asarray(pc.list_flatten(column).to_numpy())


@lru_cache(maxsize=1)
def atomic_masses() -> Array:
    """Return atomic masses, ``(118,)`` in dalton."""
    return np.array([float(Element(symbol).atomic_mass) for symbol in SYMBOLS])
