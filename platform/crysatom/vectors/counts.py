"""What SkipAtom and Atom2Vec learn from: which elements are bonded how often, and which compounds there are.

Shapes: Z = 118 elements (row and column Z - 1), C compounds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from crysatom.graphs.columns import flat_values, list_lengths
from crysatom.graphs.graph import offsets
from crysatom.names import ATOMIC_NUMBERS, DEGREE, DISTANCE, MAX_ATOMIC_NUMBER, NEIGHBOR

COLUMNS = (ATOMIC_NUMBERS, DEGREE, NEIGHBOR, DISTANCE)
"""Columns of graph shards that are read."""

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Counts:
    """Counts over crystals.

    Attributes:
        crystals: Number of crystals.
        sites: ``(Z,)`` int64, atoms of each element.
        crystals_of: ``(Z,)`` int64, crystals that hold each element.
        pairs: ``(Z, Z)`` int64, symmetric: bonded pairs, by the element of a site and that of its neighbor.
        compounds: ``(C, Z)`` uint16, reduced compositions, each once, in ascending order.

    """

    crystals: int
    sites: Array
    crystals_of: Array
    pairs: Array
    compounds: Array

    @classmethod
    def total(cls, parts: Iterable[Counts]) -> Counts:
        """Return the counts over all parts."""
        sites = crystals_of = np.zeros(MAX_ATOMIC_NUMBER, np.int64)
        crystals, pairs = 0, np.zeros((MAX_ATOMIC_NUMBER, MAX_ATOMIC_NUMBER), np.int64)
        compounds = [np.zeros((0, MAX_ATOMIC_NUMBER), np.uint16)]
        for part in parts:
            crystals, sites, crystals_of = crystals + part.crystals, sites + part.sites, crystals_of + part.crystals_of
            pairs = pairs + part.pairs
            compounds.append(part.compounds)
        return cls(
            crystals=crystals,
            sites=sites,
            crystals_of=crystals_of,
            pairs=pairs,
            compounds=different_rows(np.concatenate(compounds)),
        )


def count(table: pa.Table | pa.RecordBatch, tolerance: float, cutoff: float) -> Counts:
    """Count in graphs.

    A neighbor is bonded if it is at most ``1 + tolerance`` times as far as the nearest, as seen from either end. Of
    each site the *different* bonded sites count, whatever number of their images is bonded, and itself, if one of its
    own images is: the rule of SkipAtom (Antunes, Grau-Crespo & Butler, npj Comput. Mater. 8, 44 (2022)), whose code
    finds bonds by CrystalNN. By this rule a supercell has other pairs than its primitive cell. What is no neighbor in
    the graph, of the default kind one of the twelve nearest, is not bonded.

    Args:
        table: Rows of graph shards, with :data:`COLUMNS`.
        tolerance: See above.
        cutoff: Of the graphs, in angstrom. Edges that only pad short lists are longer by 1 and bond nothing.

    """
    num_atoms = list_lengths(table[ATOMIC_NUMBERS])
    elements = flat_values(table[ATOMIC_NUMBERS]).astype(np.int64) - 1
    degree = flat_values(table[DEGREE])
    distance = flat_values(table[DISTANCE])
    crystal = np.repeat(np.arange(len(num_atoms)), num_atoms)
    center = np.repeat(np.arange(len(elements)), degree)
    neighbor = flat_values(table[NEIGHBOR]) + offsets(num_atoms)[:-1][crystal][center]
    nearest = np.full(len(elements), np.inf)
    np.minimum.at(nearest, center, distance)
    bonded = (distance <= (1 + tolerance) * nearest[center]) & (distance < cutoff + 0.5)  # float32, hence the half
    one, other = center[bonded], neighbor[bonded]
    sites = np.unique(np.concatenate([one * len(elements) + other, other * len(elements) + one]))
    first, second = np.divmod(sites, max(len(elements), 1))
    pair = elements[first] * MAX_ATOMIC_NUMBER + elements[second]
    compositions = np.zeros((len(num_atoms), MAX_ATOMIC_NUMBER), np.int64)
    np.add.at(compositions, (crystal, elements), 1)
    divisor = np.gcd.reduce(compositions, axis=1, initial=0)
    return Counts(
        crystals=len(num_atoms),
        sites=np.bincount(elements, minlength=MAX_ATOMIC_NUMBER),
        crystals_of=(compositions > 0).sum(axis=0),
        pairs=np.bincount(pair, minlength=MAX_ATOMIC_NUMBER**2).reshape(MAX_ATOMIC_NUMBER, MAX_ATOMIC_NUMBER),
        compounds=different_rows((compositions // np.maximum(divisor, 1)[:, None]).astype(np.uint16)),
    )


def count_file(shard: Path, tolerance: float, cutoff: float) -> Counts:
    """Count in a file of graph shards, see :func:`count`."""
    return count(pq.read_table(shard, columns=list(COLUMNS), partitioning=None), tolerance, cutoff)


def different_rows(rows: Array) -> Array:
    """Return the different rows of a table of non-negative integers, in ascending order."""
    return rows[_groups(rows)[0]]


def _groups(rows: Array) -> tuple[Array, Array]:
    """Return the first place of each different row, in ascending order of rows, and which of them each row is."""
    text = np.ascontiguousarray(rows, dtype=">u2").view(np.dtype((np.void, 2 * rows.shape[1])))[:, 0]
    _, first, which = np.unique(text, return_index=True, return_inverse=True)
    return first, which


def environments(compounds: Array) -> tuple[Array, Array, int]:
    """Return the environments of the elements of compounds (Zhou et al., PNAS 115, E6411 (2018)).

    An element's environment in a compound is how many atoms of it there are, and the rest: of Bi in Bi2Se3
    "(2)Se3".

    Args:
        compounds: ``(C, Z)`` reduced compositions, each once.

    Returns:
        Row Z - 1 of the element ``(n,)`` and number of the environment ``(n,)`` of each element of each compound, and
        how many different environments there are.

    """
    compound, element = np.nonzero(compounds)
    rest = compounds[compound]
    number = rest[np.arange(len(rest)), element]
    rest[np.arange(len(rest)), element] = 0
    first, which = _groups(np.concatenate([number[:, None], rest], axis=1))
    return element, which, len(first)
