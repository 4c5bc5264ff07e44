"""Crystal graphs in flat arrays: one set of arrays for many crystals, no Python object per crystal."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class GraphArrays:
    """Periodic neighbor graphs of B crystals with N atoms and E directed edges in all.

    Atoms are in crystal order. Edges are sorted by the atom they arrive at ("center"), so the edges of
    atom i are ``edge_ptr[i]:edge_ptr[i + 1]`` and those of crystal b are contiguous.

    Attributes:
        material_ids: ``(B,)`` object array of str.
        material_keys: ``(B,)`` int64, stable hash of the id; seeds the views of the crystal.
        atom_ptr: ``(B + 1,)`` int64, first atom of each crystal.
        edge_ptr: ``(N + 1,)`` int64, first edge of each atom.
        atomic_numbers: ``(N,)`` uint8.
        neighbor: ``(E,)`` uint16, index *within its crystal* of the atom the edge comes from.
        distance: ``(E,)`` float32, angstrom.
        image: ``(E, 3)`` int8, or None if not read: ``(frac[neighbor] + image - frac[center]) @ lattice``
            is the vector of the edge, with the coordinates of the crystal table.
        vector: ``(E, 3)`` float32, that vector in angstrom, or None if the graphs have none.
        potential: Lattice sums of each crystal's pairs of atoms, atoms x atoms row by row, crystal after crystal,
            float32, or None if the graphs have none.

    """

    material_ids: Array
    material_keys: Array
    atom_ptr: Array
    edge_ptr: Array
    atomic_numbers: Array
    neighbor: Array
    distance: Array
    image: Array | None = None
    vector: Array | None = None
    potential: Array | None = None

    @property
    def num_crystals(self) -> int:
        """Number of crystals, B."""
        return len(self.atom_ptr) - 1

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays that a training step reads."""
        arrays = (self.material_keys, self.atom_ptr, self.edge_ptr, self.atomic_numbers, self.neighbor, self.distance)
        return sum(a.nbytes for a in arrays)


def material_keys(material_ids: Iterable[str]) -> Array:
    """Return ``(B,)`` int64 keys: the first eight bytes of the SHA-256 of each id, big-endian."""
    heads = b"".join(hashlib.sha256(i.encode()).digest()[:8] for i in material_ids)
    return np.frombuffer(heads, dtype=">i8").astype(np.int64)


def offsets(counts: Array) -> Array:
    """Return the ``(n + 1,)`` int64 running sum of ``(n,)`` counts, from zero."""
    result = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=result[1:])
    return result
