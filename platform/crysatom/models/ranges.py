"""Flags for crystals unlike those that a model was trained on. They are predicted, not refused.

Shapes: B crystals, N atoms, E edges.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from crysatom.config import GraphSpec
from crysatom.crystals.derived_columns import computed_column, num_atoms
from crysatom.graphs.columns import flat_values, list_lengths
from crysatom.graphs.graph import offsets
from crysatom.graphs.neighbors import RESOLUTION
from crysatom.names import (
    ALL_FLAGS,
    ATOMIC_NUMBERS,
    DEGREE,
    DISTANCE,
    ISOLATED_ATOMS,
    NO_NEIGHBORS,
    NUM_ATOMS,
    OUTSIDE_SIZE,
    OUTSIDE_VOLUME,
    VOLUME_PER_ATOM,
)

Array = NDArray[Any]

Ranges = Mapping[str, tuple[float, float]]
"""Least and largest ``volume_per_atom`` and ``num_atoms`` of the training crystals; empty if not recorded."""

ROUNDING = 1e-3
"""Relative tolerance, so that a training crystal stays in range when its cell is written with four digits."""

_OUTSIDE = {VOLUME_PER_ATOM: OUTSIDE_VOLUME, NUM_ATOMS: OUTSIDE_SIZE}
RANGED = frozenset(_OUTSIDE)
"""Quantities whose ranges models record."""


def measures(crystals: pa.Table) -> dict[str, Array]:
    """Return ``(B,)`` values of each quantity: cubic angstrom per atom, and atoms per cell."""
    return {VOLUME_PER_ATOM: computed_column(crystals, VOLUME_PER_ATOM), NUM_ATOMS: num_atoms(crystals)}


def ranges_of(crystals: pa.Table) -> Ranges:
    """Return the ranges of training crystals; at least one crystal is needed."""
    return {name: (values.min().item(), values.max().item()) for name, values in measures(crystals).items()}


def joined(one: Ranges, other: Ranges) -> Ranges:
    """Return the joint ranges of two trainings of one model; a range that one of them lacks is dropped."""
    both = one.keys() & other.keys()
    return {name: (min(one[name][0], other[name][0]), max(one[name][1], other[name][1])) for name in sorted(both)}


def outside(crystals: pa.Table, ranges: Ranges) -> dict[str, Array]:
    """Return ``(B,)`` bool for each flag: which crystals are outside a range."""
    return {
        _OUTSIDE[name]: (values < ranges[name][0] * (1 - ROUNDING)) | (values > ranges[name][1] * (1 + ROUNDING))
        for name, values in measures(crystals).items()
        if name in ranges
    }


def lonely(graphs: pa.RecordBatch, spec: GraphSpec) -> dict[str, Array]:
    """Return ``(B,)`` bool for each flag: no atom of the crystal has a neighbor, or some atoms have none.

    Edges longer than the cutoff, which pad short lists or run along lattice vectors, do not count.
    """
    ends = np.cumsum(flat_values(graphs[DEGREE]), dtype=np.int64)
    near = offsets(flat_values(graphs[DISTANCE]) <= spec.cutoff + RESOLUTION / 2)
    alone = np.diff(near[ends], prepend=0) == 0
    counts = list_lengths(graphs[ATOMIC_NUMBERS])
    num_alone = np.diff(offsets(alone)[np.cumsum(counts)], prepend=0)
    return {NO_NEIGHBORS: num_alone == counts, ISOLATED_ATOMS: (num_alone > 0) & (num_alone < counts)}


def flag_texts(raised: Mapping[str, Array], num_crystals: int) -> list[str]:
    """Return the flags of each of B crystals as text, in the order of :data:`crysatom.names.ALL_FLAGS`."""
    none = np.zeros(num_crystals, dtype=bool)
    rows = np.stack([raised.get(flag, none) for flag in ALL_FLAGS], axis=1)
    return [";".join(itertools.compress(ALL_FLAGS, row)) for row in rows]
