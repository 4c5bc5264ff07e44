"""Count the training data of SkipAtom and Atom2Vec: bonded pairs of elements, and compounds.

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
"""Columns that are read from graph shards."""

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Counts:
    """Counts over crystals.

    Attributes:
        crystals: Number of crystals.
        sites: ``(Z,)`` int64, atoms of each element.
        crystals_of: ``(Z,)`` int64, crystals that contain each element.
        pairs: ``(Z, Z)`` int64, symmetric: bonded pairs, by the elements of a site and of its neighbor.
        compounds: ``(C, Z)`` uint16, distinct reduced compositions, in ascending order.

    """

    crystals: int
    sites: Array
    crystals_of: Array
    pairs: Array
    compounds: Array

    @classmethod
    def total(cls, parts: Iterable[Counts]) -> Counts:
        """Return the sum of the counts of all parts."""
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
    """Count sites, bonded pairs and compounds of graphs.

    A neighbor is bonded if it is at most ``1 + tolerance`` times as far as the nearest, as seen from either end. For
    each site, the *distinct* bonded sites count once, however many of their images are bonded, including the site
    itself if one of its own images is bonded. This is the rule of SkipAtom (Antunes, Grau-Crespo & Butler, npj Comput.
    Mater. 8, 44 (2022)), whose code finds bonds by CrystalNN. By this rule, a supercell has other pairs than its
    primitive cell. Only neighbors in the graph, by default the twelve nearest, can be bonded.

    Args:
        table: Rows of graph shards, with :data:`COLUMNS`.
        tolerance: See above.
        cutoff: Cutoff of the graphs, in angstrom. Padding edges are longer by 1 and are not bonds.

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
    bonded = (distance <= (1 + tolerance) * nearest[center]) & (distance < cutoff + 0.5)  # 0.5: margin for float32
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
    """Count in one graph shard, see :func:`count`."""
    return count(pq.read_table(shard, columns=list(COLUMNS), partitioning=None), tolerance, cutoff)


def different_rows(rows: Array) -> Array:
    """Return the distinct rows of a table of non-negative integers, in ascending order."""
    return rows[_groups(rows)[0]]


def _groups(rows: Array) -> tuple[Array, Array]:
    """Return the first index of each distinct row, in ascending order of rows, and the class of each row."""
    text = np.ascontiguousarray(rows, dtype=">u2").view(np.dtype((np.void, 2 * rows.shape[1])))[:, 0]
    _, first, which = np.unique(text, return_index=True, return_inverse=True)
    return first, which


def environments(compounds: Array) -> tuple[Array, Array, int]:
    """Return the environments of the elements of compounds (Zhou et al., PNAS 115, E6411 (2018)).

    The environment of an element in a compound is the number of its atoms and the rest of the formula: "(2)Se3" for Bi
    in Bi2Se3.

    Args:
        compounds: ``(C, Z)`` distinct reduced compositions.

    Returns:
        For each element of each compound, its row Z - 1 ``(n,)`` and the index of its environment ``(n,)``; then the
        number of distinct environments.

    """
    compound, element = np.nonzero(compounds)
    rest = compounds[compound]
    number = rest[np.arange(len(rest)), element]
    rest[np.arange(len(rest)), element] = 0
    first, which = _groups(np.concatenate([number[:, None], rest], axis=1))
    return element, which, len(first)
