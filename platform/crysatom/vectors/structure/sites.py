"""Sites of crystals with their first shells, read from rows of a graph shard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from crysatom.graphs.columns import flat_values, list_lengths
from crysatom.graphs.graph import offsets
from crysatom.names import ATOMIC_NUMBERS, DEGREE, DISTANCE, NEIGHBOR

COLUMNS = (ATOMIC_NUMBERS, DEGREE, NEIGHBOR, DISTANCE)
"""Columns that are read from graph shards."""

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Sites:
    """N sites of B crystals, and the E bonds from each site to its first shell.

    Attributes:
        num_crystals: B.
        crystal: ``(N,)`` index of each site's crystal, ascending.
        element: ``(N,)`` int64, atomic number.
        atoms: ``(B,)`` number of sites of each crystal.
        volume: ``(B,)`` volume per atom, in cubic angstrom.
        center: ``(E,)`` site that a bond starts from, ascending.
        neighbor: ``(E,)`` site that it leads to.
        distance: ``(E,)`` float64, in angstrom.
        coordination: ``(N,)`` number of bonds of each site.

    """

    num_crystals: int
    crystal: Array
    element: Array
    atoms: Array
    volume: Array
    center: Array
    neighbor: Array
    distance: Array
    coordination: Array


def sites(table: pa.Table | pa.RecordBatch, cell_volumes: Array, tolerance: float, cutoff: float) -> Sites:
    """Return the sites of graphs. The first shell of a site ends at ``1 + tolerance`` times its nearest distance.

    Args:
        table: B rows of graph shards, with :data:`COLUMNS`.
        cell_volumes: ``(B,)`` volumes of the cells, in cubic angstrom.
        tolerance: See above.
        cutoff: Cutoff of the graphs, in angstrom. Padding edges are longer by 1 and are not bonds.

    """
    atoms = list_lengths(table[ATOMIC_NUMBERS])
    element = flat_values(table[ATOMIC_NUMBERS]).astype(np.int64)
    crystal = np.repeat(np.arange(len(atoms)), atoms)
    center = np.repeat(np.arange(len(element)), flat_values(table[DEGREE]))
    distance = flat_values(table[DISTANCE]).astype(np.float64)
    nearest = np.full(len(element), np.inf)
    np.minimum.at(nearest, center, distance)
    bonded = (distance <= (1 + tolerance) * nearest[center]) & (distance < cutoff + 0.5)  # 0.5: margin for float32
    center = center[bonded]
    return Sites(
        num_crystals=len(atoms),
        crystal=crystal,
        element=element,
        atoms=atoms,
        volume=cell_volumes / atoms,
        center=center,
        neighbor=flat_values(table[NEIGHBOR])[bonded] + offsets(atoms)[:-1][crystal[center]],
        distance=distance[bonded],
        coordination=np.bincount(center, minlength=len(element)),
    )
