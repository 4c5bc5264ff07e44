"""Which crystals of a record batch can become graphs, and why the others cannot.

Shapes: B crystals, N atoms. These are the checks of :mod:`crysatom.crystals.checks`, in the same order
and with the same limits, on all crystals of a batch at once; a table need not come from the ingest job. Each
crystal is judged by itself: who has an id first is not decided here, but in :mod:`crysatom.graphs.duplicates`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from crysatom.config import Limits
from crysatom.crystals.checks import (
    MAX_CELL_LENGTH,
    MAX_FRACTIONAL,
    MAX_VOLUME_PER_ATOM,
    MIN_VOLUME_PER_ATOM,
)
from crysatom.crystals.quarantine import Reason
from crysatom.graphs.columns import flat_values, list_lengths
from crysatom.graphs.graph import offsets
from crysatom.graphs.lattices import SKEWED, reduce_lattice, skewness
from crysatom.graphs.neighbors import Neighbors
from crysatom.names import ATOMIC_NUMBERS, FRAC_COORDS, LATTICE, MATERIAL_ID, MAX_ATOMIC_NUMBER

_IMAGES = np.iinfo(np.int8)

Array = NDArray[Any]


@dataclass(kw_only=True)
class Verdicts:
    """The first reason found against each of B crystals; none: the crystal is accepted."""

    num_crystals: int
    reasons: dict[int, tuple[Reason, str]] = field(default_factory=dict)

    def reject(self, rows: Array, reason: Reason, detail: list[str] | str) -> None:
        """Reject the crystals at ``rows`` unless they already are; ``detail`` for all or one each."""
        for k, row in enumerate(rows.tolist()):
            self.reasons.setdefault(row, (reason, detail if isinstance(detail, str) else detail[k]))

    def include(self, other: Verdicts, rows: Array) -> None:
        """Take over the verdicts on the crystals that are at ``rows`` here."""
        for k, reason in other.reasons.items():
            self.reasons.setdefault(int(rows[k]), reason)

    @property
    def accepted(self) -> Array:
        """Rows without a reason, ascending."""
        mask = np.ones(self.num_crystals, dtype=bool)
        mask[list(self.reasons)] = False
        return np.flatnonzero(mask)


@dataclass(frozen=True, kw_only=True)
class Structures:
    """B crystals in flat arrays.

    Attributes:
        material_ids: B ids.
        lattices: ``(B, 3, 3)`` float64, angstrom.
        frac_coords: ``(N, 3)`` float64.
        atomic_numbers: ``(N,)`` integers.
        atom_ptr: ``(B + 1,)`` int64.

    """

    material_ids: list[str]
    lattices: Array
    frac_coords: Array
    atomic_numbers: Array
    atom_ptr: Array


def check_rows(batch: pa.RecordBatch, limits: Limits) -> Verdicts:
    """Judge what can be judged before the numbers are read: ids, lengths of lists, size."""
    verdicts = Verdicts(num_crystals=batch.num_rows)
    atoms, coords, lattice = (list_lengths(batch[name]) for name in (ATOMIC_NUMBERS, FRAC_COORDS, LATTICE))
    no_id = batch[MATERIAL_ID].is_null().to_numpy(zero_copy_only=False)
    verdicts.reject(np.flatnonzero(no_id), Reason.MISSING_ID, f"{MATERIAL_ID} is empty; give every row an id")
    bad = np.flatnonzero((atoms < 0) | (coords != 3 * atoms) | (lattice != 9))
    numbers = [
        f"{lattice[r]} lattice numbers (9 needed), {coords[r]} coordinates for {atoms[r]} atoms (3 per atom needed)"
        for r in bad
    ]
    verdicts.reject(bad, Reason.UNREADABLE, numbers)
    verdicts.reject(np.flatnonzero(atoms == 0), Reason.EMPTY, "the structure has no atoms")
    large = np.flatnonzero(atoms > limits.max_atoms)
    verdicts.reject(
        large, Reason.TOO_LARGE, [f"the cell has {atoms[r]} atoms, more than {limits.max_atoms}" for r in large]
    )
    return verdicts


def structures(batch: pa.RecordBatch, rows: Array) -> Structures:
    """Return the crystals at ``rows`` of a record batch of the crystal table, with well-formed lists."""
    chosen = batch.take(pa.array(rows))
    return Structures(
        material_ids=chosen[MATERIAL_ID].cast(pa.string()).to_pylist(),
        lattices=flat_values(chosen[LATTICE]).astype(np.float64).reshape(-1, 3, 3),
        frac_coords=flat_values(chosen[FRAC_COORDS]).astype(np.float64).reshape(-1, 3),
        atomic_numbers=flat_values(chosen[ATOMIC_NUMBERS]),
        atom_ptr=offsets(list_lengths(chosen[ATOMIC_NUMBERS])),
    )


def check_structures(crystals: Structures, limits: Limits) -> Verdicts:
    """Judge the numbers of crystals before their neighbors are searched."""
    verdicts = Verdicts(num_crystals=len(crystals.lattices))
    first = crystals.atom_ptr[:-1]
    known = (crystals.atomic_numbers >= 1) & (crystals.atomic_numbers <= MAX_ATOMIC_NUMBER)
    unknown = f"an atomic number is missing or not in 1 to {MAX_ATOMIC_NUMBER}"
    verdicts.reject(np.flatnonzero(~_all(known, first)), Reason.UNKNOWN_SPECIES, unknown)
    _check_cells(crystals, limits, verdicts)
    finite = _all(np.isfinite(crystals.frac_coords).all(axis=1), first)
    verdicts.reject(np.flatnonzero(~finite), Reason.NAN_COORDINATES, "coordinates hold NaN or infinity")
    near = _all((np.abs(crystals.frac_coords) <= MAX_FRACTIONAL).all(axis=1), first)
    far = f"a fractional coordinate is beyond {MAX_FRACTIONAL:g}; are the coordinates Cartesian?"
    verdicts.reject(np.flatnonzero(~near), Reason.ABSURD_COORDINATES, far)
    return verdicts


def _all(condition: Any, first: Array) -> Array:
    """Return whether a condition holds for all atoms of each crystal; ``first``: its first atom."""
    return np.logical_and.reduceat(condition, first) if len(first) else np.zeros(0, dtype=bool)


def _check_cells(crystals: Structures, limits: Limits, verdicts: Verdicts) -> None:
    lattices = crystals.lattices
    finite = np.isfinite(lattices).all(axis=(1, 2))
    verdicts.reject(np.flatnonzero(~finite), Reason.NAN_LATTICE, "the lattice holds NaN or infinity")
    with np.errstate(invalid="ignore", over="ignore"):
        longest = np.linalg.norm(lattices, axis=2).max(axis=1, initial=0)
        volumes = np.abs(np.linalg.det(lattices)) / np.diff(crystals.atom_ptr)
    long = np.flatnonzero(longest > MAX_CELL_LENGTH)
    verdicts.reject(long, Reason.ABSURD_VOLUME, [f"a cell vector is {longest[r]:.4g} angstrom long" for r in long])
    flat = np.flatnonzero(~(volumes > MIN_VOLUME_PER_ATOM))
    verdicts.reject(flat, Reason.ZERO_VOLUME, [f"the cell has {volumes[r]:.3g} cubic angstrom per atom" for r in flat])
    empty = np.flatnonzero(volumes > MAX_VOLUME_PER_ATOM)
    verdicts.reject(
        empty, Reason.ABSURD_VOLUME, [f"the cell has {volumes[r]:.3g} cubic angstrom per atom" for r in empty]
    )
    _check_translations(lattices, limits, verdicts)


def _check_translations(lattices: Array, limits: Limits, verdicts: Verdicts) -> None:
    """Reject cells whose atoms meet their own images; a search in them could find millions of neighbors."""
    rows = verdicts.accepted
    shortest = np.linalg.norm(lattices[rows], axis=2).min(axis=1, initial=np.inf)
    for k in np.flatnonzero(skewness(lattices[rows]) > SKEWED):
        lattice = lattices[rows[k]]
        shortest[k] = np.linalg.norm(reduce_lattice(lattice) @ lattice, axis=1).min()
    close = np.flatnonzero(shortest < limits.min_distance)
    details = [f"an atom and its periodic image are {shortest[k]:.3f} angstrom apart" for k in close]
    verdicts.reject(rows[close], Reason.OVERLAPPING_ATOMS, details)


def check_neighbors(crystals: Structures, found: Neighbors, limits: Limits) -> Verdicts:
    """Judge what only the neighbors show: overlapping atoms, and images that int8 cannot hold."""
    verdicts = Verdicts(num_crystals=len(crystals.lattices))
    first_edge = offsets(found.degree)
    nearest = np.full(len(found.degree), np.inf)
    nearest[found.degree > 0] = found.distance[first_edge[:-1][found.degree > 0]]
    least = np.minimum.reduceat(nearest, crystals.atom_ptr[:-1]) if len(crystals.lattices) else nearest
    close = np.flatnonzero(least < limits.min_distance)
    details = [f"two atoms are {least[r]:.3f} angstrom apart, closer than {limits.min_distance:g}" for r in close]
    verdicts.reject(close, Reason.OVERLAPPING_ATOMS, details)
    outside = np.flatnonzero(((found.image < _IMAGES.min) | (found.image > _IMAGES.max)).any(axis=1))
    rows = np.unique(np.searchsorted(first_edge[crystals.atom_ptr], outside, side="right") - 1)
    verdicts.reject(
        rows, Reason.ABSURD_COORDINATES, "neighbors lie more than 127 cells apart; wrap the coordinates to [0, 1)"
    )
    return verdicts
