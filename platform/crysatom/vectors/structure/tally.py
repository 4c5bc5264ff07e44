"""Count contexts, bonds and volumes in graph shards: all that structure vectors learn from.

Every sum is of integers by key (:mod:`keyed`), so parts add up exactly. Its size grows with the different contexts:
about 0.5 kB per crystal.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from crysatom.names import MAX_ATOMIC_NUMBER
from crysatom.vectors.structure.contexts import (
    COLORS,
    full_contexts,
    prototype_contexts,
    reduced,
    site_classes,
    site_colors,
)
from crysatom.vectors.structure.keyed import Keyed, fixed, hashed, sum_at
from crysatom.vectors.structure.sites import COLUMNS, Sites, sites

GROUPS = 8
"""Groups of compounds for standard errors: by the hash of the reduced formula, so that crystals of one compound, which
resemble one another, stay together."""

MOST_BONDS = 12
"""Larger coordination numbers count as this."""

ELEMENTS = MAX_ATOMIC_NUMBER + 1
_SHELLS = MOST_BONDS + 1

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Tally:
    """Counts over crystals. In labels, g is the group of the crystal's compound.

    Attributes:
        crystals: Number of crystals.
        sites: ``(118,)`` int64, atoms of each element.
        crystals_of: ``(118,)`` int64, crystals that contain each element.
        contexts: By hash of the context and :func:`context_label`: number of crystals.
        bonds: By :func:`bond_label`: weight w, w ln d and w (ln d)^2, in fixed point.
        coordination: By :func:`coordination_label`: share of the element's atoms in its crystals, in fixed point.
        compounds: By hash of the compound and :func:`compound_label`, for each of its elements: number of crystals,
            and the sums of ln(V/n) and of its square over them, in fixed point.

    """

    crystals: int
    sites: Array
    crystals_of: Array
    contexts: Keyed
    bonds: Keyed
    coordination: Keyed
    compounds: Keyed

    @classmethod
    def empty(cls) -> Tally:
        """Return the counts over no crystal."""
        none = np.zeros(0, np.int64)
        tables = {name: Keyed.of(0, none, np.zeros((0, columns), np.int64)) for name, columns in _TABLES.items()}
        zeros = np.zeros(MAX_ATOMIC_NUMBER, np.int64)
        return cls(crystals=0, sites=zeros, crystals_of=zeros, **tables)

    @classmethod
    def total(cls, parts: Iterable[Tally]) -> Tally:
        """Return the sum of the counts of all parts; it is merged when the new parts outweigh it."""
        held, new = cls.empty(), list[Tally]()
        for part in parts:
            new.append(part)
            if sum(p.contexts.nbytes for p in new) > held.contexts.nbytes:
                held, new = cls._sum([held, *new]), []
        return cls._sum([held, *new]) if new else held

    @classmethod
    def _sum(cls, parts: list[Tally]) -> Tally:
        return cls(
            crystals=sum(p.crystals for p in parts),
            sites=np.sum([p.sites for p in parts], axis=0),
            crystals_of=np.sum([p.crystals_of for p in parts], axis=0),
            **{name: Keyed.total(getattr(p, name) for p in parts) for name in _TABLES},
        )

    def without(self, group: int) -> Tally:
        """Return the counts without one group of compounds; those by element, of which nothing is learned, stay."""
        tables = {name: getattr(self, name) for name in _TABLES}
        return Tally(
            crystals=self.crystals,
            sites=self.sites,
            crystals_of=self.crystals_of,
            **{name: table.at(table.labels % GROUPS != group) for name, table in tables.items()},
        )

    def to_bytes(self) -> bytes:
        """Return the counts as bytes, for another process."""
        arrays = {name: getattr(self, name) for name in ("crystals", "sites", "crystals_of")}
        for name in _TABLES:
            arrays |= {f"{name}.{key}": array for key, array in asdict(getattr(self, name)).items()}
        file = io.BytesIO()
        np.savez(file, **arrays, allow_pickle=False)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Tally:
        """Return the counts that :meth:`to_bytes` wrote."""
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            tables = {name: Keyed(*(arrays[f"{name}.{f.name}"] for f in fields(Keyed))) for name in _TABLES}
            return cls(
                crystals=int(arrays["crystals"]), sites=arrays["sites"], crystals_of=arrays["crystals_of"], **tables
            )


_TABLES = {"contexts": 1, "bonds": 3, "coordination": 1, "compounds": 3}
"""Keyed tables, and their numbers of columns."""


def context_label(kind: Array | int, element: Array, group: Array) -> Array:
    """Return the labels of contexts; ``kind`` counts :data:`~crysatom.vectors.structure.contexts.KINDS`."""
    return np.asarray((kind * ELEMENTS + element) * GROUPS + group)


def bond_label(elements: tuple[Array, Array], bonds: tuple[Array, Array], group: Array) -> Array:
    """Return the labels of bonds, by the elements and coordination numbers of center and neighbor."""
    pair = elements[0] * ELEMENTS + elements[1]
    return np.asarray(((pair * _SHELLS + bonds[0]) * _SHELLS + bonds[1]) * GROUPS + group)


def coordination_label(element: Array, bonds: Array, group: Array) -> Array:
    """Return the labels of sites, by element and coordination number."""
    return np.asarray((element * _SHELLS + bonds) * GROUPS + group)


def compound_label(element: Array, number: Array, group: Array) -> Array:
    """Return the labels of an element in a compound, by the number of its atoms in the reduced formula."""
    return np.asarray((element * 2**16 + number) * GROUPS + group)


def tally(table: pa.Table | pa.RecordBatch, cell_volumes: Array, tolerance: float, cutoff: float) -> Tally:
    """Count in rows of graph shards, without crystals of unknown volume.

    Args:
        table: B rows of graph shards, with the columns of :mod:`sites`.
        cell_volumes: ``(B,)`` volumes of the cells, in cubic angstrom; NaN: leave the crystal out.
        tolerance: A first shell ends at 1 + tolerance times the nearest distance.
        cutoff: Cutoff of the graphs, in angstrom.

    """
    known = np.isfinite(cell_volumes)
    table, cell_volumes = table.filter(pa.array(known)), cell_volumes[known]
    of = sites(table, cell_volumes, tolerance, cutoff)
    pairs, pair, number = np.unique(of.crystal * ELEMENTS + of.element, return_inverse=True, return_counts=True)
    crystal, element = np.divmod(pairs, ELEMENTS)
    share = reduced(number, crystal)
    compound = sum_at(hashed(12, element, share), crystal, of.num_crystals)
    group = (compound % np.uint64(GROUPS)).astype(np.int64)
    return Tally(
        crystals=of.num_crystals,
        sites=np.bincount(of.element, minlength=ELEMENTS)[1:],
        crystals_of=np.bincount(element, minlength=ELEMENTS)[1:],
        contexts=_contexts(of, crystal, element, group),
        bonds=_bonds(of, group),
        coordination=_coordination(of, group, 1 / number[pair]),
        compounds=_compounds(of, compound[crystal], compound_label(element, share, group[crystal]), crystal),
    )


def tally_file(shard: Path, cell_volumes: Array, tolerance: float, cutoff: float) -> Tally:
    """Count in one graph shard, row group by row group, see :func:`tally`."""
    return Tally.total(_tallies(shard, cell_volumes, tolerance, cutoff))


def _tallies(shard: Path, cell_volumes: Array, tolerance: float, cutoff: float) -> Iterator[Tally]:
    start = 0
    with pq.ParquetFile(shard) as file:
        for number in range(file.num_row_groups):
            table = file.read_row_group(number, columns=list(COLUMNS))
            yield tally(table, cell_volumes[start : start + len(table)], tolerance, cutoff)
            start += len(table)


def _contexts(of: Sites, crystal: Array, element: Array, group: Array) -> Keyed:
    """Count the contexts of ``(P,)`` pairs of crystal and element, which ascend."""
    hashes, labels = [], []
    for color, kind in enumerate(COLORS):
        classes = site_classes(of, site_colors(of, kind))
        pair = np.searchsorted(crystal * ELEMENTS + element, classes.crystal * ELEMENTS + classes.element)
        for number, contexts in enumerate((full_contexts, prototype_contexts)):
            hashes.append(contexts(classes, pair, crystal, of.num_crystals))
            labels.append(context_label(2 * color + number, element, group[crystal]))
    ones = np.ones((sum(map(len, labels)), 1), np.int64)
    return Keyed.of(np.concatenate(hashes), np.concatenate(labels), ones)


def _bonds(of: Sites, group: Array) -> Keyed:
    """Sum over bonds: w = 1 / (bonds of the center x atoms of the crystal), so that a crystal weighs at most 1."""
    crystal = of.crystal[of.center]
    bonds = np.minimum(of.coordination, MOST_BONDS)
    ends = of.center, of.neighbor
    weight = 1 / (of.coordination[of.center] * of.atoms[crystal])
    length = np.log(of.distance)
    label = bond_label((of.element[ends[0]], of.element[ends[1]]), (bonds[ends[0]], bonds[ends[1]]), group[crystal])
    moments = np.stack([weight, weight * length, weight * length**2], axis=1)
    return _by_crystal(crystal, label, moments)


def _coordination(of: Sites, group: Array, weight: Array) -> Keyed:
    """Sum over sites: w = 1 / (sites of the element in the crystal)."""
    bonds = np.minimum(of.coordination, MOST_BONDS)
    return _by_crystal(of.crystal, coordination_label(of.element, bonds, group[of.crystal]), weight[:, None])


def _by_crystal(crystal: Array, label: Array, values: Array) -> Keyed:
    """Sum real values by label. Sums within a crystal are rounded, so a supercell gives those of its primitive cell."""
    most = int(label.max(initial=0)) + 1
    keys, which = np.unique(crystal * most + label, return_inverse=True)
    sums = np.stack([np.bincount(which, column, minlength=len(keys)) for column in values.T], axis=1)
    return Keyed.of(0, keys % most, fixed(sums))


def _compounds(of: Sites, compound: Array, label: Array, crystal: Array) -> Keyed:
    log = np.log(of.volume)[crystal]
    return Keyed.of(compound, label, np.stack([np.ones_like(label), fixed(log), fixed(log**2)], axis=1))
