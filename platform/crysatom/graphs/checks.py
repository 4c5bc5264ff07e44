"""Which crystals of a record batch can become graphs, and why the others cannot.

Shapes: B crystals, N atoms. A table need not come from the ingest job, so the rules of :mod:`crysatom.crystals.checks`
are applied again, with those that only rows and neighbor lists can break. Each crystal is checked by itself:
:mod:`crysatom.graphs.duplicates` decides about repeated ids.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from crysatom.config import Limits
from crysatom.crystals.checks import Rule, overlap, size_rules, structure_rules
from crysatom.crystals.quarantine import Reason
from crysatom.crystals.table import Structures
from crysatom.graphs.columns import flat_values, list_lengths
from crysatom.graphs.graph import offsets
from crysatom.graphs.lattices import SKEWED, reduce_lattice, skewness
from crysatom.graphs.neighbors import RESOLUTION, Neighbors
from crysatom.names import ATOMIC_NUMBERS, FRAC_COORDS, LATTICE, MATERIAL_ID

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

    def apply(self, rules: Iterable[Rule]) -> None:
        """Reject the crystals that break a rule."""
        for rule in rules:
            for row in np.flatnonzero(rule.broken).tolist():
                if row not in self.reasons:
                    self.reasons[row] = rule.reason, rule.message(row)

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


def check_rows(batch: pa.RecordBatch, limits: Limits) -> Verdicts:
    """Check what needs no numbers: ids, lengths of lists, size."""
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
    verdicts.apply(size_rules(atoms, limits))
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
    verdicts.apply(structure_rules(crystals))
    rows = verdicts.accepted
    close = _shortest_translations(crystals.lattices[rows]) < limits.min_distance
    _reject_overlaps(crystals, rows[close], limits, verdicts)
    return verdicts


def _shortest_translations(lattices: Array) -> Array:
    """Return ``(B,)`` distances from an atom to its nearest image: a search in a tiny cell could find millions."""
    shortest: Array = np.linalg.norm(lattices, axis=2).min(axis=1, initial=np.inf)
    for k in np.flatnonzero(skewness(lattices) > SKEWED):
        shortest[k] = np.linalg.norm(reduce_lattice(lattices[k]) @ lattices[k], axis=1).min()
    return shortest


def check_neighbors(crystals: Structures, found: Neighbors, limits: Limits) -> Verdicts:
    """Judge what only the neighbors show: overlapping atoms, and images that int8 cannot hold."""
    verdicts = Verdicts(num_crystals=len(crystals.lattices))
    first_edge = offsets(found.degree)
    nearest = np.full(len(found.degree), np.inf)
    nearest[found.degree > 0] = found.distance[first_edge[:-1][found.degree > 0]]
    least = np.minimum.reduceat(nearest, crystals.atom_ptr[:-1]) if len(crystals.lattices) else nearest
    _reject_overlaps(crystals, np.flatnonzero(least < limits.min_distance + RESOLUTION), limits, verdicts)
    outside = np.flatnonzero(((found.image < _IMAGES.min) | (found.image > _IMAGES.max)).any(axis=1))
    rows = np.unique(np.searchsorted(first_edge[crystals.atom_ptr], outside, side="right") - 1)
    verdicts.reject(
        rows, Reason.ABSURD_COORDINATES, "neighbors lie more than 127 cells apart; wrap the coordinates to [0, 1)"
    )
    return verdicts


def _reject_overlaps(crystals: Structures, rows: Array, limits: Limits, verdicts: Verdicts) -> None:
    """Let the rule of single crystals decide about those that seem to have atoms too close."""
    for row in rows.tolist():
        if message := overlap(crystals, row, limits):
            verdicts.reasons[row] = Reason.OVERLAPPING_ATOMS, message
